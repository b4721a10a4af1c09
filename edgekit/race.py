"""The race for one target: build its candidates, audit them, drop the wrong ones, time the rest in turns, choose."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import registry, scheme, verdict
from edgekit.artifact import Artifact
from edgekit.build import Build, try_follow, versions
from edgekit.cache import digest
from edgekit.checks import accuracy, latency, parity, size
from edgekit.contracts import BenchProtocol, Host, Runner, Samples
from edgekit.errors import EdgekitError, RunnerError
from edgekit.hosts.torch_local import TorchRunner
from edgekit.measurement import Measurement, unmeasured
from edgekit.plan import PlannedCandidate, PlannedTarget
from edgekit.report import CandidateReport, TargetReport, describe
from edgekit.task import Split

if TYPE_CHECKING:
    from edgekit.contracts import Feeds

#: Raised when a check's own work changes, so that old measurements are not used.
CHECKS_VERSION = 1
#: The first look at accuracy: what clearly fails the gate here is not evaluated further.
FIRST_LOOK = 256
#: The race goes on, this many times at most, until the two fastest can be told apart.
HEATS = 3
#: What the numbers depend on, beside the files.
RUNTIME_PACKAGES = ("onnxruntime", "ai-edge-litert", "torch", "numpy")


@dataclasses.dataclass
class Entry:
    """A candidate on its way through the race."""

    scheme: str
    artifact: Artifact | None = None
    #: The torch artifact that the file must agree with.
    torch: Artifact | None = None
    status: str = verdict.RACED
    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    warnings: tuple[str, ...] = ()

    def report(self) -> CandidateReport:
        """The candidate's line in the report."""
        artifact = None if self.artifact is None else describe(self.artifact)
        return CandidateReport(scheme=self.scheme, status=self.status, artifact=artifact, measurements=tuple(self.measurements), warnings=self.warnings)


@dataclasses.dataclass(frozen=True)
class Ground:
    """What all candidates of one target share."""

    build: Build
    model: str
    planned: PlannedTarget
    #: The float network before pruning, and the network that is shipped.
    baseline: Artifact
    last: Artifact
    host: Host
    fresh: bool = False
    protocol: BenchProtocol = BenchProtocol()


@dataclasses.dataclass(frozen=True)
class Result:
    """The target's line in the report, and the winner's files."""

    report: TargetReport
    winner: Artifact | None


def race(ground: Ground) -> Result:
    """Run the whole race for one target."""
    reference = _built(ground, ground.planned.reference, ground.baseline)
    if reference.artifact is None:
        return Result(_reported(ground, reference, [], verdict.Choice(None, f"the float reference could not be made: {reference.status}")), None)
    entries = [_built(ground, planned, ground.last) for planned in ground.planned.candidates]
    for entry in (reference, *entries):
        _guarded(entry, lambda entry: _audited(ground, entry))
        _guarded(entry, lambda entry: _verified(ground, entry, reference))
    if reference.status != verdict.RACED:
        return Result(_reported(ground, reference, entries, verdict.Choice(None, f"the float reference is not right: {reference.status}")), None)
    samples = _timed(ground, reference, entries)
    tied = lambda a, b: a in samples and b in samples and not latency.separated(samples[a], samples[b])  # noqa: E731
    choice = verdict.choose([entry.report() for entry in entries], ground.planned.target, tied)
    winner = next((entry.artifact for entry in entries if entry.scheme == choice.winner), None)
    return Result(_reported(ground, reference, entries, choice), winner)


def _built(ground: Ground, planned: PlannedCandidate, start: Artifact) -> Entry:
    """Build one candidate; what stops it becomes its status."""
    entry, steps, build = Entry(planned.scheme), planned.steps, ground.build
    torch_steps = [step for step in steps if step.step == "quantize_torch"]
    made = try_follow(build, ground.model, start, torch_steps) if torch_steps else start
    entry.torch = None if isinstance(made, EdgekitError) else made
    if entry.torch is not None:
        made = try_follow(build, ground.model, entry.torch, steps[len(torch_steps) :])
    if isinstance(made, EdgekitError):
        entry.status = f"failed: {made.message}"
        return entry
    entry.artifact = made
    return entry


