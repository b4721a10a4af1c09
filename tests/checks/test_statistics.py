"""The intervals: they hold the estimate, cover the truth as often as they say, and stand
degenerate data.
"""

import math
from typing import Any

import hypothesis
import numpy
import pytest
import scipy.stats
from hypothesis import strategies
from hypothesis.extra import numpy as arrays_of

from edgekit.checks import statistics

COUNTS = strategies.integers(1, 500).flatmap(
    lambda n: strategies.tuples(strategies.integers(0, n), strategies.just(n))
)
FINITE = strategies.floats(-1e6, 1e6, allow_subnormal=False)
PAIRS = strategies.integers(1, 60).flatmap(
    lambda n: strategies.tuples(
        *[arrays_of.arrays("int64", n, elements=strategies.integers(0, 1))] * 2
    )
)
REAL_PAIRS = strategies.integers(2, 60).flatmap(
    lambda n: strategies.tuples(
        *[arrays_of.arrays("float64", n, elements=strategies.floats(-100, 100))]
        * 2
    )
)


@hypothesis.given(COUNTS)
def test_a_share_is_in_its_interval(counts: tuple[int, int]) -> None:
    """The interval is in [0, 1], holds the share, and mirrors when right and wrong change
    places.
    """
    successes, n = counts
    low, high = statistics.share_interval(successes, n)
    assert (
        0 <= low <= successes / n + 1e-12 and successes / n - 1e-12 <= high <= 1
    )
    assert numpy.allclose(
        statistics.share_interval(n - successes, n), (1 - high, 1 - low)
    )


def test_the_share_interval_is_wilsons() -> None:
    """81 of 263: 0.2553 to 0.3662, the example of Newcombe 1998; all right of one: 0.2065
    to 1.
    """
    assert numpy.allclose(
        statistics.share_interval(81, 263), (0.2553, 0.3662), atol=5e-5
    )
    assert numpy.allclose(
        statistics.share_interval(1, 1), (0.2065, 1), atol=5e-5
    )


@hypothesis.given(
    arrays_of.arrays("float64", strategies.integers(1, 40), elements=FINITE)
)
def test_a_mean_is_in_its_interval(values: Any) -> None:
    """One number has no interval; more have one around their mean, of no width where all
    are equal.
    """
    interval = statistics.mean_interval(values)
    if len(values) == 1:
        assert interval is None
        return
    assert interval is not None
    slack = 1e-9 * (1 + numpy.abs(values).max())
    assert interval[0] - slack <= values.mean() <= interval[1] + slack
    if numpy.ptp(values) == 0:
        assert interval[1] - interval[0] <= slack


def test_the_mean_interval_is_students() -> None:
    """It equals scipy's one-sample t interval."""
    values = numpy.random.default_rng(0).standard_normal(17)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert numpy.allclose(
        statistics.mean_interval(values) or (), (expected.low, expected.high)
    )


@hypothesis.given(PAIRS)
def test_a_paired_share_difference_is_in_its_interval(
    pair: tuple[Any, Any],
) -> None:
    """The interval is in [-1, 1], has a width even where nothing differs, holds the
    difference, and turns with the order.
    """
    first, second = pair
    low, high = statistics.paired_share_difference(first, second)
    assert -1 <= low < high <= 1
    assert low <= first.mean() - second.mean() <= high
    assert numpy.allclose(
        statistics.paired_share_difference(second, first), (-high, -low)
    )


def test_the_paired_share_difference_is_agresti_and_mins() -> None:
    """For 1,144 pairs with 132 and 107 of one kind only, the interval by hand: d* =
    -25/1146 and z times the adjusted error.
    """
    first, second = numpy.zeros(1144, "int64"), numpy.zeros(1144, "int64")
    first[:107], second[107:239] = 1, 1
    half = 1.959964 * math.sqrt(107.5 + 132.5 - 25**2 / 1146) / 1146
    assert numpy.allclose(
        statistics.paired_share_difference(first, second),
        (-25 / 1146 - half, -25 / 1146 + half),
    )


