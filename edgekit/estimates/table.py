"""Latency tables: the times of files on a device, and the error of estimates based on them."""

import json
import os
import pathlib
import statistics
from typing import Any

import platformdirs
import pydantic

from edgekit.errors import EstimateError, unknown
from edgekit.target import Runtime
from edgekit.value import Value, check_folder_name, parse

#: The version of the schema that is written now.
SCHEMA = 2
_FIX = "give the path of a table that 'edgekit hosts record' wrote"


class Cost(Value, allow_inf_nan=False):
    """Everything that determines how long one operator runs."""

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
        """Operators with the same key share coefficients."""
        return self.kind, self.dtype


class Row(Value, allow_inf_nan=False):
    """The time of one file: a network up to one of its tensors."""

    network: str
    scheme: str
    #: Bytes of its inputs and outputs, which are copied in each call.
    ends: int = pydantic.Field(ge=0)
    operators: tuple[Cost, ...]
    #: Nanoseconds of one call: the median over rounds, and its 95 % interval.
    ns: float = pydantic.Field(gt=0)
    low: float = pydantic.Field(gt=0)
    high: float = pydantic.Field(gt=0)
    #: Nanoseconds more than the previous row (median over rounds of the paired differences);
    #: None for a network's first row.
    added: float | None = None
    #: The width of that difference's 95 % interval.
    added_spread: float = pydantic.Field(0, ge=0)


class HeldOut(Value, allow_inf_nan=False):
    """A network that was not used for the fit: its measured and its estimated time."""

    network: str
    scheme: str
    ns: float = pydantic.Field(gt=0)
    low: float = pydantic.Field(gt=0)
    high: float = pydantic.Field(gt=0)
    estimated: float = pydantic.Field(gt=0)
    #: Number of operators whose kinds are not in the table; they count as 0 ns.
    unknown: int = pydantic.Field(0, ge=0)
    #: The features that it was estimated from.
    ends: int = pydantic.Field(ge=0)
    operators: tuple[Cost, ...]

    @property
    def error(self) -> float:
        """The relative error of the estimate, as a share of the measured time."""
        return abs(self.estimated - self.ns) / self.ns


class Table(Value, allow_inf_nan=False):
    """The table of one device, as ``edgekit hosts record`` writes it."""

    schema_version: int = pydantic.Field(
        SCHEMA, alias="schema", ge=SCHEMA, le=SCHEMA
    )
    name: str
    runtime: Runtime
    #: The host's name, and what it reported of itself.
    host: str
    where: str
    machine: str
    system: str = ""
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    #: ISO 8601.
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
    def provenance(self) -> str:
        """Where the table comes from and how large its errors are, in one sentence."""
        origin = f"estimate, from {self.name} recorded on {self.recorded[:10]} at {self.host}"
        if not self.held_out:
            return f"{origin}; its error was not measured"
        errors = [row.error for row in self.held_out]
        return (
            f"{origin}; median error on {len(errors)} held-out files: "
            f"{100 * statistics.median(errors):.0f} %, worst {100 * max(errors):.0f} %"
        )


def folder() -> pathlib.Path:
    """Return ``$EDGEKIT_CONFIG/latency``, else ``latency`` in the user's configuration folder."""
    configured = os.environ.get("EDGEKIT_CONFIG")
    if configured:
        return pathlib.Path(configured) / "latency"
    return platformdirs.user_config_path("edgekit", appauthor=False) / "latency"


def names() -> list[str]:
    """Return the names of the tables that were recorded here."""
    return sorted(path.stem for path in folder().glob("*.json"))


def find(name: str) -> pathlib.Path:
    """Return the file of a recorded table, by its name or its path.

    Raises:
        EstimateError: There is none; the message contains the nearest name.
    """
    if name.endswith(".json") or "/" in name or "\\" in name:
        path = pathlib.Path(name)
        if path.is_file():
            return path
        raise EstimateError(f"No such file: {name}", fix=_FIX)
    if name in names():
        return folder() / f"{name}.json"
    raise EstimateError(
        unknown("latency table", name, names()),
        fix="record one on the device: edgekit hosts record HOST; "
        "a path to a table works too",
    )


def load(path: pathlib.Path) -> Table:
    """Read a table, or raise one EstimateError that lists all errors in it."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise EstimateError(
            f"Cannot read {path}: {problem.strerror or problem}."
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise EstimateError(
            f"{path} is not valid JSON: {problem}.", fix=_FIX
        ) from problem
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise EstimateError(
            f"{path}: expected a table, got a JSON {kind}.", fix=_FIX
        )
    return parse(Table, data, str(path), EstimateError)
