"""The race for one target: build its candidates, audit them, drop the wrong ones, treat
what is ill, time the rest in turns, choose.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

from edgekit import registry, scheme
from edgekit.checks import latency
from edgekit.diagnosis import Diagnosis
from edgekit.errors import EdgekitError
from edgekit.pipeline import verdict
from edgekit.pipeline.candidate import Entry, Ground, built, guarded, key_of
from edgekit.pipeline.code_identity import code_digest
from edgekit.pipeline.timing import timed
from edgekit.pipeline.verification import Verification
from edgekit.planning import remedies
from edgekit.planning.routes import PlannedCandidate, candidate
from edgekit.report import CandidateReport, TargetReport


@dataclasses.dataclass(frozen=True)
class Result:
    """The target's line in the report, and the winner's files."""

    report: TargetReport
    winner: Entry | None
    reference: Entry


def race(ground: Ground) -> Result:
    """Run the whole race for one target."""
    reference = built(ground, ground.planned.reference, ground.baseline)
    if reference.artifact is None:
        return Result(
            _reported(
                ground,
                reference,
                [],
                verdict.Choice(
                    None, f"the float reference could not be made: {reference.status}"
                ),
            ),
            None,
            reference,
        )
    verification = Verification(ground, reference)
    _checked(verification, reference)
    entries = [
        _entered(ground, verification, planned) for planned in ground.planned.candidates
    ]
    if reference.status != verdict.RACED:
        return Result(
            _reported(
                ground,
                reference,
                entries,
                verdict.Choice(
                    None, f"the float reference is not right: {reference.status}"
                ),
            ),
            None,
            reference,
        )
    diagnosis = _treated(ground, verification, entries)
    samples = timed(ground, reference, entries)

    def tied(first: str, second: str) -> bool:
        both_timed = first in samples and second in samples
        return both_timed and not latency.separated(samples[first], samples[second])

    choice = verdict.choose(
        [entry.report() for entry in entries],
        ground.planned.target,
        ground.planned.gates,
        tied,
    )
    winner = next((entry for entry in entries if entry.scheme == choice.winner), None)
    report = _reported(ground, reference, entries, choice)
    return Result(report.model_copy(update={"diagnosis": diagnosis}), winner, reference)


def _entered(
    ground: Ground, verification: Verification, planned: PlannedCandidate, why: str = ""
) -> Entry:
    """One candidate built, audited and verified.

    What that took the first time is kept with it, so that a run from the cache tells the
    same.
    """
    began = time.monotonic()
    entry = built(ground, planned, ground.last)
    entry.why = why
    _checked(verification, entry)
    if entry.artifact is not None and entry.torch is not None:
        key = key_of("cost", entry.artifact.key, entry.torch.key)
        entry.seconds = ground.build.cache.record(
            key, lambda: round(time.monotonic() - began, 1), fresh=ground.fresh
        )
    return entry


def _checked(verification: Verification, entry: Entry) -> None:
    for check in (verification.audit, verification.verify):
        guarded(entry, check)


def _treated(
    ground: Ground, verification: Verification, entries: list[Entry]
) -> Diagnosis | None:
    """Try remedies where quantization loses too much; they join ``entries``.

    Nothing is treated where another quantized candidate holds, unless the effort is
    thorough. None where nothing is ill, but with a thorough effort a healthy network is
    diagnosed too.
    """
    planned, build = ground.planned, ground.build
    ill = next((entry for entry in entries if _is_ill(entry)), None)
    if ill is None and planned.effort == "thorough":
        well = next((entry for entry in entries if _can_be_diagnosed(entry)), None)
        return None if well is None else _diagnosed(ground, well)
    quantized = [
        entry
        for entry in entries
        if scheme.find(entry.scheme).method not in ("float", "cast")
    ]
    if ill is None or (
        any(_holds(entry) for entry in quantized) and planned.effort != "thorough"
    ):
        return None
    found = _diagnosed(ground, ill)
    if found is None:
        return None
    base = scheme.find(ill.scheme).name
    for remedy in remedies.propose(
        found, planned.effort, trainable=build.task.split("train") is not None
    ):
        name = "w8a8-qat" if remedy.trained else base
        if planned.target.refuses(name) is None:
            entries.append(
                _entered(
                    ground,
                    verification,
                    candidate(name, planned.target, planned.samples, remedy.tuning),
                    remedy.why,
                )
            )
            if _holds(entries[-1]):
                break
    return found


def _is_ill(entry: Entry) -> bool:
    """A calibrated file that computes what its simulation computes, and loses too much, or
    perhaps too much.
    """
    drop = entry.find("accuracy_drop")
    return (
        _can_be_diagnosed(entry)
        and drop is not None
        and drop.verdict in ("fail", "inconclusive")
    )


def _can_be_diagnosed(entry: Entry) -> bool:
    known = scheme.find(entry.scheme)
    return (
        known.calibrated
        and known.provider == "edgekit"
        and not known.trained
        and entry.torch is not None
    )


def _holds(entry: Entry) -> bool:
    drop = entry.find("accuracy_drop")
    return entry.status == verdict.RACED and drop is not None and drop.verdict == "pass"


def _diagnosed(ground: Ground, ill: Entry) -> Diagnosis | None:
    """What is wrong with a candidate; None where the diagnosis itself fails, which is told
    and stops nothing.
    """
    build, effort = ground.build, ground.planned.effort
    assert ill.torch is not None
    artifact, trials = ill.torch, remedies.trials(effort)
    split = build.task.need("calibration", "the diagnosis")
    key = key_of(
        "diagnosis",
        artifact.key,
        build.seed,
        [trial.model_dump(mode="json") for trial in trials],
        code_digest(registry.DIAGNOSES.module("torch")),
    )
    build.progress.start(f"diagnose {ground.planned.target.name} {ill.scheme}")

    def work() -> object:
        diagnose: Callable[..., Diagnosis] = registry.DIAGNOSES.load("torch")
        return diagnose(
            artifact, build.networks(ground.model)(), split, build.seed, trials
        ).model_dump(mode="json")

    try:
        found = Diagnosis.model_validate(build.cache.record(key, work, fresh=ground.fresh))
    except EdgekitError as error:
        build.progress.finish(f"failed: {error.message}")
        return None
    build.progress.finish(found.describe())
    return found


def _reported(
    ground: Ground, reference: Entry, entries: Sequence[Entry], choice: verdict.Choice
) -> TargetReport:
    target, planned = ground.planned.target, ground.planned
    rows = [entry.report() for entry in entries]
    left_out = [
        CandidateReport(scheme=name, status=f"dropped: {reason}")
        for name, reason in planned.left_out.items()
    ]
    winner = next((row for row in rows if row.scheme == choice.winner), None)
    gates = verdict.gates_of(winner, planned.gates, target)
    estimate = reference.find("latency_estimate_ms")
    estimated = (
        ""
        if estimate is None
        else f"Latency marked est.: {estimate.where if estimate.value is not None else estimate.how}"
    )
    told = (
        target.latency_note and f"Latency: {target.latency_note}.",
        estimated,
        target.accuracy_note and f"Accuracy: {target.accuracy_note}.",
    )
    notes = tuple(note for note in told if note)
    return TargetReport(
        name=target.name,
        title=target.title,
        format=target.format,
        runtime=target.runtime,
        verdict=verdict.verdict_of(choice.winner, gates),
        winner=choice.winner,
        chosen=choice.why,
        reference=reference.report(),
        candidates=(*rows, *left_out),
        gates=gates,
        notes=notes,
    )
