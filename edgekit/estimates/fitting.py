"""Fit the cost of operators to the times of files.

Non-negative least squares on what each kind of operator computes and moves.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy
import numpy.typing
import scipy.optimize

from edgekit.estimates.table import Cost, Row

Matrix: TypeAlias = numpy.typing.NDArray[numpy.float64]
Key: TypeAlias = tuple[str, str]
#: (key, index of its feature) -> column of the equations.
Columns: TypeAlias = Mapping[tuple[Key, int], int]
#: The call itself: a constant, and a time per byte of inputs and outputs.
CALL: Key = ("call", "")
#: The relative error of a difference is at least this share of the shorter file's time.
_NOISE = 0.02


def features(cost: Cost) -> tuple[float, ...]:
    """Return what the time of an operator is a linear function of.

    A constant, multiply-accumulates, and the bytes of inputs, outputs and weights.
    """
    return (
        1.0,
        float(cost.macs),
        float(cost.read),
        float(cost.written),
        float(cost.weights),
    )


@dataclasses.dataclass(frozen=True)
class Fit:
    """Nanoseconds per unit of each feature, for each kind of operator and for the call."""

    coefficients: Mapping[Key, tuple[float, ...]]

    def knows(self, cost: Cost) -> bool:
        """True if operators of this kind and dtype were timed."""
        return cost.key in self.coefficients

    def operator_ns(self, cost: Cost) -> float:
        """Return the time of one operator in ns; 0 if its kind was not timed."""
        coefficients = self.coefficients.get(cost.key)
        if coefficients is None:
            return 0.0
        return float(numpy.dot(coefficients, features(cost)))

    def call_ns(self, io_bytes: int) -> float:
        """Return the time of a call in ns, without its operators."""
        constant, per_byte = self.coefficients[CALL]
        return constant + per_byte * io_bytes

    def file_ns(self, costs: Iterable[Cost], io_bytes: int) -> float:
        """Return the time of a complete file in ns."""
        return self.call_ns(io_bytes) + sum(map(self.operator_ns, costs))


def fit(rows: Sequence[Row]) -> Fit:
    """Minimize the sum of squared relative errors, with non-negative coefficients.

    Over the times of all files, and over the differences of consecutive cuts.
    """
    keys = sorted({cost.key for row in rows for cost in row.operators})
    columns = {(CALL, 0): 0, (CALL, 1): 1}
    width = (
        len(features(rows[0].operators[0])) if rows and rows[0].operators else 5
    )
    for key in keys:
        for index in range(width):
            columns[key, index] = len(columns)
    matrix, times = _equations(rows, columns)
    scale = numpy.abs(matrix).max(axis=0)
    scale[scale == 0] = 1
    limit = 50 * len(columns)
    solution = (
        scipy.optimize.nnls(matrix / scale, times, maxiter=limit)[0] / scale
    )
    coefficients = {}
    for key in (CALL, *keys):
        count = 2 if key == CALL else width
        values = [
            float(solution[columns[key, index]]) for index in range(count)
        ]
        coefficients[key] = tuple(values)
    return Fit(coefficients)


def _equations(rows: Sequence[Row], columns: Columns) -> tuple[Matrix, Matrix]:
    """One equation per file and one per difference, divided by its time.

    So every equation has the same weight.
    """
    equations, times = [], []
    previous: Row | None = None
    for row in rows:
        equation = _equation(row, columns)
        equations.append(equation / row.ns)
        times.append(1.0)
        if row.added is not None and previous is not None:
            # A difference within the noise of both files carries little information.
            size = max(
                abs(row.added), row.added_spread, _NOISE * previous.ns, 1.0
            )
            equations.append((equation - _equation(previous, columns)) / size)
            times.append(row.added / size)
        previous = row
    return numpy.array(equations), numpy.array(times)


def _equation(row: Row, columns: Columns) -> Matrix:
    equation = numpy.zeros(len(columns))
    equation[columns[CALL, 0]] = 1.0
    equation[columns[CALL, 1]] = row.ends
    for cost in row.operators:
        for index, value in enumerate(features(cost)):
            equation[columns[cost.key, index]] += value
    return equation
