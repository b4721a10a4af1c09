"""95 % intervals: of a share, of a mean, of a paired difference, and of a median.

Each function is pure, takes raw numbers and returns ``(low, high)``, or None where the numbers are too few to say anything.
"""

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy
import scipy.stats

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

Interval = tuple[float, float]
CONFIDENCE = 0.95
#: The quantile of the standard normal distribution that leaves 2.5 % above it.
Z = float(scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2))
RESAMPLES = 9999
#: Below this number of samples a bootstrap is too narrow.
SMALLEST_BOOTSTRAP = 30
#: Numbers that differ by less than this share of their size differ by rounding alone.
ROUNDING = 1e-12
#: Above this number of samples the correction of BCa, which is of order 1/n, is left out; its cost grows with n squared.
LARGEST_BCA = 2000
#: At most this many numbers are held at once while resampling.
LARGEST_BLOCK = 10_000_000


def share_interval(successes: int, n: int) -> Interval:
    """The interval of a share: Wilson's score interval.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``  (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).
    Holds for 0 and n successes too, where it is one-sided.
    """
    found = scipy.stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def mean_interval(values: "Array") -> Interval | None:
    """The interval of a mean of real numbers: Student's.

    ``mean +- t(n-1) s / sqrt(n)``  (Student 1908, Biometrika 6, 1-25). None for one number.
    """
    n = len(values)
    if n < 2:
        return None
    half = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * float(numpy.std(values, ddof=1)) / math.sqrt(n)
    mean = float(numpy.mean(values))
    return mean - half, mean + half


def paired_share_difference(first: "Array", second: "Array") -> Interval:
    """The interval of the difference of two shares, ``mean(first) - mean(second)``, from 0/1 scores of the same samples.

    With b samples right in the first only, c in the second only, and half a sample added to each of the four cells
    (b' = b + 1/2, c' = c + 1/2, n' = n + 2):  ``d +- z sqrt(b' + c' - (b' - c')^2 / n') / n'``, d = (b' - c') / n'.
    Agresti and Min 2005, Statistics in Medicine 24, 729-740. Cut to [-1, 1].
    """
    n = len(first) + 2
    only_first = float(numpy.sum((first == 1) & (second == 0))) + 0.5
    only_second = float(numpy.sum((first == 0) & (second == 1))) + 0.5
    difference = (only_first - only_second) / n
    half = Z * math.sqrt(only_first + only_second - (only_first - only_second) ** 2 / n) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def paired_mean_difference(first: "Array", second: "Array", seed: int = 0) -> Interval | None:
    """The interval of ``mean(first - second)`` for real scores of the same samples: the bootstrap with a fixed seed.

    Bias-corrected and accelerated (Efron 1987, J. Am. Stat. Assoc. 82, 171-185), percentile above 2,000 samples; the
    differences are resampled, so what both share cancels. Below 30 samples the bootstrap is too narrow, and Student's
    interval of the differences is given. None for one sample; where all differences are equal the interval is that number.
    """
    differences = numpy.asarray(first, dtype="float64") - numpy.asarray(second, dtype="float64")
    n, mean, spread = len(differences), float(differences.mean()), float(numpy.ptp(differences))
    if n < SMALLEST_BOOTSTRAP:
        return mean_interval(differences)
    if spread <= ROUNDING * float(numpy.max(numpy.abs(differences))):  # BCa would divide by zero.
        return mean, mean
    scaled = (differences - mean) / spread
    low, high = _bootstrap(scaled, "BCa" if n <= LARGEST_BCA else "percentile", seed)
    # The corrected interval of a few odd samples can miss the mean itself by a hair; such an interval is of no use.
    return min(mean, mean + spread * low), max(mean, mean + spread * high)


def _bootstrap(values: "Array", method: str, seed: int) -> Interval:
    with warnings.catch_warnings():
        # Where the correction cannot be computed scipy warns and gives NaN; the percentile interval can always be.
        warnings.filterwarnings("ignore", category=scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            (values,), numpy.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method=method,
            batch=max(1, LARGEST_BLOCK // len(values)), rng=numpy.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low + high) else _bootstrap(values, "percentile", seed)


def median_interval(values: "Array") -> Interval | None:
    """The interval of a median, whatever the distribution: from the k-th smallest to the k-th largest number.

    k is the largest rank with ``P(Binomial(n, 1/2) < k) <= 2.5 %``  (Thompson 1936, Ann. Math. Stat. 7, 122-128). None
    below 6 numbers, where no rank has that.
    """
    n = len(values)
    k = int(scipy.stats.binom.ppf(0.5 - CONFIDENCE / 2, n, 0.5))
    if scipy.stats.binom.cdf(k - 1, n, 0.5) > 0.5 - CONFIDENCE / 2:
        k -= 1
    if k < 1:
        return None
    ordered = numpy.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k])
