"""How long one inference takes, and how many times as fast a file is as another that was
timed in turns with it.
"""

from typing import TYPE_CHECKING, Any

import numpy

from edgekit.checks.statistics import Interval, median_interval
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import RunnerError
from edgekit.measurement import Measurement, unmeasured

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

NS_IN_MS = 1e6
TOO_FEW = "an interval of the median needs 6 rounds or more"


def latency(samples: Samples, where: str, protocol: BenchProtocol) -> Measurement:
    """The median over rounds in milliseconds, with its interval from order statistics."""
    values = numpy.asarray(samples.nanoseconds) / NS_IN_MS
    interval = median_interval(values)
    if interval is None:
        return unmeasured("latency_ms", "ms", where, TOO_FEW)
    how = f"median, batch 1, {_told(protocol, len(values))}"
    return Measurement(
        name="latency_ms",
        value=float(numpy.median(values)),
        low=interval[0],
        high=interval[1],
        unit="ms",
        n=len(values),
        where=where,
        how=how,
    )


def speedup(
    reference: Samples, candidate: Samples, where: str, protocol: BenchProtocol
) -> Measurement:
    """How many times as fast the candidate is: the median over rounds of the reference's
    time by the candidate's.

    Both times of a round were taken within moments of each other, so what slows the machine
    for a while cancels. The interval is that of a median from order statistics. Raises
    RunnerError where the rounds do not pair.
    """
    ratios = _ratios(reference, candidate)
    interval = median_interval(ratios)
    if interval is None:
        return unmeasured("speedup", "x", where, TOO_FEW)
    how = f"against the float file of the network before pruning, median of the ratio in each round, batch 1, {_told(protocol, len(ratios))}"
    return Measurement(
        name="speedup",
        value=float(numpy.median(ratios)),
        low=interval[0],
        high=interval[1],
        unit="x",
        n=len(ratios),
        where=where,
        how=how,
    )


def separated(first: Samples, second: Samples) -> bool:
    """True where the two are clearly not equally fast: the interval of their ratio leaves
    out 1.
    """
    interval: Interval | None = median_interval(_ratios(first, second))
    return interval is not None and not interval[0] <= 1 <= interval[1]


def _ratios(reference: Samples, candidate: Samples) -> "Array":
    ours, theirs = candidate.nanoseconds, reference.nanoseconds
    if len(ours) != len(theirs) or min((*ours, *theirs), default=0) <= 0:
        raise RunnerError(
            f"{len(theirs)} and {len(ours)} times do not pair.",
            fix="time both files in one race",
        )
    ratios: Array = numpy.asarray(theirs, dtype="float64") / numpy.asarray(
        ours, dtype="float64"
    )
    return ratios


def _told(protocol: BenchProtocol, rounds: int) -> str:
    threads = f"{protocol.threads} thread" + ("" if protocol.threads == 1 else "s")
    turns = f"{rounds} rounds in turns, {protocol.rounds} to a process, inputs as the file takes them"
    return f"{threads}, {turns}, in each the median of calls for {protocol.round_ms:g} ms or more; order-statistic interval"
