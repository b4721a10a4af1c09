"""Latency, and the speedup that pairs the rounds."""

import hypothesis
import numpy
import pytest
from hypothesis import strategies

from edgekit.checks.latency import latency, separated, speedup
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
    are told.
    """
    found = latency(Samples(tuple(times)), WHERE, PROTOCOL)
    assert (
        found.value == pytest.approx(numpy.median(times) / 1e6)
        and found.low is not None
        and found.high is not None
    )
    assert found.low <= found.value <= found.high
    assert (
        found.unit == "ms"
        and "1 thread" in found.how
        and "batch 1" in found.how
        and found.where == WHERE
    )


@hypothesis.given(TIMES)
def test_a_file_is_exactly_as_fast_as_itself(times: list[float]) -> None:
    """Equal times give a speedup of 1 with an interval of no width, and are not separated."""
    samples = Samples(tuple(times))
    found = speedup(samples, samples, WHERE, PROTOCOL)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert not separated(samples, samples)


def test_a_slow_machine_cancels_in_the_ratio() -> None:
    """Where the whole machine becomes 3 times slower in the middle, the paired ratio still
    is 2 within 3 %.
    """
    drift = numpy.repeat([1.0, 3.0], 30)
    reference, candidate = (
        numpy.array(noisy(median, seed).nanoseconds) * drift
        for median, seed in ((2e6, 1), (1e6, 2))
    )
    found = speedup(Samples(tuple(reference)), Samples(tuple(candidate)), WHERE, PROTOCOL)
    assert found.low is not None and found.high is not None
    assert 1.94 < found.low < 2 < found.high < 2.06


def test_noise_alone_does_not_separate() -> None:
    """Of 200 races of a file against itself at most 8 % look separated; a file 1.1 times as
    fast always does.
    """
    apart = [separated(noisy(1e6, 2 * k), noisy(1e6, 2 * k + 1)) for k in range(200)]
    assert sum(apart) <= 16
    assert all(separated(noisy(1.1e6, 2 * k), noisy(1e6, 2 * k + 1)) for k in range(50))


def test_too_few_rounds_are_unmeasured() -> None:
    """Five rounds have no interval, so neither number can pass a gate; nothing is separated
    by them.
    """
    fast, slow = Samples((1e6,) * 5), Samples((9e6,) * 5)
    assert (
        latency(fast, WHERE, PROTOCOL).verdict
        == speedup(slow, fast, WHERE, PROTOCOL).verdict
        == "unmeasured"
    )
    assert not separated(slow, fast)


def test_times_that_do_not_pair_are_refused() -> None:
    """Different numbers of rounds, none, and times of 0 are errors."""
    for first, second in (((1.0,) * 6, (1.0,) * 7), ((), ()), ((1.0,) * 6, (0.0,) * 6)):
        with pytest.raises(RunnerError, match="do not pair"):
            speedup(Samples(first), Samples(second), WHERE, PROTOCOL)
