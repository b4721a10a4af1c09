"""How long one inference takes, and the speedup of one file over another that was timed
interleaved with it.
"""

from typing import TYPE_CHECKING

import numpy

from edgekit.checks.statistics import Interval, median_interval
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import RunnerError
from edgekit.measurement import Measurement, unmeasured

if TYPE_CHECKING:
    from edgekit.arrays import Array

NS_IN_MS = 1e6
TOO_FEW = "an interval of the median needs 6 rounds or more"


def latency(
    samples: Samples, where: str, protocol: BenchProtocol
) -> Measurement:
    """Return the median over rounds in milliseconds, with its interval from order statistics."""
    values = numpy.asarray(samples.nanoseconds) / NS_IN_MS
    interval = median_interval(values)
    if interval is None:
        return unmeasured("latency_ms", "ms", where, TOO_FEW)
    return Measurement(
        name="latency_ms",
        value=float(numpy.median(values)),
        low=interval[0],
        high=interval[1],
        unit="ms",
        n=len(values),
        where=where,
        how=f"median, batch 1, {_describe(protocol, len(values))}",
    )


def speedup(
    reference: Samples, candidate: Samples, where: str, protocol: BenchProtocol
) -> Measurement:
    """Return how many times as fast the candidate is: the median over rounds of the
    reference's time divided by the candidate's.

    Both times of a round were measured within moments of each other, so what slows the machine
    for a while cancels. The interval is that of a median from order statistics. Raises
    RunnerError if the rounds do not pair.
    """
    ratios = _ratios(reference, candidate)
    interval = median_interval(ratios)
    if interval is None:
        return unmeasured("speedup", "x", where, TOO_FEW)
    return Measurement(
        name="speedup",
        value=float(numpy.median(ratios)),
        low=interval[0],
        high=interval[1],
        unit="x",
        n=len(ratios),
        where=where,
        how="compared with the float file of the network before pruning, median of the ratio"
        f" in each round, batch 1, {_describe(protocol, len(ratios))}",
    )


def are_distinguishable(first: Samples, second: Samples) -> bool:
    """Whether the two are clearly not equally fast: the interval of their ratio does not
    contain 1.
    """
    interval: Interval | None = median_interval(_ratios(first, second))
    return interval is not None and not interval[0] <= 1 <= interval[1]


def _ratios(reference: Samples, candidate: Samples) -> "Array":
    ours = candidate.nanoseconds
    theirs = reference.nanoseconds
    if len(ours) != len(theirs) or min((*ours, *theirs), default=0) <= 0:
        raise RunnerError(
            f"Cannot pair {len(theirs)} and {len(ours)} times.",
            fix="time both files in one race",
        )
    ratios: Array = numpy.asarray(theirs, "float64") / numpy.asarray(
        ours, "float64"
    )
    return ratios


def _describe(protocol: BenchProtocol, rounds: int) -> str:
    plural = "" if protocol.threads == 1 else "s"
    return (
        f"{protocol.threads} thread{plural}, {rounds} interleaved rounds, {protocol.rounds}"
        " per process, inputs as the file expects them, in each the median of calls for"
        f" {protocol.round_ms:g} ms or more; order-statistic interval"
    )