def _guarded(entry: Entry, work: Callable[[Entry], None]) -> None:
    """Do one check; a runtime that refuses or crashes fails this candidate only."""
    if entry.status != verdict.RACED:
        return
    try:
        work(entry)
    except RunnerError as error:
        entry.status = f"failed: {error.message}"


def _audited(ground: Ground, entry: Entry) -> None:
    assert entry.artifact is not None
    artifact, limits = entry.artifact, ground.planned.target.limits
    found = ground.build.cache.record(
        _key("audit", artifact.key, limits.model_dump(mode="json")), lambda: _audit(artifact, limits), fresh=ground.fresh)  # fmt: skip
    entry.measurements += _measurements(found["measurements"])
    entry.warnings = tuple(found["warnings"])


def _audit(artifact: Artifact, limits: Any) -> Mapping[str, Any]:
    audit = registry.AUDITS.load(artifact.form)(artifact, limits)
    return {"measurements": _dumped(audit.measurements), "warnings": list(audit.warnings)}


def _verified(ground: Ground, entry: Entry, reference: Entry) -> None:
    """Parity with torch, then accuracy against the reference; what fails is dropped with the number that says so."""
    assert entry.artifact is not None
    assert entry.torch is not None
    assert reference.artifact is not None
    data = ground.build.task.describe()
    key = _key(
        "verify", entry.artifact.key, entry.torch.key, reference.artifact.key, data["splits"]["test"], data["metric"], ground.planned.gates.accuracy_drop
    )
    ground.build.progress.start(f"verify {ground.planned.target.name} {'reference' if entry is reference else entry.scheme}")
    found = ground.build.cache.record(key, lambda: _dumped(_verify(ground, entry, reference)), fresh=ground.fresh)
    entry.measurements += _measurements(found)
    entry.measurements += [size.size_bytes(entry.artifact), size.size_ratio(reference.artifact, entry.artifact)]
    broken = next((row for row in entry.measurements if row.name in ("parity", "accuracy_drop") and row.verdict == "fail"), None)
    if broken is not None and broken.name == "parity":
        entry.status = f"dropped: it does not compute what torch computes ({broken.detail.get('fault') or f'{broken.value:.3g} {broken.unit}'})"
    elif broken is not None:
        entry.status = f"dropped: it loses {broken.value:.4f} {broken.unit} (gate {ground.planned.gates.accuracy_drop})"
    ground.build.progress.finish(entry.status)


def _verify(ground: Ground, entry: Entry, reference: Entry) -> list[Measurement]:
    assert entry.artifact is not None
    assert entry.torch is not None
    assert reference.artifact is not None
    build, test, outputs = ground.build, ground.build.task.need("test", "verification"), entry.artifact.parts[-1].signature.outputs
    with ground.host.open(entry.artifact) as candidate, torch_runner(build, ground.model, entry.torch) as torch:
        same = parity.check(candidate, torch, test.inputs, outputs, scheme.find(entry.scheme).parity_steps, _output_step(entry.torch))
        if same.verdict == "fail":
            return [same]
        with ground.host.open(reference.artifact) as original:
            return [same, *_compared(ground, candidate, original, test)]


def _output_step(quantized: Artifact) -> float | None:
    """The largest scale with which the network's outputs are quantized; None for a float network."""
    scales = quantized.notes.get("parts", {}).get(quantized.parts[-1].name, {}).get("output_scales", ())
    return max((scale for scale in scales if scale is not None), default=None)


def _compared(ground: Ground, candidate: Runner, original: Runner, test: Split) -> list[Measurement]:
    """Accuracy against the reference on growing pieces of the test data, until the candidate clearly fails or all are seen."""
    metric, limit = ground.build.task.metric, ground.planned.gates.accuracy_drop
    rows: list[Measurement] = []
    for piece in [test] if len(test) <= 2 * FIRST_LOOK else [test.take(FIRST_LOOK), test]:
        rows = [
            row.model_copy(update={"verdict": verdict.judged_drop(row, limit)}) if row.name == "accuracy_drop" else row
            for row in accuracy.measure(accuracy.answer(candidate, piece, metric), accuracy.answer(original, piece, metric), metric)
        ]
        if any(row.verdict == "fail" for row in rows):
            break
    return rows


