"""95 % intervals of a paired difference of shares and of a median; numpy only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from .tensors import Array

    Interval = tuple[float, float]

#: The quantile of the standard normal distribution that leaves 2.5 % above it.
Z = 1.959963984540054


def paired_share_difference(first: Array, second: Array) -> Interval:
    """The interval of ``mean(first) - mean(second)`` for 0/1 scores of the same samples.

    With b samples correct in the first only, c in the second only, and half a sample added
    to each of the four cells (b' = b + 1/2, c' = c + 1/2, n' = n + 2):
    ``d +- z sqrt(b' + c' - (b' - c')^2 / n') / n'``, d = (b' - c') / n', clipped to [-1, 1].
    Agresti and Min 2005, Statistics in Medicine 24, 729-740.
    """
    n = len(first) + 2
    only_first = float(numpy.sum((first == 1) & (second == 0))) + 0.5
    only_second = float(numpy.sum((first == 0) & (second == 1))) + 0.5
    difference = (only_first - only_second) / n
    variance = only_first + only_second - (only_first - only_second) ** 2 / n
    half = Z * math.sqrt(variance) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def median_interval(values: Array) -> Interval | None:
    """The interval of a median, for any distribution: from the k-th smallest to the k-th
    largest number; None for fewer than 6 numbers.

    k is the largest rank with ``P(Binomial(n, 1/2) < k) <= 2.5 %`` (Thompson 1936, Ann.
    Math. Stat. 7, 122-128); below 6 numbers no rank satisfies this.
    """
    n = len(values)
    k = _rank(n)
    if k < 1:
        return None
    ordered = numpy.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k])


def _rank(n: int) -> int:
    """The largest k with P(Binomial(n, 1/2) < k) <= 2.5 %; exact, because it uses integers."""
    below = 0
    ways = 1
    k = 0
    while 40 * (below + ways) <= 2**n:
        below += ways
        ways = ways * (n - k) // (k + 1)
        k += 1
    return k
