"""Frozen, strict values, and reading them from files that people write.

All errors in a file are reported at once, each with its place and the nearest valid name.
"""

import json
import pathlib
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import pydantic
import pydantic_core
import yaml

from edgekit.errors import EdgekitError, nearest, suggest


class Value(pydantic.BaseModel, frozen=True, extra="forbid"):
    """An immutable value. Unknown keys are errors."""


class UserConfig(Value, allow_inf_nan=False):
    """A value that a person writes in a file: no infinity, no NaN, no boolean for a number."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any) -> Any:
        """Refuse booleans, which YAML reads from a bare yes, no, on or off.

        pydantic would accept them as the numbers 1 and 0.
        """
        if isinstance(value, bool):
            raise ValueError(
                "expected a string or a number, got a boolean "
                "(YAML reads yes, no, on, off, true and false as one; quote a name)"
            )
        return value


class _Loader(yaml.SafeLoader):
    """Load plain data, and refuse duplicate keys: YAML itself silently keeps the last one."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key.value!r}",
                    problem_mark=key.start_mark,
                )
            seen.add(str(key.value))
        return node


V = TypeVar("V", bound=Value)
#: pydantic's error type for a value of the wrong type -> the type that was expected.
_EXPECTED: typing.Mapping[str, str] = {
    "tuple_type": "a list",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}
#: Longest name of a file or folder that contains a user's name, in bytes. File systems allow
#: 255; a prefix and a suffix are added.
_LONGEST_NAME = 150


def strict_json(text: str) -> Any:
    """Parse JSON without the NaN and Infinity that Python's parser accepts in addition.

    Raises:
        ValueError: The text is not valid JSON, or is nested too deeply.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not valid JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse(kind: type[V], data: Any, where: str, error: type[EdgekitError]) -> V:
    """Build a ``kind`` from plain data.

    Args:
        kind: The type of the value.
        data: Nested dicts, lists, strings and numbers.
        where: The file or object that the data come from, for the error message.
        error: Raised with one line per error in the data.
    """
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as problem:
        lines = [_describe(kind, row) for row in problem.errors()]
        distinct = list(dict.fromkeys(lines))
        listing = "\n  ".join(distinct)
        count = "1 error" if len(distinct) == 1 else f"{len(distinct)} errors"
        raise error(
            f"{where} has {count}:\n  {listing}",
            fix="correct the lines listed above",
        ) from None


def read_yaml(path: pathlib.Path, error: type[EdgekitError]) -> Any:
    """Read a YAML mapping into plain data, or raise ``error`` with the line and column."""
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(
            f"Cannot read {path}: {problem.strerror or problem}."
        ) from problem
    except UnicodeDecodeError as problem:
        raise error(
            f"{path} is not a text file (UTF-8).",
            fix="give the path of a YAML file",
        ) from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = (
            f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        )
        reason = getattr(problem, "problem", None) or "it cannot be parsed"
        raise error(
            f"{path}{place}: invalid YAML: {reason}.",
            fix="check indentation and quotes there",
        ) from problem
    if not isinstance(data, dict):
        raise error(
            f"{path}: expected a mapping of keys to values, got {type(data).__name__}.",
            fix="see README.md for a file to start from",
        )
    return data


def load_yaml(text: str) -> Any:
    """Parse YAML into plain data.

    Raises:
        yaml.YAMLError: The text is not valid YAML, or a key is duplicated.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError as problem:  # thousands of brackets
        raise yaml.MarkedYAMLError(
            problem="it is nested too deeply"
        ) from problem
    except (ValueError, LookupError, AttributeError) as problem:
        # PyYAML lets these through for 2020-13-45 and !!bool x.
        raise yaml.MarkedYAMLError(problem=str(problem)) from problem


def check_folder_name(name: str) -> str:
    """Return ``name`` if a folder can have it, else raise ValueError."""
    is_reserved = name in ("", ".", "..")
    has_separator = bool(set(name) & set("/\\"))
    is_too_long = len(name.encode()) > _LONGEST_NAME
    if is_reserved or has_separator or is_too_long or not name.isprintable():
        raise ValueError(
            f"{name[:60]!r} is not a valid folder name; use letters, digits, - and _"
        )
    return name


def _describe(kind: type[Value], row: pydantic_core.ErrorDetails) -> str:
    """One line per error of pydantic: the place, what is wrong, and what was read."""
    place = [part for part in row["loc"] if not _is_internal(part)]
    where = ".".join(str(part) for part in place) or "(top)"
    if row["type"] == "extra_forbidden":
        keys = _keys_at(kind, place[:-1])
        return f"{where}: unknown key. {suggest(str(place[-1]), keys)}".rstrip()
    if row["type"] == "missing":
        return f"{where}: required key is missing"
    if row["type"] == "value_error":
        reason = row["msg"].removeprefix("Value error, ")
        return f"{where}: {reason}" if place else reason
    value = row.get("input")
    if row["type"] == "literal_error" and isinstance(value, str):
        return f"{where}: {_describe_literal(value, row)}"
    expected = _EXPECTED.get(row["type"])
    reason = (
        f"input should be {expected}" if expected else _uncapitalize(row["msg"])
    )
    is_short = isinstance(value, str | int | float | bool | None)
    return f"{where}: {reason}" + (f" (got: {value!r})" if is_short else "")


def _describe_literal(value: str, row: pydantic_core.ErrorDetails) -> str:
    """Describe a word that a Literal does not allow."""
    expected = str(row.get("ctx", {}).get("expected", ""))
    words = [
        word.strip(" '") for word in expected.replace(" or ", ", ").split(",")
    ]
    closest = nearest(value, words)
    hint = f" Did you mean {closest!r}?" if closest else ""
    return f"expected one of {', '.join(words)}; got {value!r}.{hint}"


def _uncapitalize(text: str) -> str:
    return text[0].lower() + text[1:]


def _is_internal(part: int | str) -> bool:
    """True for the names that pydantic adds for a branch of a union."""
    return isinstance(part, str) and (
        part.startswith(("function-", "tagged-union", "literal["))
        or "[" in part
    )


def _keys_at(kind: type[Value], place: list[int | str]) -> list[str]:
    """The valid keys at ``place`` inside a value of type ``kind``."""
    models: list[type[Value]] = [kind]
    for part in place:
        inner: list[type[Value]] = []
        for model in models:
            if isinstance(part, int):
                inner.append(model)
            elif part in model.model_fields:
                inner.extend(_models(model.model_fields[part].annotation))
        models = inner or models
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> Iterator[type[Value]]:
    """Yield every Value type named in an annotation, however deep."""
    if isinstance(annotation, type):
        if issubclass(annotation, Value):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _models(inner)
