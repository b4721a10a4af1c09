"""Frozen, strict values, and how the mistakes in a file are told: all at once, each with the nearest right word."""

import difflib
import pathlib
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import pydantic
import pydantic_core
import yaml

from edgekit.errors import EdgekitError


class Value(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A value that does not change after it is made. Unknown keys are errors."""


V = TypeVar("V", bound=Value)


def parse(kind: type[V], data: Any, where: str, error: type[EdgekitError]) -> V:
    """Make a ``kind`` from plain data, or raise one ``error`` that lists every mistake and its place."""
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as problem:
        lines = [_line(kind, row) for row in problem.errors()]
        listing = "\n  ".join(dict.fromkeys(lines))
        raise error(f"{where} has {_count(lines)}:\n  {listing}", fix="correct the lines named above") from None


def read_yaml(path: pathlib.Path, error: type[EdgekitError]) -> Any:
    """Read a YAML file into plain data, or raise ``error`` with the line where the syntax breaks."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path} is not a text file (UTF-8).", fix="name a YAML file") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(problem, "problem", None) or "it cannot be parsed"
        raise error(f"{path}{place}: not valid YAML: {what}.", fix="check indentation and quotes there") from problem
    if not isinstance(data, dict):
        raise error(f"{path} holds {type(data).__name__}, not a mapping of keys to values.", fix="see README.md for a file to start from")
    return data


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """The hint that follows an unknown ``word``: the nearest known one, or all of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(words)}"


def _count(lines: list[str]) -> str:
    number = len(dict.fromkeys(lines))
    return "one mistake" if number == 1 else f"{number} mistakes"


def _line(kind: type[Value], row: pydantic_core.ErrorDetails) -> str:
    place = [part for part in row["loc"] if not _is_internal(part)]
    where = ".".join(str(part) for part in place) or "(top)"
    if row["type"] == "extra_forbidden":
        known = _keys_at(kind, place[:-1])
        return f"{where}: no such key" + (f"; {nearest(str(place[-1]), known)}" if known else "")
    if row["type"] == "missing":
        return f"{where}: this key is missing"
    if row["type"] == "value_error":
        return f"{where}: {row['msg'].removeprefix('Value error, ')}"
    given = row.get("input")
    said = f" (given: {given!r})" if isinstance(given, str | int | float | bool | None) else ""
    if row["type"] == "literal_error" and isinstance(given, str):
        expected = str(row.get("ctx", {}).get("expected", ""))
        words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
        return f"{where}: {given!r} is not one of {', '.join(words)}; {nearest(given, words)}"
    return f"{where}: {row['msg'][0].lower()}{row['msg'][1:]}{said}"


def _is_internal(part: int | str) -> bool:
    """True for the names that pydantic adds for a branch of a union."""
    return isinstance(part, str) and (part.startswith(("function-", "tagged-union", "literal[")) or "[" in part)


def _keys_at(kind: type[Value], place: list[int | str]) -> list[str]:
    """The keys that are known at ``place`` inside a value of type ``kind``."""
    found: list[type[Value]] = [kind]
    for part in place:
        step: list[type[Value]] = []
        for model in found:
            if isinstance(part, int):
                step.append(model)
            elif part in model.model_fields:
                step.extend(_models(model.model_fields[part].annotation))
        found = step or found
    return sorted({name for model in found for name in model.model_fields})


def _models(annotation: Any) -> Iterator[type[Value]]:
    """Every Value type named in an annotation, however deep."""
    if isinstance(annotation, type):
        if issubclass(annotation, Value):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _models(inner)
