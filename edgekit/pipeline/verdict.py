"""Who wins a race, and whether the winner holds its gates.

Pure: from measurements to a choice, with the reason in words.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

from edgekit.measurement import (
    Measurement,
    MeasurementName,
    Verdict,
    judge_at_least,
    judge_at_most,
    unmeasured,
    worst,
)
from edgekit.recipe import Gates
from edgekit.report import CandidateReport, GateReport
from edgekit.target import Target

RACED = "raced"
#: Gates with an upper limit; all others have a lower one.
AT_MOST: tuple[MeasurementName, ...] = (
    "accuracy_drop",
    "size_bytes",
    "latency_ms",
    "float_ops",
    "transposes",
    "npu_time_ms",
    "cpu_ops",
    "sram_bytes",
)
#: What only the device itself can tell.
_TIMES: tuple[MeasurementName, ...] = ("latency_ms", "speedup")
_UNITS: dict[MeasurementName, str] = {
    "accuracy_drop": "score",
    "speedup": "x",
    "size_ratio": "x",
    "size_bytes": "bytes",
    "latency_ms": "ms",
    "npu_time_ms": "ms",
    "sram_bytes": "bytes",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The winning scheme, or None, and why."""

    winner: str | None
    why: str


def choose(
    candidates: Sequence[CandidateReport],
    target: Target,
    gates: Gates,
    tied: Callable[[str, str], bool],
) -> Choice:
    """The fastest candidate that holds the gates; where two cannot be told apart, the
    smaller file.

    Where none holds all gates, the fastest that holds accuracy wins and its verdict tells
    the rest; one whose accuracy is inconclusive wins only where no other holds. Where
    latency cannot be taken, the first in the target's order wins. ``tied(a, b)`` tells
    whether the race left two schemes inside one interval.
    """
    raced = [row for row in candidates if row.status == RACED]
    accurate = [row for row in raced if _holds(row) == "pass"]
    holding = [
        row
        for row in accurate
        if verdict_of(row.scheme, gates_of(row, gates, target)) == "pass"
    ]
    words, doubt = "hold the gates", ""
    if not holding:
        holding, words, doubt = (
            accurate,
            "hold accuracy",
            ", although it does not hold every gate",
        )
    if not holding:
        holding, doubt = (
            [row for row in raced if _holds(row) == "inconclusive"],
            ", although its accuracy is inconclusive",
        )
    if not holding:
        reasons = (
            "; ".join(f"{row.scheme}: {row.status}" for row in candidates)
            or "no scheme could be tried"
        )
        return Choice(None, f"no candidate holds ({reasons})")
    if target.latency == "unmeasured":
        order = {scheme: rank for rank, scheme in enumerate(target.schemes)}
        first = min(holding, key=lambda row: order.get(row.scheme, len(order)))
        return Choice(
            first.scheme,
            f"chosen by rule, latency unmeasured: the first in the target's order of those that {words}{doubt}",
        )
    fastest = max(holding, key=_speedup)
    rivals = [row for row in holding if row is fastest or tied(row.scheme, fastest.scheme)]
    winner = min(rivals, key=_size)
    others = [row.scheme for row in rivals if row is not winner]
    if others:
        return Choice(
            winner.scheme,
            f"as fast as {' and '.join(others)} within the interval, and the smaller file{doubt}",
        )
    return Choice(winner.scheme, f"the fastest of {len(holding)} that {words}{doubt}")


def gates_of(
    winner: CandidateReport | None, gates: Gates, target: Target
) -> tuple[GateReport, ...]:
    """Every gate that is asked for, judged on the winner."""
    rows = []
    for field, limit in gates.model_dump().items():
        name = cast(MeasurementName, field)
        if limit is None or winner is None:
            continue
        measured = winner.find(name) or unmeasured(
            name, _UNITS.get(name, "count"), target.name, "it was not measured"
        )
        verdict = (
            judge_at_most(measured, limit)
            if name in AT_MOST
            else judge_at_least(measured, limit)
        )
        excused = (
            verdict == "unmeasured" and name in _TIMES and target.latency == "unmeasured"
        )
        rows.append(
            GateReport(
                name=name,
                limit=limit,
                value=measured.value,
                low=measured.low,
                high=measured.high,
                unit=measured.unit,
                where=measured.where,
                verdict=verdict,
                required=not excused,
                why=target.latency_note if excused else "",
            )
        )
    return tuple(rows)


def verdict_of(winner: str | None, gates: Sequence[GateReport]) -> Verdict:
    """One verdict for a target: no winner fails; else the worst of the gates that are
    required.
    """
    if winner is None:
        return "fail"
    required = [row.verdict for row in gates if row.required]
    return worst(required) if required else "pass"


def judged_drop(drop: Measurement, limit: float | None) -> Verdict:
    """What an accuracy drop is worth against the gate; pass where none is asked."""
    return "pass" if limit is None else judge_at_most(drop, limit)


def _holds(row: CandidateReport) -> Verdict:
    drop = row.find("accuracy_drop")
    return "unmeasured" if drop is None else drop.verdict or "unmeasured"


def _speedup(row: CandidateReport) -> float:
    """How fast a candidate is by the paired ratio: a median of its own times also holds
    what slowed the machine for a while.
    """
    measured = row.find("speedup")
    return 0.0 if measured is None or measured.value is None else measured.value


def _size(row: CandidateReport) -> int:
    return row.artifact.bytes if row.artifact is not None else 2**63
