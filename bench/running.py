"""Benchmark one network in one runtime: build, run and time all files, judge the winner."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from bench import judgement, making, ours, timing
from bench.networks import Network, Runtime
from bench.results import Result, Row
from edgekit.artifact import Artifact
from edgekit.bundles.shipping import environment
from edgekit.checks import accuracy
from edgekit.checks.metrics import metric_name
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import EdgekitError
from edgekit.task import Task

Say = Callable[[str], None]
Kind = Literal["float", "peer", "edgekit"]


@dataclasses.dataclass
class Entry:
    """A file on its way through the bench."""

    name: str
    kind: Kind
    artifact: Artifact | None = None
    error: str = ""
    outputs: accuracy.ScoredOutputs | None = None
    #: Milliseconds per sample on the test data; only used to choose the timing protocol.
    about_ms: float = 0.0


def bench(
    network: Network, runtime: Runtime, say: Say, *, quick: bool
) -> Result:
    """Everything about one network in one runtime."""
    task = network.task()
    test = task.need("test", "the bench")
    entries = []
    for entry in _build_entries(network, runtime, task, say):
        _score(entry, task, say)
        entries.append(entry)
    protocol = _protocol(entries[0], quick=quick)
    running = {
        entry.name: entry.artifact
        for entry in entries
        if entry.artifact is not None and entry.outputs is not None
    }
    say(f"  timing {len(running)} files interleaved, {protocol.rounds} rounds")
    rows = _rows(entries, timing.race(running, test, protocol), task)
    return Result(
        network=network.name,
        title=network.title,
        runtime=runtime,
        metric=metric_name(task.metric),
        samples=len(test),
        taken=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(making.versions()),
        rounds=protocol.rounds,
        rows=rows,
        judgements=judgement.judge(rows, network.goals.get(runtime)),
    )


def _build_entries(
    network: Network, runtime: Runtime, task: Task, say: Say
) -> Iterator[Entry]:
    """The float file, edgekit's winner and the peers' files, as artifacts."""
    test = task.need("test", "the bench")
    for name in (making.FLOAT, None, *making.peers(runtime)):
        if name is None:
            say("  edgekit run int8")
            try:
                scheme, artifact = ours.run(network, runtime)
                yield Entry(f"edgekit {scheme}", "edgekit", artifact)
            except (ours.NoWinnerError, EdgekitError) as error:
                yield Entry(
                    "edgekit", "edgekit", error=making.first_line(error)
                )
            continue
        say(f"  {name}")
        built = making.make(network, runtime, name)
        kind: Kind = "float" if name == making.FLOAT else "peer"
        entry = Entry(name, kind, error=built.error)
        try:
            if built.file is not None:
                entry.artifact = timing.wrap(
                    built.file, runtime, test, images=network.images
                )
        except EdgekitError as error:
            entry.error = making.first_line(error)
        yield entry


def _score(entry: Entry, task: Task, say: Say) -> None:
    """Run the test data; a file that cannot be run is a row with its error."""
    if entry.artifact is None:
        say(f"    {entry.error}")
        return
    began = time.monotonic()
    try:
        entry.outputs = timing.score(entry.artifact, task)
    except EdgekitError as error:
        entry.error = making.first_line(error)
        say(f"    {entry.error}")
        return
    entry.about_ms = (
        1000 * (time.monotonic() - began) / len(entry.outputs.scores)
    )
    say(f"    score {entry.outputs.scores.mean():.3f}")


def _protocol(reference: Entry, *, quick: bool) -> BenchProtocol:
    """Fewer rounds if inference is slow, each of several calls, so that the CPU caches contain
    the file's own data.
    """
    if quick:
        return timing.QUICK
    return (
        timing.LONG
        if reference.about_ms > timing.LONG_FROM_MS
        else timing.PROTOCOL
    )


def _rows(
    entries: Sequence[Entry], samples: dict[str, Samples], task: Task
) -> tuple[Row, ...]:
    reference = entries[0]
    winner = next(
        (
            entry.name
            for entry in entries
            if entry.kind == "edgekit" and entry.name in samples
        ),
        None,
    )
    return tuple(
        _row(entry, reference, samples, winner, task) for entry in entries
    )


def _row(
    entry: Entry,
    reference: Entry,
    samples: dict[str, Samples],
    winner: str | None,
    task: Task,
) -> Row:
    if entry.outputs is None or entry.artifact is None:
        return Row(name=entry.name, kind=entry.kind, error=entry.error)
    assert reference.outputs is not None
    own = samples[entry.name]
    return Row(
        name=entry.name,
        kind=entry.kind,
        bytes=entry.artifact.size_bytes,
        score=float(entry.outputs.scores.mean()),
        drop=timing.lost(entry.outputs, reference.outputs, task),
        latency_ms=timing.milliseconds(own),
        ratio=timing.ratio(own, samples[reference.name]),
        winner_ratio=None
        if winner is None
        else timing.ratio(samples[winner], own),
    )
