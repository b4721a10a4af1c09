"""The timing of a race: files in turns with the reference, heat after heat, until the
fastest can be told apart.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.checks import latency
from edgekit.contracts import Samples
from edgekit.errors import EdgekitError, RunnerError
from edgekit.measurement import unmeasured
from edgekit.pipeline import verdict
from edgekit.pipeline.candidate import Entry, Ground, failed, key_of

if TYPE_CHECKING:
    from edgekit.contracts import Feeds

#: The race goes on, this many times at most, until the two fastest can be told apart.
HEATS = 3


def timed(ground: Ground, reference: Entry, entries: Sequence[Entry]) -> dict[str, Samples]:
    """Time what is left in turns with the reference; raw samples by scheme."""
    target, build = ground.planned.target, ground.build
    left = [entry for entry in entries if entry.status == verdict.RACED]
    if target.latency == "unmeasured":
        for entry in (reference, *left):
            entry.measurements += [
                unmeasured("latency_ms", "ms", target.name, target.latency_note),
                unmeasured("speedup", "x", target.name, target.latency_note),
            ]
            _estimated(entry, target.estimate)
        return {}
    if not left:
        return {}
    build.progress.start(f"race {target.name}")
    raw = _raw_times(ground, reference, left)
    samples = {name: Samples(tuple(times)) for name, times in raw["samples"].items()}
    if not samples:
        build.progress.finish("failed")
        return {}
    where = next(row.where for row in reference.measurements if row.name == "accuracy")
    for entry in (reference, *(entry for entry in left if entry.status == verdict.RACED)):
        if entry is not reference:
            # Where nothing was pruned the float candidate is the reference's own file, and
            # was not raced against itself.
            samples.setdefault(entry.scheme, samples[""])
        ours = samples["" if entry is reference else entry.scheme]
        entry.measurements += [
            latency.latency(ours, where, ground.protocol),
            latency.speedup(samples[""], ours, where, ground.protocol),
        ]
    build.progress.finish()
    return samples


def _estimated(entry: Entry, table: str) -> None:
    """Show what a table of the device says, where there is one.

    It passes no gate and chooses nothing.
    """
    if not table or entry.artifact is None:
        return
    estimate = registry.ESTIMATES.load("table")
    try:
        entry.measurements.append(estimate(entry.artifact, table).measurement())
    except EdgekitError as error:
        entry.measurements.append(
            unmeasured("latency_estimate_ms", "ms", table, error.message)
        )


def _raw_times(ground: Ground, reference: Entry, left: Sequence[Entry]) -> dict[str, Any]:
    """The raw times of the reference (the empty name) and of what is left.

    A file that cannot be timed is found and marked.
    """
    try:
        return _raced(ground, reference, left)
    except RunnerError:
        for entry in left:
            try:
                _raced(ground, reference, [entry])
            except RunnerError as error:
                entry.status = failed(
                    RunnerError(f"it could not be timed: {error.message}", fix=error.fix)
                )
    timeable = [entry for entry in left if entry.status == verdict.RACED]
    return _raced(ground, reference, timeable) if timeable else {"samples": {}}


def _raced(ground: Ground, reference: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    """One race in turns; read from the cache where the same files were raced on this
    machine before.
    """
    original = reference.artifact
    assert original is not None
    files = {
        entry.scheme: entry.artifact
        for entry in entries
        if entry.artifact is not None and entry.artifact.key != original.key
    }
    keys = {name: artifact.key for name, artifact in files.items()}
    key = key_of(
        "race", original.key, keys, dataclasses.asdict(ground.protocol), HEATS, ground.place
    )
    feeds = {
        name: array[:1]
        for name, array in ground.build.task.need("test", "the race").inputs.items()
    }
    ground.build.progress.expect(HEATS)
    found: dict[str, Any] = ground.build.cache.record(
        key, lambda: _heats(ground, {"": original, **files}, feeds), fresh=ground.fresh
    )
    return found


def _heats(ground: Ground, files: "Mapping[str, Any]", feeds: "Feeds") -> dict[str, Any]:
    """Race until the two fastest can be told apart, or the heats are used up."""
    samples: dict[str, Samples] = {}
    for heat in range(HEATS):
        protocol = dataclasses.replace(ground.protocol, seed=ground.protocol.seed + heat)
        more = ground.host.race(files, feeds, protocol)
        samples = {
            name: Samples(
                (
                    *(samples[name].nanoseconds if name in samples else ()),
                    *times.nanoseconds,
                )
            )
            for name, times in more.items()
        }
        ground.build.progress.advance()
        ranked = sorted(
            (name for name in samples if name),
            key=lambda name: statistics.median(samples[name].nanoseconds),
        )
        if len(ranked) < 2 or latency.separated(samples[ranked[0]], samples[ranked[1]]):
            break
    return {"samples": {name: list(times.nanoseconds) for name, times in samples.items()}}
