"""What a bundle holds next to its files.

Real samples, and the outputs of the winner and of the float file for them, computed on the
target's host. They are cached, like any measurement.
"""

import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy

import edgekit
from edgekit import scheme
from edgekit.artifact import LOADED_ROLES, Artifact, File, Part, outputs_of
from edgekit.bundles.bundle import (
    REFERENCE,
    BundleContents,
    Facts,
    ReferenceReport,
)
from edgekit.bundles.evidence import judge_outputs, options_of
from edgekit.bundles.shipping import relocate
from edgekit.checks import parity
from edgekit.checks.metrics import metric_name
from edgekit.formats import FORMATS
from edgekit.pipeline.build import identities
from edgekit.pipeline.candidate import Candidate, RaceContext, measurement_key
from edgekit.report import describe
from edgekit.task import Split

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: A bundle holds this many samples at most, and no more than these bytes of inputs.
MAX_SAMPLES = 1024
MAX_BYTES = 64 << 20
#: Two machines that execute the same file may differ by this many steps of its output; a
#: float file by less.
PARITY_STEPS = 2.0
#: The gates that a bundle can be judged on.
_GATES = ("accuracy_drop", "speedup")
_SAMPLES, _FACTS = "samples.npz", "facts.json"


def collect_contents(
    context: RaceContext, winner: Candidate, reference: Candidate
) -> BundleContents:
    """The samples, outputs and facts that make a shipped folder verifiable."""
    build = context.build
    key = _key(context, winner, reference)
    contents = None if context.fresh else build.cache.find(key)
    if contents is None:
        contents = build.cache.build(
            key,
            winner.file.key,
            "bundle_contents",
            lambda folder: _compute(context, winner, reference, folder),
        )
    part = contents.parts[0]
    text = contents.path(part, "facts").read_text(encoding="utf-8")
    facts = Facts.model_validate(json.loads(text))
    return BundleContents(
        facts=facts.model_copy(
            update={"shipped": (*facts.shipped, *_timings(winner))}
        ),
        samples=contents.path(part, "samples"),
        reference=_shipped_reference(winner.file, reference.file),
    )


def _key(context: RaceContext, winner: Candidate, reference: Candidate) -> str:
    build, target = context.build, context.planned.target
    return measurement_key(
        "bundle",
        winner.file.key,
        reference.file.key,
        winner.scheme,
        build.described["splits"]["test"],
        identities(build.task, build.task.metric),
        build.seed,
        context.planned.gates.model_dump(mode="json"),
        target.latency,
        context.host_identity,
    )


def _compute(
    context: RaceContext,
    winner: Candidate,
    reference: Candidate,
    folder: pathlib.Path,
) -> Artifact:
    """Execute both files on the samples; write the arrays and the facts to ``folder``."""
    artifact = winner.file
    split = _draw_samples(context)
    one_by_one = scheme.find(winner.scheme).method == "dynamic"
    with context.host.open(artifact, options_of(one_by_one)) as runner:
        expected = runner.infer(split.inputs)
        where = runner.where
    with context.host.open(reference.file) as runner:
        original = runner.infer(split.inputs)
    arrays = _arrays(artifact, split, expected, original)
    facts = _facts(context, winner, reference, (split, original, where))
    plain = facts.model_dump(mode="json", by_alias=True)
    shipped = tuple(judge_outputs(arrays, expected, plain, where))
    facts = facts.model_copy(update={"shipped": shipped})
    numpy.savez_compressed(
        folder / _SAMPLES,
        allow_pickle=False,
        **{
            name: numpy.ascontiguousarray(array)
            for name, array in arrays.items()
        },
    )
    text = json.dumps(facts.model_dump(mode="json", by_alias=True))
    (folder / _FACTS).write_text(text, encoding="utf-8")
    first = artifact.parts[0]
    files = {"samples": File(path=_SAMPLES), "facts": File(path=_FACTS)}
    part = Part(name=first.name, signature=first.signature, files=files)
    return Artifact(format=artifact.format, parts=(part,), folder=folder)


