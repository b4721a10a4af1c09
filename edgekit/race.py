"""The race for one target: build its candidates, audit them, drop the wrong ones, time the rest in turns, choose."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit import registry, scheme, verdict
from edgekit.artifact import Artifact, outputs_of
from edgekit.build import Build, code_digest, identities, try_follow, versions
from edgekit.cache import digest
from edgekit.checks import accuracy, latency, parity, size
from edgekit.contracts import BenchProtocol, Host, Runner, Samples
from edgekit.errors import EdgekitError, ModelError, RunnerError, StepError, TaskError
from edgekit.hosts.torch_local import TorchRunner
from edgekit.measurement import Measurement, unmeasured
from edgekit.plan import PlannedCandidate, PlannedTarget
from edgekit.report import CandidateReport, TargetReport, describe
from edgekit.shipping import machine
from edgekit.task import Split

if TYPE_CHECKING:
    from edgekit.contracts import Feeds

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
    choice = verdict.choose([entry.report() for entry in entries], ground.planned.target, ground.planned.gates, tied)
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
        entry.status = _failed(made)
        return entry
    entry.artifact = made
    return entry


def _guarded(entry: Entry, work: Callable[[Entry], None]) -> None:
    """Do one check; a runtime that refuses or crashes, or a file that cannot be read, fails this candidate only."""
    if entry.status != verdict.RACED:
        return
    try:
        work(entry)
    except (RunnerError, ModelError, StepError) as error:
        entry.status = _failed(error)


def _failed(error: EdgekitError) -> str:
    """The status of a candidate that an error has stopped, with the way out where there is one."""
    return f"failed: {error.message}" + (f" Fix: {error.fix}" if error.fix else "")


def _audited(ground: Ground, entry: Entry) -> None:
    assert entry.artifact is not None
    artifact, limits = entry.artifact, ground.planned.target.limits
    found = ground.build.cache.record(
        key_of("audit", artifact.key, limits.model_dump(mode="json")), lambda: _audit(artifact, limits), fresh=ground.fresh)  # fmt: skip
    entry.measurements += _measurements(found["measurements"])
    entry.warnings = tuple(found["warnings"])
    floats = next((row for row in entry.measurements if row.name == "float_ops"), None)
    if limits.arithmetic == "integer" and floats is not None and floats.value and entry.scheme != "float":
        entry.status = f"dropped: {floats.value:.0f} of its operators compute in float, and the device runs integers only"


def _audit(artifact: Artifact, limits: Any) -> Mapping[str, Any]:
    audit = registry.AUDITS.load(artifact.form)(artifact, limits)
    return {"measurements": _dumped(audit.measurements), "warnings": list(audit.warnings)}


def _verified(ground: Ground, entry: Entry, reference: Entry) -> None:
    """Parity with torch, then accuracy against the reference; what fails is dropped with the number that says so."""
    assert entry.artifact is not None
    assert entry.torch is not None
    assert reference.artifact is not None
    build = ground.build
    data = [build.described["splits"]["test"], identities(build.task, build.task.metric), build.seed, ground.planned.gates.accuracy_drop]
    key = key_of("verify", entry.artifact.key, entry.torch.key, reference.artifact.key, data)
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
    build, test, outputs = ground.build, ground.build.task.need("test", "verification"), outputs_of(entry.artifact.parts)
    with ground.host.open(entry.artifact) as candidate, torch_runner(build, ground.model, entry.torch) as torch:
        same = parity.check(candidate, torch, test.inputs, outputs, scheme.find(entry.scheme).parity_steps, _output_steps(entry.torch))
        if same.verdict == "fail":
            return [same]
        with ground.host.open(reference.artifact) as original:
            return [same, *_compared(ground, candidate, original, test)]


def _output_steps(quantized: Artifact) -> dict[str, float]:
    """The scale with which each output of a quantized network leaves; empty for a float network."""
    told: Mapping[str, Any] = quantized.notes.get("parts", {})
    steps: dict[str, float] = {}
    for part in quantized.parts:
        scales = told.get(part.name, {}).get("output_scales", ())
        steps |= {spec.name: scale for spec, scale in zip(part.signature.outputs, scales, strict=False) if scale is not None}
    return steps


def _compared(ground: Ground, candidate: Runner, original: Runner, test: Split) -> list[Measurement]:
    """Accuracy against the reference on growing pieces of the test data, until the candidate clearly fails or all are seen."""
    metric, limit = ground.build.task.metric, ground.planned.gates.accuracy_drop
    rows: list[Measurement] = []
    for piece in [test] if len(test) <= 2 * FIRST_LOOK else [test.draw(FIRST_LOOK, ground.build.seed), test]:
        ours = _answered(candidate, piece, metric)
        rows = [
            row.model_copy(update={"verdict": verdict.judged_drop(row, limit)}) if row.name == "accuracy_drop" else row
            for row in accuracy.measure(ours, accuracy.answer(original, piece, metric), metric)
        ]
        if any(row.verdict == "fail" for row in rows):
            break
    return rows


def _answered(candidate: Runner, piece: Split, metric: Any) -> accuracy.Answers:
    """The candidate's scored answers. The metric holds for the reference, so where it refuses them the candidate is to blame."""
    try:
        return accuracy.answer(candidate, piece, metric)
    except TaskError as error:
        raise RunnerError(f"its answers cannot be scored: {error.message}") from error


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
    build.progress.start(f"race {target.name}")
    raw = _raw_times(ground, reference, left)
    samples = {name: Samples(tuple(times)) for name, times in raw["samples"].items()}
    if not samples:
        build.progress.finish("failed")
        return {}
    for entry in (reference, *(entry for entry in left if entry.status == verdict.RACED)):
        if entry is not reference:
            # Where nothing was pruned the float candidate is the reference's own file, and was not raced against itself.
            samples.setdefault(entry.scheme, samples[""])
        ours = samples["" if entry is reference else entry.scheme]
        entry.measurements += [
            latency.latency(ours, raw["where"], ground.protocol),
            latency.speedup(samples[""], ours, raw["where"], ground.protocol),
        ]
    build.progress.finish()
    return samples


