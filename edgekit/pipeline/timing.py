"""The timing of a race.

Files are timed interleaved with the float reference, in passes, until the two fastest are
statistically distinguishable.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.artifact import Artifact
from edgekit.checks import latency
from edgekit.contracts import Samples
from edgekit.errors import EdgekitError, RunnerError
from edgekit.measurement import unmeasured
from edgekit.pipeline.candidate import Candidate, RaceContext, measurement_key

if TYPE_CHECKING:
    from edgekit.arrays import Feeds

#: The most passes until the two fastest must be distinguishable.
MAX_PASSES = 3
#: The reference's name among the raw times.
_REFERENCE = ""


def time_candidates(
    context: RaceContext, reference: Candidate, candidates: Sequence[Candidate]
) -> dict[str, Samples]:
    """Time what still races, interleaved with the reference.

    Adds ``latency_ms`` and ``speedup`` to the reference and to every candidate that could be
    timed. Returns the raw samples by scheme; empty if the target's latency cannot be taken.
    """
    target = context.planned.target
    racing = [candidate for candidate in candidates if candidate.races]
    if target.latency == "unmeasured":
        for candidate in (reference, *racing):
            _mark_unmeasured(context, candidate)
        return {}
    if not racing:
        return {}
    progress = context.build.progress
    progress.start(f"race {target.name}")
    raw = _raw_times(context, reference, racing)
    samples = {
        name: Samples(tuple(times)) for name, times in raw["samples"].items()
    }
    if not samples:
        progress.finish("failed")
        return {}
    where = next(
        row.where for row in reference.measurements if row.name == "accuracy"
    )
    original = samples[_REFERENCE]
    for candidate in (reference, *(each for each in racing if each.races)):
        own = original
        if candidate is not reference:
            # If nothing was pruned, the float candidate is the reference's own file, and was
            # not timed against itself.
            own = samples.setdefault(candidate.scheme, original)
        candidate.measurements += [
            latency.latency(own, where, context.protocol),
            latency.speedup(original, own, where, context.protocol),
        ]
    progress.finish()
    return samples


def _mark_unmeasured(context: RaceContext, candidate: Candidate) -> None:
    target = context.planned.target
    candidate.measurements += [
        unmeasured("latency_ms", "ms", target.name, target.latency_note),
        unmeasured("speedup", "x", target.name, target.latency_note),
    ]
    _add_estimate(candidate, target.estimate)


def _add_estimate(candidate: Candidate, table: str) -> None:
    """Add what a latency table of the device predicts, if there is one.

    An estimate passes no gate and chooses nothing.
    """
    if not table or candidate.artifact is None:
        return
    estimate = registry.ESTIMATES.load("table")
    try:
        measured = estimate(candidate.artifact, table).measurement()
    except EdgekitError as error:
        measured = unmeasured("latency_estimate_ms", "ms", table, error.message)
    candidate.measurements.append(measured)


def _raw_times(
    context: RaceContext, reference: Candidate, racing: Sequence[Candidate]
) -> dict[str, Any]:
    """The raw times of the reference and of the candidates.

    If a file cannot be timed, the files are timed one by one to find it; it fails.
    """
    try:
        return _time_files(context, reference, racing)
    except RunnerError:
        for candidate in racing:
            _fail_if_untimeable(context, reference, candidate)
    timeable = [candidate for candidate in racing if candidate.races]
    if not timeable:
        return {"samples": {}}
    return _time_files(context, reference, timeable)


def _fail_if_untimeable(
    context: RaceContext, reference: Candidate, candidate: Candidate
) -> None:
    try:
        _time_files(context, reference, [candidate])
    except RunnerError as error:
        message = f"it could not be timed: {error.message}"
        candidate.fail(RunnerError(message, fix=error.fix))


def _time_files(
    context: RaceContext, reference: Candidate, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """Time files interleaved; cached if the same files were timed on this machine before."""
    original = reference.file
    files: dict[str, Artifact] = {}
    for candidate in candidates:
        if (
            candidate.artifact is not None
            and candidate.artifact.key != original.key
        ):
            files[candidate.scheme] = candidate.artifact
    key = measurement_key(
        "race",
        original.key,
        {name: artifact.key for name, artifact in files.items()},
        dataclasses.asdict(context.protocol),
        MAX_PASSES,
        context.host_identity,
    )
    test = context.build.task.need("test", "the race")
    feeds = {name: array[:1] for name, array in test.inputs.items()}
    context.build.progress.expect(MAX_PASSES)
    times: dict[str, Any] = context.record(
        key,
        lambda: _run_passes(context, {_REFERENCE: original, **files}, feeds),
    )
    return times


def _run_passes(
    context: RaceContext, files: Mapping[str, Artifact], feeds: "Feeds"
) -> dict[str, Any]:
    """Repeat until the two fastest are distinguishable, or the passes are used up."""
    times: dict[str, list[float]] = {name: [] for name in files}
    for number in range(MAX_PASSES):
        seed = context.protocol.seed + number
        protocol = dataclasses.replace(context.protocol, seed=seed)
        for name, more in context.host.race(files, feeds, protocol).items():
            times[name] += more.nanoseconds
        context.build.progress.advance()
        if _distinguishable(times):
            break
    return {"samples": times}


def _distinguishable(times: Mapping[str, Sequence[float]]) -> bool:
    """Whether the two fastest candidates are, or there are fewer than two."""
    names = [name for name in times if name != _REFERENCE]
    ranked = sorted(names, key=lambda name: statistics.median(times[name]))
    if len(ranked) < 2:
        return True
    first, second = (Samples(tuple(times[name])) for name in ranked[:2])
    return latency.are_distinguishable(first, second)