def _draw_samples(context: RaceContext) -> Split:
    test = context.build.task.need("test", "a bundle")
    sample_bytes = sum(array[:1].nbytes for array in test.inputs.values())
    count = min(len(test), MAX_SAMPLES, MAX_BYTES // sample_bytes)
    return test.draw(max(count, sum(parity.BATCHES)), context.build.seed)


def _arrays(
    artifact: Artifact,
    split: Split,
    expected: "dict[str, Array]",
    original: "dict[str, Array]",
) -> "dict[str, Array]":
    arrays = {f"input:{name}": array for name, array in split.inputs.items()}
    for spec in outputs_of(artifact.parts):
        arrays[f"expected:{spec.name}"] = expected[spec.name]
    for spec in outputs_of(artifact.parts):
        arrays[f"reference:{spec.name}"] = original[spec.name]
    if split.labels is not None:
        arrays["labels"] = split.labels
    return arrays


def _facts(
    context: RaceContext,
    winner: Candidate,
    reference: Candidate,
    execution: tuple[Split, "dict[str, Array]", str],
) -> Facts:
    split, original, where = execution
    artifact, target = winner.file, context.planned.target
    used = scheme.find(winner.scheme)
    # A host that has the device executed its own runtime; elsewhere ``where`` names what
    # stood in for it.
    stand_in = FORMATS[artifact.format].stand_in
    stood_in = bool(stand_in) and stand_in in where
    shipped_reference = _shipped_reference(artifact, reference.file)
    return Facts(
        edgekit=edgekit.__version__,
        samples=len(split),
        metric=metric_name(context.build.task.metric),
        steps=_steps(winner, original),
        gates=_bundle_gates(context),
        where=where,
        one_by_one=used.method == "dynamic",
        parity_steps=used.parity_steps
        if stood_in
        else min(PARITY_STEPS, used.parity_steps),
        stands_in=stand_in,
        device_only=target.latency == "unmeasured",
        reference=None
        if shipped_reference is None
        else _reference_report(shipped_reference),
        preprocessing=_preprocessing(artifact, split),
    )


def _steps(winner: Candidate, original: "dict[str, Array]") -> dict[str, float]:
    """The quantization step of every output."""
    scales = (
        parity.output_steps(winner.torch) if winner.torch is not None else {}
    )
    return {
        spec.name: parity.step_of(
            spec, scales.get(spec.name), [original[spec.name]]
        )
        for spec in outputs_of(winner.file.parts)
    }


def _bundle_gates(context: RaceContext) -> dict[str, float]:
    gates: dict[str, Any] = context.planned.gates.model_dump()
    return {
        name: float(gates[name]) for name in _GATES if gates[name] is not None
    }


def _preprocessing(artifact: Artifact, split: Split) -> dict[str, str]:
    specs = (spec for part in artifact.parts for spec in part.signature.inputs)
    return {
        spec.name: spec.describe()
        for spec in specs
        if spec.name in split.inputs
    }


def _timings(winner: Candidate) -> list[Any]:
    timings = (winner.measurement(name) for name in ("latency_ms", "speedup"))
    return [row for row in timings if row is not None and row.value is not None]


def _shipped_reference(
    artifact: Artifact, reference: Artifact
) -> Artifact | None:
    """The float file, if the bundle ships it to be timed next to the winner."""
    if reference.key == artifact.key or FORMATS[artifact.format].stand_in:
        return None
    return reference


def _reference_report(artifact: Artifact) -> ReferenceReport:
    entry = relocate(describe(artifact), artifact, REFERENCE)
    models = tuple(file for file in entry.files if file.role in LOADED_ROLES)
    fields = {**dict(entry), "files": models, "notes": {}}
    return ReferenceReport(format=artifact.format, **fields)
