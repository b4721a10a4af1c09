"""From timed files to the cost of an operator: non-negative least squares on what each kind
of operator computes and moves.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy
import numpy.typing
import scipy.optimize

from edgekit.estimates.table import Cost, Row

Array = numpy.typing.NDArray[numpy.float64]
Key = tuple[str, str]
#: The call itself: once, and for each byte that goes in or out.
CALL: Key = ("call", "")
#: A difference is trusted to this share of the shorter file's time, at best.
_NOISE = 0.02


def features(cost: Cost) -> tuple[float, ...]:
    """What a kind's time is a sum of: the operator itself, its arithmetic, activations in
    and out, weights.
    """
    return 1.0, float(cost.macs), float(cost.read), float(cost.written), float(cost.weights)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Nanoseconds for each feature of each kind of operator."""

    coefficients: Mapping[Key, tuple[float, ...]]

    def knows(self, cost: Cost) -> bool:
        """Whether such operators were timed."""
        return cost.key in self.coefficients

    def operator(self, cost: Cost) -> float:
        """Nanoseconds of one operator; 0 where none of its kind was timed."""
        return (
            float(numpy.dot(self.coefficients[cost.key], features(cost)))
            if cost.key in self.coefficients
            else 0.0
        )

    def call(self, ends: int) -> float:
        """Nanoseconds of a call in which nothing is computed."""
        once, byte = self.coefficients[CALL]
        return once + byte * ends

    def file(self, operators: Iterable[Cost], ends: int) -> float:
        """Nanoseconds of a whole file."""
        return self.call(ends) + sum(map(self.operator, operators))


def fit(rows: Sequence[Row]) -> Fit:
    """The fit with the least sum of squared relative errors, over the files and over the
    differences of consecutive cuts.
    """
    keys = sorted({cost.key for row in rows for cost in row.operators})
    columns = {(CALL, 0): 0, (CALL, 1): 1}
    width = len(features(rows[0].operators[0])) if rows and rows[0].operators else 5
    for key in keys:
        columns.update({(key, number): len(columns) + number for number in range(width)})
    lines, times = _equations(rows, columns)
    scale = numpy.abs(lines).max(axis=0)
    scale[scale == 0] = 1
    solved = scipy.optimize.nnls(lines / scale, times, maxiter=50 * len(columns))[0] / scale
    return Fit(
        {
            key: tuple(
                float(solved[columns[key, number]])
                for number in range(2 if key == CALL else width)
            )
            for key in (CALL, *keys)
        }
    )


def _equations(
    rows: Sequence[Row], columns: Mapping[tuple[Key, int], int]
) -> tuple[Array, Array]:
    """One line a file and one a difference, each divided by its time, so that all count
    alike.
    """
    lines, times = [], []
    before: Row | None = None
    for row in rows:
        line = _line(row, columns)
        lines.append(line / row.ns)
        times.append(1.0)
        if row.added is not None and before is not None:
            # A difference that drowns in the noise of both files says little.
            size = max(abs(row.added), row.added_spread, _NOISE * before.ns, 1.0)
            lines.append((line - _line(before, columns)) / size)
            times.append(row.added / size)
        before = row
    return numpy.array(lines), numpy.array(times)


def _line(row: Row, columns: Mapping[tuple[Key, int], int]) -> Array:
    line = numpy.zeros(len(columns))
    line[columns[CALL, 0]], line[columns[CALL, 1]] = 1.0, row.ends
    for cost in row.operators:
        for number, value in enumerate(features(cost)):
            line[columns[cost.key, number]] += value
    return line
