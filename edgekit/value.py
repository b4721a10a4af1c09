"""Frozen, strict values, and how the mistakes in a file are told: all at once, each with
the nearest right word.
"""

import difflib
import json
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


class Written(Value, allow_inf_nan=False):
    """A value that a person writes in a file.

    Infinity is no limit, and ``yes`` is no number.
    """

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, given: Any) -> Any:
        """YAML reads a bare yes, no, on or off as true or false, and pydantic would read
        those as 1 and 0.
        """
        if isinstance(given, bool):
            raise ValueError(
                "there is no yes or no here (a bare yes, no, on, off, true or false is one; quote it if it is a name)"
            )
        return given


class _Loader(yaml.SafeLoader):
    """Plain data only, and no key twice: YAML itself would take the last one without a
    word.
    """

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is written twice",
                    problem_mark=key.start_mark,
                )
            seen.add(str(key.value))
        return node


V = TypeVar("V", bound=Value)
#: What pydantic calls a thing of the wrong kind -> what a person calls the right one.
_KINDS: typing.Mapping[str, str] = {
    "tuple_type": "a list",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}
#: The longest name of a file or a folder that is made of a name (systems take 255, and
#: something is put before and behind).
_LONGEST_NAME = 150


def strict_json(text: str) -> Any:
    """JSON without the NaN and Infinity that Python reads beside it.

    Raises ValueError, also for what is nested too deep.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse(kind: type[V], data: Any, where: str, error: type[EdgekitError]) -> V:
    """Make a ``kind`` from plain data, or raise one ``error`` that lists every mistake and
    its place.
    """
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as problem:
        lines = [_line(kind, row) for row in problem.errors()]
        listing = "\n  ".join(dict.fromkeys(lines))
        raise error(
            f"{where} has {_count(lines)}:\n  {listing}",
            fix="correct the lines named above",
        ) from None


def read_yaml(path: pathlib.Path, error: type[EdgekitError]) -> Any:
    """Read a YAML file into plain data, or raise ``error`` with the line where the syntax
    breaks.
    """
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except UnicodeDecodeError as problem:
        raise error(
            f"{path} is not a text file (UTF-8).", fix="name a YAML file"
        ) from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(problem, "problem", None) or "it cannot be parsed"
        raise error(
            f"{path}{place}: not valid YAML: {what}.",
            fix="check indentation and quotes there",
        ) from problem
    if not isinstance(data, dict):
        raise error(
            f"{path} holds {type(data).__name__}, not a mapping of keys to values.",
            fix="see README.md for a file to start from",
        )
    return data


def load_yaml(text: str) -> Any:
    """Plain data from YAML; yaml.YAMLError for whatever cannot be read, a key that is
    written twice among it.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except (
        ValueError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as problem:  # PyYAML's own, for 2020-13-45, !!bool x and 5,000 brackets
        said = (
            "it is nested too deep" if isinstance(problem, RecursionError) else str(problem)
        )
        raise yaml.MarkedYAMLError(problem=said) from problem


def folder_name(name: str) -> str:
    """The name itself where a folder can be called so, else ValueError."""
    if (
        name in ("", ".", "..")
        or not name.isprintable()
        or set(name) & set("/\\")
        or len(name.encode()) > _LONGEST_NAME
    ):
        raise ValueError(
            f"a folder cannot be called {name[:60]!r}; take letters, digits, - and _"
        )
    return name


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
        return f"{where}: no such key" + (
            f"; {nearest(str(place[-1]), known)}" if known else ""
        )
    if row["type"] == "missing":
        return f"{where}: this key is missing"
    if row["type"] == "value_error":
        what = row["msg"].removeprefix("Value error, ")
        return f"{where}: {what}" if place else what
    given = row.get("input")
    said = (
        f" (given: {given!r})" if isinstance(given, str | int | float | bool | None) else ""
    )
    if row["type"] in _KINDS:
        return f"{where}: input should be {_KINDS[row['type']]}{said}"
    if row["type"] == "literal_error" and isinstance(given, str):
        expected = str(row.get("ctx", {}).get("expected", ""))
        words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
        return (
            f"{where}: {given!r} is not one of {', '.join(words)}; {nearest(given, words)}"
        )
    return f"{where}: {row['msg'][0].lower()}{row['msg'][1:]}{said}"


def _is_internal(part: int | str) -> bool:
    """True for the names that pydantic adds for a branch of a union."""
    return isinstance(part, str) and (
        part.startswith(("function-", "tagged-union", "literal[")) or "[" in part
    )


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
