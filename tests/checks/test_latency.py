"""Latency, and the speedup that pairs the rounds."""

import hypothesis
import numpy
import pytest
from hypothesis import strategies

from edgekit.checks.latency import are_distinguishable, latency, speedup
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import RunnerError

PROTOCOL, WHERE = BenchProtocol(), "local: onnxruntime 1.31.1, 1 thread"
TIMES = strategies.lists(strategies.floats(1e3, 1e9), min_size=6, max_size=80)


def noisy(median: float, seed: int, rounds: int = 60) -> Samples:
    """Times around a median with 5 % of noise and, in every tenth round, a stall."""
    random = numpy.random.default_rng(seed)
    times = median * random.lognormal(0, 0.05, rounds)
    times[::10] *= 5
    return Samples(tuple(times))


@hypothesis.given(TIMES)
def test_latency_is_the_median_in_milliseconds(times: list[float]) -> None:
    """Nanoseconds become milliseconds; the interval holds the median; protocol and threads
    are reported.
    """
    measured = latency(Samples(tuple(times)), WHERE, PROTOCOL)
    assert (
        measured.value == pytest.approx(numpy.median(times) / 1e6)
        and measured.low is not None
        and measured.high is not None
    )
    assert measured.low <= measured.value <= measured.high
    assert (
        measured.unit == "ms"
        and "1 thread" in measured.how
        and "batch 1" in measured.how
        and measured.where == WHERE
    )


@hypothesis.given(TIMES)
def test_a_file_is_exactly_as_fast_as_itself(times: list[float]) -> None:
    """Equal times give a speedup of 1 with an interval of no width, and are not
    distinguishable.
    """
    samples = Samples(tuple(times))
    measured = speedup(samples, samples, WHERE, PROTOCOL)
    assert (measured.value, measured.low, measured.high) == (1, 1, 1)
    assert not are_distinguishable(samples, samples)


def test_a_slow_machine_cancels_in_the_ratio() -> None:
    """If the entire machine becomes 3 times slower in the middle, the paired ratio still
    is 2 within 3 %.
    """
    drift = numpy.repeat([1.0, 3.0], 30)
    reference, candidate = (
        numpy.array(noisy(median, seed).nanoseconds) * drift
        for median, seed in ((2e6, 1), (1e6, 2))
    )
    measured = speedup(
        Samples(tuple(reference)), Samples(tuple(candidate)), WHERE, PROTOCOL
    )
    assert measured.low is not None and measured.high is not None
    assert 1.94 < measured.low < 2 < measured.high < 2.06


def test_noise_alone_does_not_separate() -> None:
    """Of 200 races of a file against itself at most 8 % look different; a file 1.1 times as
    fast always does.
    """
    apart = [
        are_distinguishable(noisy(1e6, 2 * k), noisy(1e6, 2 * k + 1))
        for k in range(200)
    ]
    assert sum(apart) <= 16
    assert all(
        are_distinguishable(noisy(1.1e6, 2 * k), noisy(1e6, 2 * k + 1))
        for k in range(50)
    )


def test_too_few_rounds_are_unmeasured() -> None:
    """Five rounds have no interval, so neither number can pass a gate; nothing is distinguishable
    by them.
    """
    fast, slow = Samples((1e6,) * 5), Samples((9e6,) * 5)
    assert (
        latency(fast, WHERE, PROTOCOL).verdict
        == speedup(slow, fast, WHERE, PROTOCOL).verdict
        == "unmeasured"
    )
    assert not are_distinguishable(slow, fast)


def test_times_that_do_not_pair_are_refused() -> None:
    """Different numbers of rounds, none, and times of 0 are errors."""
    for first, second in (
        ((1.0,) * 6, (1.0,) * 7),
        ((), ()),
        ((1.0,) * 6, (0.0,) * 6),
    ):
        with pytest.raises(RunnerError, match="Cannot pair"):
            speedup(Samples(first), Samples(second), WHERE, PROTOCOL)
