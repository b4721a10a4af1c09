"""What a device's operators cost: times that were taken there on files cut from networks,
and the error of what follows from them.
"""

import json
import os
import pathlib
from typing import Any

import platformdirs
import pydantic

from edgekit.errors import EstimateError, unknown
from edgekit.target import Runtime
from edgekit.value import Value, check_folder_name, parse

#: The schema of the files that are written now.
SCHEMA = 2


class Cost(Value, allow_inf_nan=False):
    """All that decides how long one operator runs, and in a user's file where it comes
    from.
    """

    #: The operator and what it computes in: ``QLinearConv pointwise``, ``uint8``.
    kind: str = pydantic.Field(min_length=1)
    dtype: str = pydantic.Field(min_length=1)
    macs: int = pydantic.Field(ge=0)
    #: Bytes: activations in, activations out, stored weights.
    read: int = pydantic.Field(ge=0)
    written: int = pydantic.Field(ge=0)
    weights: int = pydantic.Field(ge=0)

    @property
    def key(self) -> tuple[str, str]:
        """What is fitted as one."""
        return self.kind, self.dtype


class Row(Value, allow_inf_nan=False):
    """One file that was timed: a network up to one of its tensors."""

    network: str
    scheme: str
    #: Bytes of its inputs and outputs, which are copied at each call.
    ends: int = pydantic.Field(ge=0)
    operators: tuple[Cost, ...]
    #: Nanoseconds of one call: the median over rounds, and its interval.
    ns: float = pydantic.Field(gt=0)
    low: float = pydantic.Field(gt=0)
    high: float = pydantic.Field(gt=0)
    #: How much longer than the row before it (the median over rounds of the difference in
    #: each); None for a network's first row.
    added: float | None = None
    #: The length of that difference's interval.
    added_spread: float = pydantic.Field(0, ge=0)


class HeldOut(Value, allow_inf_nan=False):
    """A whole network that nothing was fitted to: what it took, and what the table said."""

    network: str
    scheme: str
    ns: float = pydantic.Field(gt=0)
    low: float = pydantic.Field(gt=0)
    high: float = pydantic.Field(gt=0)
    estimated: float = pydantic.Field(gt=0)
    #: Operators of kinds that the table does not know; they count nothing.
    unknown: int = pydantic.Field(0, ge=0)
    #: What it was estimated from.
    ends: int = pydantic.Field(ge=0)
    operators: tuple[Cost, ...]

    @property
    def error(self) -> float:
        """How far the estimate is off, as a share of what was measured."""
        return abs(self.estimated - self.ns) / self.ns


class Table(Value, allow_inf_nan=False):
    """One device's table, as ``edgekit hosts record`` writes it."""

    schema_version: int = pydantic.Field(SCHEMA, alias="schema", ge=SCHEMA, le=SCHEMA)
    name: str
    runtime: Runtime
    #: The host's name, what it said of itself, and when: ISO 8601.
    host: str
    where: str
    machine: str
    system: str = ""
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    recorded: str
    edgekit: str
    rounds: int = pydantic.Field(ge=1)
    rows: tuple[Row, ...]
    held_out: tuple[HeldOut, ...] = ()

    @pydantic.field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        return check_folder_name(name)

    @pydantic.model_validator(mode="after")
    def _has_rows(self) -> "Table":
        if not any(row.operators for row in self.rows):
            raise ValueError("rows: no operator was timed")
        return self

    @property
    def told(self) -> str:
        """Where the numbers come from and what they are worth, in one sentence."""
        origin = (
            f"estimate, from {self.name} recorded on {self.recorded[:10]} at {self.host}"
        )
        if not self.held_out:
            return f"{origin}; its error was not measured"
        errors = sorted(row.error for row in self.held_out)
        middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2
        return f"{origin}; median error on {len(errors)} held-out files: {100 * middle:.0f} %, worst {100 * errors[-1]:.0f} %"


def folder() -> pathlib.Path:
    """``$EDGEKIT_CONFIG``/latency, else ``latency`` in edgekit's folder among the user's
    settings.
    """
    given = os.environ.get("EDGEKIT_CONFIG")
    root = (
        pathlib.Path(given)
        if given
        else pathlib.Path(platformdirs.user_config_dir("edgekit", appauthor=False))
    )
    return root / "latency"


def names() -> list[str]:
    """The tables that were recorded here."""
    return sorted(path.stem for path in folder().glob("*.json"))


def find(name: str) -> pathlib.Path:
    """The file of a recorded table, by its name or its path."""
    if name.endswith(".json") or "/" in name or "\\" in name:
        path = pathlib.Path(name)
        if path.is_file():
            return path
        raise EstimateError(
            f"No such file: {name}",
            fix="name a table that 'edgekit hosts record' wrote",
        )
    if name in names():
        return folder() / f"{name}.json"
    raise EstimateError(
        unknown("latency table", name, names()),
        fix="record one on the device: edgekit hosts record HOST; a path to a table works too",
    )


def load(path: pathlib.Path) -> Table:
    """Read a table, or raise one EstimateError that lists everything wrong with it."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise EstimateError(
            f"{path} cannot be read: {problem.strerror or problem}."
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise EstimateError(
            f"{path} is no JSON file: {problem}.",
            fix="name a table that 'edgekit hosts record' wrote",
        ) from problem
    if not isinstance(data, dict):
        raise EstimateError(
            f"{path} holds {type(data).__name__}, not a table.",
            fix="name a table that 'edgekit hosts record' wrote",
        )
    return parse(Table, data, str(path), EstimateError)
