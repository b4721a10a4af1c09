"""95 % intervals: of a share, of a mean, of a paired difference, and of a median.

Each function is pure, accepts raw numbers and returns ``(low, high)``, or None if there are
too few of them.
"""

import math
import warnings
from typing import TYPE_CHECKING

import numpy

from edgekit.device_worker.intervals import (
    median_interval,
    paired_share_difference,
)

__all__ = [
    "mean_interval",
    "median_interval",
    "paired_mean_difference",
    "paired_share_difference",
    "share_interval",
]

if TYPE_CHECKING:
    from edgekit.arrays import Array

Interval = tuple[float, float]
CONFIDENCE = 0.95
RESAMPLES = 9999
#: Below this number of samples a bootstrap is too narrow.
SMALLEST_BOOTSTRAP = 30
#: Numbers that differ by less than this share of their size differ by rounding alone.
ROUNDING = 1e-12
#: Above this number of samples the correction of BCa, which is of order 1/n, is left out;
#: its cost grows with n squared.
LARGEST_BCA = 2000
#: At most this many numbers are held at once while resampling.
LARGEST_BLOCK = 10_000_000


def share_interval(successes: int, n: int) -> Interval:
    """Return the interval of a share: Wilson's score interval.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``  (Wilson 1927, J. Am.
    Stat. Assoc. 22, 209-212). Valid for 0 and n successes too; it is one-sided there.
    """
    import scipy.stats  # a second of imports, which a cached run does not need

    test = scipy.stats.binomtest(successes, n)
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: "Array") -> Interval | None:
    """Return the interval of a mean of real numbers: Student's.

    ``mean +- t(n-1) s / sqrt(n)``  (Student 1908, Biometrika 6, 1-25). None for one number.
    """
    n = len(values)
    if n < 2:
        return None
    mean = float(numpy.mean(values))
    error = float(numpy.std(values, ddof=1)) / math.sqrt(n)
    import scipy.stats

    half = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    return mean - half, mean + half


def paired_mean_difference(
    first: "Array", second: "Array", seed: int = 0
) -> Interval | None:
    """Return the interval of ``mean(first - second)`` for real scores of the same samples: the
    bootstrap with a fixed seed.

    Bias-corrected and accelerated (Efron 1987, J. Am. Stat. Assoc. 82, 171-185), percentile
    above 2,000 samples; the differences are resampled, so what both share cancels. Below 30
    samples the bootstrap is too narrow, and Student's interval of the differences is returned.
    None for one sample; if all differences are equal the interval is that number.
    """
    differences = numpy.asarray(first, "float64") - numpy.asarray(
        second, "float64"
    )
    n = len(differences)
    mean = float(differences.mean())
    spread = float(numpy.ptp(differences))
    if n < SMALLEST_BOOTSTRAP:
        return mean_interval(differences)
    largest = float(numpy.max(numpy.abs(differences)))
    if spread <= ROUNDING * largest:  # BCa would divide by zero.
        return mean, mean
    scaled = (differences - mean) / spread
    low, high = _bootstrap(
        scaled, "BCa" if n <= LARGEST_BCA else "percentile", seed
    )
    # The corrected interval of a few odd samples can miss the mean itself by a hair; such
    # an interval is of no use.
    return min(mean, mean + spread * low), max(mean, mean + spread * high)


def _bootstrap(values: "Array", method: str, seed: int) -> Interval:
    import scipy.stats

    with warnings.catch_warnings():
        # If the correction cannot be computed scipy warns and returns NaN; the percentile
        # interval can always be computed.
        warnings.filterwarnings(
            "ignore", category=scipy.stats.DegenerateDataWarning
        )
        result = scipy.stats.bootstrap(
            (values,),
            numpy.mean,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method=method,
            batch=max(1, LARGEST_BLOCK // len(values)),
            rng=numpy.random.default_rng(seed),
        )
    low = float(result.confidence_interval.low)
    high = float(result.confidence_interval.high)
    if math.isfinite(low + high):
        return low, high
    return _bootstrap(values, "percentile", seed)
