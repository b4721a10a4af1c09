"""How long a file would take on a device that is not here: from its operators, and a table
that was recorded there.
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
#: Half of all held-out errors say nothing of an interval.
_FEWEST = 3


@dataclasses.dataclass(frozen=True)
class Line:
    """One operator's part of the time; ``ms`` is None where the table has no operator of
    its kind.
    """

    operator: Operator
    ms: float | None
    share: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Milliseconds of one call, 95 % of the held-out errors inside ``low`` and ``high``;
    None where too few were held out.
    """

    ms: float
    low: float | None
    high: float | None
    #: The call itself: arrays in and out.
    call_ms: float
    lines: tuple[Line, ...]
    told: str

    @property
    def unknown(self) -> dict[str, int]:
        """How many operators of each kind the table does not know.

        The estimate is a lower bound where there are any.
        """
        return dict(
            Counter(
                f"{line.operator.cost.kind} ({line.operator.cost.dtype})"
                for line in self.lines
                if line.ms is None
            )
        )

    def measurement(self) -> Measurement:
        """The same for a report."""
        how = self.told
        if self.unknown:
            how += f"; a lower bound, {sum(self.unknown.values())} operators are not in the table: {', '.join(self.unknown)}"
        return Measurement(
            name="latency_estimate_ms",
            value=self.ms,
            low=self.low,
            high=self.high,
            unit="ms",
            where=self.told,
            how=how,
            detail={"unknown": self.unknown},
        )


def of_file(path: pathlib.Path, format: FormatName, table: Table) -> Estimate:
    """The estimate for one file.

    Raises EstimateError where the table is of another runtime.
    """
    _require_format(format, table)
    return _estimate(operators.read_all([path], format), table)


def of_artifact(artifact: Artifact, name: str) -> Estimate:
    """The estimate for all parts of an artifact, run one after another; ``name`` is a
    table's name or path.
    """
    table = _table(latency_table.find(name))
    _require_format(artifact.format, table)
    return _estimate(
        operators.read_all(
            [artifact.path(part) for part in artifact.parts], artifact.format
        ),
        table,
    )


@functools.cache
def _table(path: pathlib.Path) -> Table:
    return latency_table.load(path)


def _require_format(format: FormatName, table: Table) -> None:
    if RUNTIMES.get(format) == table.runtime:
        return
    fix = (
        f"edgekit hosts record {table.host} --format {format}"
        if format in ("onnx", "tflite")
        else "take an .onnx or .tflite file"
    )
    raise EstimateError(
        f"The table {table.name} was recorded with {table.runtime}, which does not run files of the format {format}.",
        fix=fix,
    )


def _estimate(parts: Sequence[Sequence[Operator]], table: Table) -> Estimate:
    fitted = fitting.fit(table.rows)
    known = [operator for part in parts for operator in part]
    times = [
        fitted.operator(operator.cost) / NS_IN_MS if fitted.knows(operator.cost) else None
        for operator in known
    ]
    call = (
        sum(
            fitted.call(operators.ends([operator.cost for operator in part]))
            for part in parts
        )
        / NS_IN_MS
    )
    total = call + sum(time or 0.0 for time in times)
    lines = tuple(
        Line(operator, time, (time or 0.0) / total if total else 0.0)
        for operator, time in zip(known, times, strict=True)
    )
    low, high = interval(total, table)
    return Estimate(total, low, high, call, lines, table.told)


def interval(value: float, table: Table) -> tuple[float | None, float | None]:
    """Where one more file would lie, by the held-out ones: the 95 % prediction interval of
    the logarithm of measured by estimated.

    Errors of a kind (all too low) move the interval, not the value.
    """
    ratios = numpy.log([row.ns / row.estimated for row in table.held_out])
    if len(ratios) < _FEWEST:
        return None, None
    middle, spread = float(ratios.mean()), float(ratios.std(ddof=1))
    reach = (
        float(scipy.stats.t.ppf(0.975, len(ratios) - 1))
        * spread
        * math.sqrt(1 + 1 / len(ratios))
    )
    # The value itself always lies inside.
    return value * math.exp(min(middle - reach, 0.0)), value * math.exp(
        max(middle + reach, 0.0)
    )
