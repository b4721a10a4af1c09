"""95 % intervals that need no library: of a paired difference of shares, and of a median."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Interval = tuple[float, float]

#: The quantile of the standard normal distribution that leaves 2.5 % above it.
Z = 1.959963984540054


def paired_share_difference(first: Array, second: Array) -> Interval:
    """The interval of the difference of two shares, ``mean(first) - mean(second)``, from
    0/1 scores of the same samples.

    With b samples right in the first only, c in the second only, and half a sample added to
    each of the four cells (b' = b + 1/2, c' = c + 1/2, n' = n + 2):  ``d +- z sqrt(b' + c'
    - (b' - c')^2 / n') / n'``, d = (b' - c') / n'. Agresti and Min 2005, Statistics in
    Medicine 24, 729-740. Cut to [-1, 1].
    """
    n = len(first) + 2
    only_first = float(numpy.sum((first == 1) & (second == 0))) + 0.5
    only_second = float(numpy.sum((first == 0) & (second == 1))) + 0.5
    difference = (only_first - only_second) / n
    half = Z * math.sqrt(only_first + only_second - (only_first - only_second) ** 2 / n) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def median_interval(values: Array) -> Interval | None:
    """The interval of a median, whatever the distribution: from the k-th smallest to the
    k-th largest number.

    k is the largest rank with ``P(Binomial(n, 1/2) < k) <= 2.5 %``  (Thompson 1936, Ann.
    Math. Stat. 7, 122-128). None below 6 numbers, where no rank has that.
    """
    n = len(values)
    k = _rank(n)
    if k < 1:
        return None
    ordered = numpy.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k])


def _rank(n: int) -> int:
    """The largest k with P(Binomial(n, 1/2) < k) <= 2.5 %, in whole numbers: exact."""
    below, ways, k = 0, 1, 0
    while 40 * (below + ways) <= 2**n:
        below += ways
        ways = ways * (n - k) // (k + 1)
        k += 1
    return k
