"""The race for one target.

Candidates are built, audited and verified. Remedies are tried if quantization loses too
much, what is left is timed interleaved with float, and one file is chosen.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

from edgekit import registry, scheme
from edgekit.checks import latency
from edgekit.diagnosis import Diagnosis
from edgekit.errors import EdgekitError
from edgekit.measurement import Measurement
from edgekit.pipeline import verdict
from edgekit.pipeline.candidate import (
    Candidate,
    RaceContext,
    build_candidate,
    check_candidate,
    measurement_key,
)
from edgekit.pipeline.code_identity import code_digest
from edgekit.pipeline.timing import time_candidates
from edgekit.pipeline.verification import Verification
from edgekit.planning import remedies, routes
from edgekit.planning.routes import PlannedCandidate
from edgekit.report import CandidateReport, TargetReport


@dataclasses.dataclass(frozen=True)
class RaceResult:
    """The target's part of the report, and the winner with its reference."""

    report: TargetReport
    winner: Candidate | None
    reference: Candidate


def race(context: RaceContext) -> RaceResult:
    """Run the race of one target."""
    planned = context.planned
    reference = build_candidate(context, planned.reference, context.baseline)
    if reference.artifact is None:
        reason = f"the float reference could not be built: {reference.report().outcome}"
        return _without_winner(context, reference, [], reason)
    verification = Verification(context, reference)
    _check(verification, reference)
    candidates = [
        _enter(context, verification, each) for each in planned.candidates
    ]
    if not reference.races:
        reason = (
            f"the float reference is not valid: {reference.report().outcome}"
        )
        return _without_winner(context, reference, candidates, reason)
    diagnosis = _try_remedies(context, verification, candidates)
    samples = time_candidates(context, reference, candidates)

    def tied(first: str, second: str) -> bool:
        both_timed = first in samples and second in samples
        return both_timed and not latency.are_distinguishable(
            samples[first], samples[second]
        )

    rows = [candidate.report() for candidate in candidates]
    choice = verdict.choose(rows, planned.target, planned.gates, tied)
    winner = next(
        (each for each in candidates if each.scheme == choice.winner), None
    )
    report = _target_report(context, reference, candidates, choice)
    return RaceResult(
        report.model_copy(update={"diagnosis": diagnosis}), winner, reference
    )


def _without_winner(
    context: RaceContext,
    reference: Candidate,
    candidates: Sequence[Candidate],
    reason: str,
) -> RaceResult:
    choice = verdict.Choice(None, reason)
    report = _target_report(context, reference, candidates, choice)
    return RaceResult(report, None, reference)


def _enter(
    context: RaceContext,
    verification: Verification,
    planned: PlannedCandidate,
    why: str = "",
) -> Candidate:
    """Build, audit and verify one candidate.

    The time that this took is kept in the cache, so that a cached run reports the same.
    """
    began = time.monotonic()
    candidate = build_candidate(context, planned, context.last)
    candidate.why = why
    _check(verification, candidate)
    if candidate.artifact is not None and candidate.torch is not None:
        key = measurement_key(
            "cost", candidate.artifact.key, candidate.torch.key
        )
        candidate.seconds = context.record(
            key, lambda: round(time.monotonic() - began, 1)
        )
    return candidate


def _check(verification: Verification, candidate: Candidate) -> None:
    for check in (verification.audit, verification.verify):
        check_candidate(candidate, check)


def _try_remedies(
    context: RaceContext,
    verification: Verification,
    candidates: list[Candidate],
) -> Diagnosis | None:
    """Try remedies if quantization loses too much. They join ``candidates``.

    Nothing is tried if another quantized candidate holds, unless the effort is thorough.
    Returns the diagnosis, or None if there was none; with a thorough effort, a network that
    loses nothing is diagnosed too.
    """
    thorough = context.planned.effort == "thorough"
    failing = next((each for each in candidates if _fails_accuracy(each)), None)
    if failing is None:
        healthy = next(
            (each for each in candidates if _can_be_diagnosed(each)), None
        )
        if not thorough or healthy is None:
            return None
        return _diagnose(context, healthy)
    if not thorough and any(
        _is_quantized(each) and _holds(each) for each in candidates
    ):
        return None
    diagnosis = _diagnose(context, failing)
    if diagnosis is not None:
        _enter_remedies(context, verification, candidates, (failing, diagnosis))
    return diagnosis


