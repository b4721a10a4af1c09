"""Which candidate wins a race, and whether it holds its gates.

Pure: from measurements to a choice, with its reason.
"""

import dataclasses
from collections.abc import Callable, Sequence

from edgekit.measurement import (
    QUANTITIES,
    Measurement,
    MeasurementName,
    Verdict,
    judge,
    judge_at_most,
    unmeasured,
    worst,
)
from edgekit.recipe import Gates
from edgekit.report import CandidateReport, GateReport
from edgekit.target import Target

#: Larger than any file, for a candidate whose size is not known.
_UNKNOWN_SIZE = 2**63


@dataclasses.dataclass(frozen=True)
class Choice:
    """The winning scheme, or None, and why."""

    winner: str | None
    why: str


@dataclasses.dataclass(frozen=True)
class _Finalists:
    """The candidates that one of is chosen from, and how the report describes them."""

    rows: Sequence[CandidateReport]
    description: str
    caveat: str = ""


def choose(
    candidates: Sequence[CandidateReport],
    target: Target,
    gates: Gates,
    tied: Callable[[str, str], bool],
) -> Choice:
    """Choose the fastest candidate that holds the gates; of two equally fast, the smaller.

    If none holds all gates, the fastest that holds accuracy wins, and its verdict reports
    the gates that fail. A candidate whose accuracy is inconclusive wins only if no other
    holds. If latency cannot be taken, the first in the target's order wins.

    ``tied(a, b)`` is whether the race left two schemes inside one interval.
    """
    finalists = _finalists(candidates, target, gates)
    if not finalists.rows:
        outcomes = "; ".join(
            f"{row.scheme}: {row.outcome}" for row in candidates
        )
        return Choice(
            None,
            f"no candidate holds ({outcomes or 'no scheme could be tried'})",
        )
    if target.latency == "unmeasured":
        return _first_in_order(finalists, target)
    return _fastest(finalists, tied)


def _finalists(
    candidates: Sequence[CandidateReport], target: Target, gates: Gates
) -> _Finalists:
    raced = [row for row in candidates if row.status == "raced"]
    accurate = [row for row in raced if _accuracy_verdict(row) == "pass"]
    holding = [row for row in accurate if _holds_gates(row, gates, target)]
    if holding:
        return _Finalists(holding, "hold the gates")
    if accurate:
        return _Finalists(
            accurate, "hold accuracy", ", although it does not hold every gate"
        )
    uncertain = [
        row for row in raced if _accuracy_verdict(row) == "inconclusive"
    ]
    return _Finalists(
        uncertain, "hold accuracy", ", although its accuracy is inconclusive"
    )


def _first_in_order(finalists: _Finalists, target: Target) -> Choice:
    order = {scheme: rank for rank, scheme in enumerate(target.schemes)}
    first = min(
        finalists.rows, key=lambda row: order.get(row.scheme, len(order))
    )
    why = (
        "chosen by rule, latency unmeasured: the first in the target's order of those that "
        f"{finalists.description}{finalists.caveat}"
    )
    return Choice(first.scheme, why)


def _fastest(finalists: _Finalists, tied: Callable[[str, str], bool]) -> Choice:
    fastest = max(finalists.rows, key=_speedup)
    rivals = [fastest]
    rivals += [
        row
        for row in finalists.rows
        if row is not fastest and tied(row.scheme, fastest.scheme)
    ]
    in_order = [row for row in finalists.rows if row in rivals]
    winner = min(in_order, key=_size)
    others = [row.scheme for row in in_order if row is not winner]
    if others:
        names = " and ".join(others)
        why = f"as fast as {names} within the interval, and the smaller file{finalists.caveat}"
    else:
        count = len(finalists.rows)
        why = f"the fastest of {count} that {finalists.description}{finalists.caveat}"
    return Choice(winner.scheme, why)


def gates_of(
    winner: CandidateReport | None, gates: Gates, target: Target
) -> tuple[GateReport, ...]:
    """Judge the winner on every gate that is set."""
    if winner is None:
        return ()
    rows = []
    for field, limit in gates.model_dump().items():
        if limit is not None:
            rows.append(_judge_gate(winner, field, limit, target))
    return tuple(rows)


def _judge_gate(
    winner: CandidateReport, name: MeasurementName, limit: float, target: Target
) -> GateReport:
    quantity = QUANTITIES[name]
    measured = winner.measurement(name)
    if measured is None:
        measured = unmeasured(
            name, quantity.unit, target.name, "it was not measured"
        )
    verdict = judge(measured, limit)
    only_on_device = quantity.device_only and target.latency == "unmeasured"
    excused = verdict == "unmeasured" and only_on_device
    return GateReport(
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


def verdict_of(winner: str | None, gates: Sequence[GateReport]) -> Verdict:
    """The verdict of a target: ``fail`` without a winner, else the worst required gate."""
    if winner is None:
        return "fail"
    required = [row.verdict for row in gates if row.required]
    return worst(required) if required else "pass"


def judge_drop(drop: Measurement, limit: float | None) -> Verdict:
    """Compare an accuracy drop with its gate; ``pass`` if there is no gate."""
    return "pass" if limit is None else judge_at_most(drop, limit)


def _holds_gates(row: CandidateReport, gates: Gates, target: Target) -> bool:
    return verdict_of(row.scheme, gates_of(row, gates, target)) == "pass"


def _accuracy_verdict(row: CandidateReport) -> Verdict:
    drop = row.measurement("accuracy_drop")
    return "unmeasured" if drop is None else drop.verdict or "unmeasured"


def _speedup(row: CandidateReport) -> float:
    """How fast a candidate is by the paired ratio.

    A median of the times alone would also contain what slowed the machine for a while.
    """
    measured = row.measurement("speedup")
    return 0.0 if measured is None or measured.value is None else measured.value


def _size(row: CandidateReport) -> int:
    return _UNKNOWN_SIZE if row.artifact is None else row.artifact.bytes
