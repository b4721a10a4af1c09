"""From timed files to the cost of an operator: non-negative least squares on what each kind of operator computes and moves."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy
import numpy.typing
import scipy.optimize

from edgekit.latency_table import Cost, Row

Array = numpy.typing.NDArray[numpy.float64]
Key = tuple[str, str]
#: The call itself: once, and for each byte that goes in or out.
CALL: Key = ("call", "")
#: A difference is trusted to this share of the shorter file's time, at best.
_NOISE = 0.02


def features(cost: Cost) -> tuple[float, ...]:
    """What a kind's time is a sum of: the operator itself, its arithmetic, activations in and out, weights."""
    return 1.0, float(cost.macs), float(cost.read), float(cost.written), float(cost.weights)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Nanoseconds for each feature of each kind of operator."""

    coefficients: Mapping[Key, tuple[float, ...]]
    #: Operators that were timed almost alone: their features, and how much longer they took than the sum says.
    anchors: Mapping[Key, Sequence[tuple[Array, float]]]

    def knows(self, cost: Cost) -> bool:
        """Whether such operators were timed."""
        return cost.key in self.coefficients

    def operator(self, cost: Cost) -> float:
        """Nanoseconds of one operator; 0 where none of its kind was timed."""
        if cost.key not in self.coefficients:
            return 0.0
        return self.plain(cost) * math.exp(self._correction(cost))

    def plain(self, cost: Cost) -> float:
        """The same without the neighbours' correction."""
        return float(numpy.dot(self.coefficients[cost.key], features(cost)))

    def call(self, ends: int) -> float:
        """Nanoseconds of a call in which nothing is computed."""
        once, byte = self.coefficients[CALL]
        return once + byte * ends

    def file(self, operators: Iterable[Cost], ends: int) -> float:
        """Nanoseconds of a whole file."""
        return self.call(ends) + sum(map(self.operator, operators))

    def _correction(self, cost: Cost) -> float:
        """The logarithm of what the nearest operators of its kind took beyond the sum; 0 far from all of them."""
        near, place = self.anchors.get(cost.key, ()), _place(cost)
        weights = [math.exp(-float(((place - other) ** 2).sum()) / (2 * REACH**2)) for other, _ in near]
        return sum(weight * ratio for weight, (_, ratio) in zip(weights, near, strict=True)) / (PRIOR + sum(weights))


#: How far an operator's correction reaches, in natural logarithms of its features; and how much stands against one alone.
REACH, PRIOR = 1.0, 0.5


def _place(cost: Cost) -> Array:
    place: Array = numpy.log1p(numpy.array(features(cost)[1:]))
    return place


def fit(rows: Sequence[Row], *, corrected: bool = True) -> Fit:
    """The fit with the least sum of squared relative errors, over the files and over the differences of consecutive cuts."""
    keys = sorted({cost.key for row in rows for cost in row.operators})
    columns = {(CALL, 0): 0, (CALL, 1): 1}
    width = len(features(rows[0].operators[0])) if rows and rows[0].operators else 5
    for key in keys:
        columns.update({(key, number): len(columns) + number for number in range(width)})
    lines, times = _equations(rows, columns)
    scale = numpy.abs(lines).max(axis=0)
    scale[scale == 0] = 1
    solved = scipy.optimize.nnls(lines / scale, times, maxiter=50 * len(columns))[0] / scale
    found = {key: tuple(float(solved[columns[key, number]]) for number in range(2 if key == CALL else width)) for key in (CALL, *keys)}
    plain = Fit(found, {})
    return Fit(found, _anchors(rows, plain)) if corrected else plain


def _equations(rows: Sequence[Row], columns: Mapping[tuple[Key, int], int]) -> tuple[Array, Array]:
    """One line a file and one a difference, each divided by its time, so that all count alike."""
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


def _anchors(rows: Sequence[Row], plain: Fit) -> dict[Key, list[tuple[Array, float]]]:
    """The operators that make up most of a difference, and the logarithm of measured by fitted."""
    found: dict[Key, list[tuple[Array, float]]] = {}
    before: Row | None = None
    for row in rows:
        if row.added is not None and before is not None:
            more = Counter(row.operators) - Counter(before.operators)
            less = Counter(before.operators) - Counter(row.operators)
            signed = [(cost, number) for cost, number in more.items()] + [(cost, -number) for cost, number in less.items()]
            shares = {cost: number * plain.plain(cost) for cost, number in signed}
            rest = plain.call(row.ends) - plain.call(before.ends)
            largest = max(shares, key=lambda cost: shares[cost], default=None)
            if largest is not None and shares[largest] > 0:
                others = rest + sum(shares.values()) - shares[largest]
                alone = (row.added - others) / shares[largest]
                sure = abs(others) < shares[largest] / 2 and row.added_spread < shares[largest] / 2
                if sure and 1 / 4 < alone < 4:
                    found.setdefault(largest.key, []).append((_place(largest), math.log(alone)))
        before = row
    return found