def _enter_remedies(
    context: RaceContext,
    verification: Verification,
    candidates: list[Candidate],
    diagnosed: tuple[Candidate, Diagnosis],
) -> None:
    """Build and verify the proposed remedies until one holds accuracy."""
    failing, diagnosis = diagnosed
    planned = context.planned
    trainable = context.build.task.split("train") is not None
    base = scheme.find(failing.scheme).name
    for remedy in remedies.propose(
        diagnosis, planned.effort, trainable=trainable
    ):
        name = "w8a8-qat" if remedy.trained else base
        if planned.target.refuses(name) is not None:
            continue
        steps = routes.candidate(
            name, planned.target, planned.samples, remedy.tuning
        )
        candidates.append(_enter(context, verification, steps, remedy.why))
        if _holds(candidates[-1]):
            return


def _fails_accuracy(candidate: Candidate) -> bool:
    """Whether it computes what its simulation computes, and loses too much or may do so."""
    drop = candidate.measurement("accuracy_drop")
    if drop is None or not _can_be_diagnosed(candidate):
        return False
    return drop.verdict in ("fail", "inconclusive")


def _can_be_diagnosed(candidate: Candidate) -> bool:
    """Whether edgekit's own simulation of its quantization exists."""
    used = scheme.find(candidate.scheme)
    simulated = (
        used.calibrated and used.provider == "edgekit" and not used.trained
    )
    return simulated and candidate.torch is not None


def _is_quantized(candidate: Candidate) -> bool:
    return scheme.find(candidate.scheme).method not in ("float", "cast")


def _holds(candidate: Candidate) -> bool:
    drop = candidate.measurement("accuracy_drop")
    return candidate.races and drop is not None and drop.verdict == "pass"


def _diagnose(context: RaceContext, candidate: Candidate) -> Diagnosis | None:
    """Find which layers lose the accuracy of a candidate.

    Returns None if the diagnosis fails; that is reported and stops nothing.
    """
    build, effort = context.build, context.planned.effort
    assert candidate.torch is not None
    artifact = candidate.torch
    trials = remedies.trials(effort)
    split = build.task.need("calibration", "the diagnosis")
    key = measurement_key(
        "diagnosis",
        artifact.key,
        build.seed,
        [trial.model_dump(mode="json") for trial in trials],
        code_digest(registry.DIAGNOSES.module("torch")),
    )
    build.progress.start(
        f"diagnose {context.planned.target.name} {candidate.scheme}"
    )

    def work() -> object:
        diagnose: Callable[..., Diagnosis] = registry.DIAGNOSES.load("torch")
        networks = build.networks(context.model)()
        return diagnose(
            artifact, networks, split, build.seed, trials
        ).model_dump(mode="json")

    try:
        diagnosis = Diagnosis.model_validate(context.record(key, work))
    except EdgekitError as error:
        build.progress.finish(f"failed: {error.message}")
        return None
    build.progress.finish(diagnosis.describe())
    return diagnosis


def _target_report(
    context: RaceContext,
    reference: Candidate,
    candidates: Sequence[Candidate],
    choice: verdict.Choice,
) -> TargetReport:
    target, planned = context.planned.target, context.planned
    rows = [candidate.report() for candidate in candidates]
    for name, reason in planned.left_out.items():
        rows.append(
            CandidateReport(scheme=name, status="dropped", reason=reason)
        )
    winner = next((row for row in rows if row.scheme == choice.winner), None)
    gates = verdict.gates_of(winner, planned.gates, target)
    return TargetReport(
        name=target.name,
        title=target.title,
        format=target.format,
        runtime=target.runtime,
        verdict=verdict.verdict_of(choice.winner, gates),
        winner=choice.winner,
        chosen=choice.why,
        reference=reference.report(),
        candidates=tuple(rows),
        gates=gates,
        notes=_notes(context, reference.measurement("latency_estimate_ms")),
    )


def _notes(
    context: RaceContext, estimate: Measurement | None
) -> tuple[str, ...]:
    """The report's notes on where the target's numbers come from."""
    target = context.planned.target
    notes = []
    if target.latency_note:
        notes.append(f"Latency: {target.latency_note}.")
    if estimate is not None:
        source = estimate.how if estimate.value is None else estimate.where
        notes.append(f"Latency marked est.: {source}")
    if target.accuracy_note:
        notes.append(f"Accuracy: {target.accuracy_note}.")
    return tuple(notes)