@pytest.mark.parametrize(
    ("lost", "gained", "n"),
    [(0.02, 0.01, 400), (0.05, 0.05, 100), (0.01, 0.0, 1000)],
)
def test_the_paired_share_difference_covers_the_truth(
    lost: float, gained: float, n: int
) -> None:
    """Of 1,000 drawn test sets at least 93 % have the true drop in their interval."""
    random, inside = numpy.random.default_rng(0), 0
    for kinds in random.multinomial(
        n, (lost, gained, 1 - lost - gained), size=1000
    ):
        first, second = numpy.ones(n), numpy.ones(n)
        second[: kinds[0]], first[kinds[0] : kinds[0] + kinds[1]] = 0, 0
        low, high = statistics.paired_share_difference(first, second)
        inside += low <= lost - gained <= high
    assert inside >= 930


@hypothesis.given(REAL_PAIRS)
@hypothesis.settings(max_examples=20)
def test_a_paired_mean_difference_is_in_its_interval(
    pair: tuple[Any, Any],
) -> None:
    """The interval holds the mean difference, is finite, and the same each time."""
    first, second = pair
    interval = statistics.paired_mean_difference(first, second)
    assert (
        interval is not None
        and interval == statistics.paired_mean_difference(first, second)
    )
    slack = 1e-9 * (1 + numpy.abs(first - second).max())
    assert (
        math.isfinite(interval[0])
        and interval[0] - slack
        <= (first - second).mean()
        <= interval[1] + slack
        <= math.inf
    )


def test_a_paired_mean_difference_of_odd_data() -> None:
    """One pair has no interval; equal differences have one of no width; one odd difference
    among zeros has a finite one.
    """
    assert (
        statistics.paired_mean_difference(numpy.ones(1), numpy.zeros(1)) is None
    )
    for n in (2, 50, 3000):
        assert statistics.paired_mean_difference(
            numpy.full(n, 0.3), numpy.full(n, 0.1)
        ) == pytest.approx((0.2, 0.2))
    first = numpy.zeros(40)
    first[7] = 1
    low, high = statistics.paired_mean_difference(first, numpy.zeros(40)) or (
        math.nan,
        math.nan,
    )
    assert 0 <= low <= 1 / 40 <= high < 1


@pytest.mark.parametrize("n", [40, 2500])
def test_pairing_takes_out_what_both_share(n: int) -> None:
    """A loss of 0.05 hidden in a spread of 1 that both share is seen; the bootstrap agrees
    with Student's interval.
    """
    random = numpy.random.default_rng(0)
    shared, noise = random.standard_normal(n), 0.05 * random.standard_normal(n)
    first, second = shared, shared - 0.05 + noise
    low, high = statistics.paired_mean_difference(first, second) or (
        math.nan,
        math.nan,
    )
    assert 0 < low < 0.05 + 0.03 < 0.2 and high < 0.1
    assert numpy.allclose(
        (low, high), statistics.mean_interval(first - second) or (), atol=0.004
    )


@hypothesis.given(
    arrays_of.arrays("float64", strategies.integers(1, 200), elements=FINITE)
)
def test_a_median_is_in_its_interval(values: Any) -> None:
    """Below 6 numbers there is no interval; from 6 on its ends are two of the numbers
    and holds the median.
    """
    interval = statistics.median_interval(values)
    assert (interval is None) == (len(values) < 6)
    if interval is not None:
        assert interval[0] in values and interval[1] in values
        assert interval[0] <= numpy.median(values) <= interval[1]


@hypothesis.given(strategies.integers(6, 2000))
def test_the_median_interval_is_the_narrowest_with_95_percent(n: int) -> None:
    """The ranks leave at most 2.5 % on each side, and one rank further in would leave more."""
    low, high = statistics.median_interval(numpy.arange(1, n + 1)) or (0, 0)
    assert low + high == n + 1
    assert (
        scipy.stats.binom.cdf(low - 1, n, 0.5)
        <= 0.025
        < scipy.stats.binom.cdf(low, n, 0.5)
    )


def test_the_median_interval_covers_the_truth_for_skewed_times() -> None:
    """Of 1,000 runs of 60 lognormal times at least 94 % have the true median in their
    interval.
    """
    runs = numpy.random.default_rng(0).lognormal(0, 1, (1000, 60))
    intervals = numpy.array([statistics.median_interval(run) for run in runs])
    assert ((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)).mean() >= 0.94