def torch_runner(build: Build, model: str, artifact: Artifact) -> Runner:
    """The torch network of an artifact as a runner: quantized as in its file where it is."""
    quantized = any("quantization" in part.files for part in artifact.parts)
    load = registry.REFERENCES.load("quantized" if quantized else "float")
    return TorchRunner(load(artifact, build.networks(model)()), artifact.parts)


def _timed(ground: Ground, reference: Entry, entries: Sequence[Entry]) -> dict[str, Samples]:
    """Time what is left in turns with the reference; raw samples by scheme."""
    target, build = ground.planned.target, ground.build
    left = [entry for entry in entries if entry.status == verdict.RACED]
    if target.latency == "unmeasured":
        for entry in (reference, *left):
            entry.measurements += [
                unmeasured("latency_ms", "ms", target.name, target.latency_note),
                unmeasured("speedup", "x", target.name, target.latency_note),
            ]
        return {}
    if not left:
        return {}
    files = {entry.scheme: entry.artifact for entry in left if entry.artifact is not None}
    assert reference.artifact is not None
    key = _key("race", reference.artifact.key, {name: artifact.key for name, artifact in files.items()}, dataclasses.asdict(ground.protocol))
    build.progress.start(f"race {target.name}")
    build.progress.expect(HEATS)
    feeds = {name: array[:1] for name, array in build.task.need("test", "the race").inputs.items()}
    try:
        raw = build.cache.record(key, lambda: _heats(ground, {"": reference.artifact, **files}, feeds), fresh=ground.fresh)
    except RunnerError as error:
        for entry in left:
            entry.status = f"failed: it could not be timed: {error.message}"
        build.progress.finish("failed")
        return {}
    samples = {name: Samples(tuple(times)) for name, times in raw["samples"].items()}
    for entry in (reference, *left):
        name = "" if entry is reference else entry.scheme
        entry.measurements += [
            latency.latency(samples[name], raw["where"], ground.protocol),
            latency.speedup(samples[""], samples[name], raw["where"], ground.protocol),
        ]
    build.progress.finish()
    return samples


def _heats(ground: Ground, files: "Mapping[str, Any]", feeds: "Feeds") -> dict[str, Any]:
    """Race until the two fastest can be told apart, or the heats are used up."""
    samples: dict[str, Samples] = {}
    for heat in range(HEATS):
        protocol = dataclasses.replace(ground.protocol, seed=ground.protocol.seed + heat)
        more = ground.host.race(files, feeds, protocol)
        samples = {name: Samples((*(samples[name].nanoseconds if name in samples else ()), *times.nanoseconds)) for name, times in more.items()}
        ground.build.progress.advance()
        ranked = sorted((name for name in samples if name), key=lambda name: statistics.median(samples[name].nanoseconds))
        if len(ranked) < 2 or latency.separated(samples[ranked[0]], samples[ranked[1]]):
            break
    with ground.host.open(next(iter(files.values()))) as runner:
        where = runner.where
    return {"where": where, "samples": {name: list(times.nanoseconds) for name, times in samples.items()}}


def _reported(ground: Ground, reference: Entry, entries: Sequence[Entry], choice: verdict.Choice) -> TargetReport:
    target, planned = ground.planned.target, ground.planned
    rows = [entry.report() for entry in entries]
    left_out = [CandidateReport(scheme=name, status=f"dropped: {reason}") for name, reason in planned.left_out.items()]
    winner = next((row for row in rows if row.scheme == choice.winner), None)
    gates = verdict.gates_of(winner, planned.gates, target)
    notes = tuple(
        note for note in (target.latency_note and f"Latency: {target.latency_note}.", target.accuracy_note and f"Accuracy: {target.accuracy_note}.") if note
    )
    return TargetReport(
        name=target.name, title=target.title, form=target.form, runtime=target.runtime, verdict=verdict.verdict_of(choice.winner, gates),
        winner=choice.winner, chosen=choice.why, reference=reference.report(), candidates=(*rows, *left_out), gates=gates, notes=notes,
    )  # fmt: skip


def _key(what: str, *facts: Any) -> str:
    return digest({"check": what, "version": CHECKS_VERSION, "facts": list(facts), "packages": versions(RUNTIME_PACKAGES)})


def _dumped(rows: Sequence[Measurement]) -> list[Any]:
    return [row.model_dump(mode="json") for row in rows]


def _measurements(rows: Sequence[Any]) -> list[Measurement]:
    return [Measurement.model_validate(row) for row in rows]
