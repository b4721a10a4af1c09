"""Estimate a file's latency on a device that is not available here.

From the file's operators, and a table that was recorded on the device.
"""

import dataclasses
import functools
import math
import pathlib
from collections import Counter
from collections.abc import Sequence

import numpy
import scipy.stats

from edgekit.artifact import Artifact, FormatName
from edgekit.errors import EstimateError
from edgekit.estimates import fitting, operators
from edgekit.estimates import table as latency_table
from edgekit.estimates.operators import Operator
from edgekit.estimates.table import Table
from edgekit.measurement import Measurement
from edgekit.target import RUNTIMES

NS_IN_MS = 1e6
#: Fewer held-out errors do not support an interval.
_MIN_HELD_OUT = 3


@dataclasses.dataclass(frozen=True)
class Line:
    """The estimated time of one operator, in ms and as a share of the total.

    ``ms`` is None if the table has no operator of its kind.
    """

    operator: Operator
    ms: float | None
    share: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimated latency of one call, in ms.

    ``low`` and ``high`` are a 95 % prediction interval; None if too few networks were held out.
    """

    ms: float
    low: float | None
    high: float | None
    #: The call itself: copying inputs and outputs.
    call_ms: float
    lines: tuple[Line, ...]
    #: Where the table comes from, and its error.
    provenance: str

    @property
    def unknown(self) -> dict[str, int]:
        """The number of operators of each kind that the table does not contain.

        If there are any, the estimate is a lower bound.
        """
        costs = [line.operator.cost for line in self.lines if line.ms is None]
        return dict(Counter(f"{cost.kind} ({cost.dtype})" for cost in costs))

    def measurement(self) -> Measurement:
        """Return the estimate as a row of a report."""
        how = self.provenance
        if self.unknown:
            count = sum(self.unknown.values())
            kinds = ", ".join(self.unknown)
            how += f"; a lower bound, {count} operators are not in the table: {kinds}"
        return Measurement(
            name="latency_estimate_ms",
            value=self.ms,
            low=self.low,
            high=self.high,
            unit="ms",
            where=self.provenance,
            how=how,
            detail={"unknown": self.unknown},
        )


def of_file(path: pathlib.Path, format: FormatName, table: Table) -> Estimate:
    """Estimate the latency of one file.

    Raises:
        EstimateError: The table was recorded with another runtime.
    """
    _require_format(format, table)
    return _estimate(operators.read_all([path], format), table)


def of_artifact(artifact: Artifact, name: str) -> Estimate:
    """Estimate the latency of all parts of an artifact, run one after another.

    Args:
        artifact: ONNX or TFLite files.
        name: The name or the path of a table.

    Raises:
        EstimateError: There is no such table, or it was recorded with another runtime.
    """
    table = _load_table(latency_table.find(name))
    _require_format(artifact.format, table)
    paths = [artifact.path(part) for part in artifact.parts]
    return _estimate(operators.read_all(paths, artifact.format), table)


@functools.cache
def _load_table(path: pathlib.Path) -> Table:
    return latency_table.load(path)


def _require_format(format: FormatName, table: Table) -> None:
    if RUNTIMES.get(format) == table.runtime:
        return
    fix = "use an .onnx or .tflite file"
    if format in ("onnx", "tflite"):
        fix = f"edgekit hosts record {table.host} --format {format}"
    raise EstimateError(
        f"The table {table.name} was recorded with {table.runtime}, "
        f"which does not run {format} files.",
        fix=fix,
    )


def _estimate(parts: Sequence[Sequence[Operator]], table: Table) -> Estimate:
    fit = fitting.fit(table.rows)
    call_ns = 0.0
    for part in parts:
        io_bytes = operators.io_bytes([operator.cost for operator in part])
        call_ns += fit.call_ns(io_bytes)
    call_ms = call_ns / NS_IN_MS
    all_operators = [operator for part in parts for operator in part]
    times = [
        fit.operator_ns(operator.cost) / NS_IN_MS
        if fit.knows(operator.cost)
        else None
        for operator in all_operators
    ]
    total = call_ms + sum(time or 0.0 for time in times)
    lines = []
    for operator, time in zip(all_operators, times, strict=True):
        share = (time or 0.0) / total if total else 0.0
        lines.append(Line(operator, time, share))
    low, high = prediction_interval(total, table)
    return Estimate(total, low, high, call_ms, tuple(lines), table.provenance)


def prediction_interval(
    value: float, table: Table
) -> tuple[float | None, float | None]:
    """Return the 95 % prediction interval of an estimate, from the held-out networks.

    Student's t interval for one more value of log(measured / estimated). A bias of the
    estimates moves the interval, not the value; the value is always inside the interval.
    """
    ratios = numpy.log([row.ns / row.estimated for row in table.held_out])
    count = len(ratios)
    if count < _MIN_HELD_OUT:
        return None, None
    mean = float(ratios.mean())
    deviation = float(ratios.std(ddof=1))
    quantile = float(scipy.stats.t.ppf(0.975, count - 1))
    reach = quantile * deviation * math.sqrt(1 + 1 / count)
    low = value * math.exp(min(mean - reach, 0.0))
    high = value * math.exp(max(mean + reach, 0.0))
    return low, high