def _raw_times(ground: Ground, reference: Entry, left: Sequence[Entry]) -> dict[str, Any]:
    """The raw times of the reference (the empty name) and of what is left. A file that cannot be timed is found and marked."""
    try:
        return _raced(ground, reference, left)
    except RunnerError:
        for entry in left:
            try:
                _raced(ground, reference, [entry])
            except RunnerError as error:
                entry.status = _failed(RunnerError(f"it could not be timed: {error.message}", fix=error.fix))
    timeable = [entry for entry in left if entry.status == verdict.RACED]
    return _raced(ground, reference, timeable) if timeable else {"samples": {}, "where": ""}


def _raced(ground: Ground, reference: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    """One race in turns; read from the cache where the same files were raced on this machine before."""
    original = reference.artifact
    assert original is not None
    files = {entry.scheme: entry.artifact for entry in entries if entry.artifact is not None and entry.artifact.key != original.key}
    keys = {name: artifact.key for name, artifact in files.items()}
    key = key_of("race", original.key, keys, dataclasses.asdict(ground.protocol), HEATS)
    feeds = {name: array[:1] for name, array in ground.build.task.need("test", "the race").inputs.items()}
    ground.build.progress.expect(HEATS)
    found: dict[str, Any] = ground.build.cache.record(key, lambda: _heats(ground, {"": original, **files}, feeds), fresh=ground.fresh)
    return found


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


def key_of(what: str, *facts: Any) -> str:
    """The key of a measurement: what it is taken of, with which code and runtimes, and on which machine."""
    return digest({"check": what, "facts": list(facts), "code": code_digest("checks", "hosts"), "packages": versions(RUNTIME_PACKAGES), "machine": machine()})


def _dumped(rows: Sequence[Measurement]) -> list[Any]:
    return [row.model_dump(mode="json") for row in rows]


def _measurements(rows: Sequence[Any]) -> list[Measurement]:
    return [Measurement.model_validate(row) for row in rows]
