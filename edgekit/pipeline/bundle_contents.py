"""What makes a shipped folder prove itself: real samples, and what the winner and the float
file give for them on the target's host.
"""

import edgekit
from edgekit import scheme
from edgekit.artifact import Artifact, outputs_of
from edgekit.bundles import bundle as bundles
from edgekit.bundles.bundle import Facts, Proof, ReferenceReport
from edgekit.bundles.evidence import judged, options_of
from edgekit.bundles.shipping import placed
from edgekit.checks import parity
from edgekit.checks.metrics import metric_name
from edgekit.formats import FORMATS
from edgekit.pipeline.candidate import Entry, Ground
from edgekit.report import describe

#: A bundle holds this many samples at most, and no more than these bytes of inputs.
MOST_SAMPLES, MOST_BYTES = 1024, 64 << 20
#: Two machines that run the same file may differ by this many steps of its output; a float
#: file by less.
PARITY_STEPS = 2.0


def gather(ground: Ground, winner: Entry, reference: Entry) -> Proof:
    """Real test samples with what the winner and the float file give for them on the
    target's host.
    """
    assert winner.artifact is not None
    assert reference.artifact is not None
    build, artifact = ground.build, winner.artifact
    test = build.task.need("test", "a bundle")
    each = sum(array[:1].nbytes for array in test.inputs.values())
    split = test.draw(
        max(min(len(test), MOST_SAMPLES, MOST_BYTES // each), sum(parity.BATCHES)),
        build.seed,
    )
    dynamic = scheme.find(winner.scheme).method == "dynamic"
    with ground.host.open(artifact, options_of(dynamic)) as runner:
        expected, where = runner.infer(split.inputs), runner.where
    with ground.host.open(reference.artifact) as runner:
        original = runner.infer(split.inputs)
    outputs = outputs_of(artifact.parts)
    arrays = {
        **{f"input:{name}": array for name, array in split.inputs.items()},
        **{f"expected:{spec.name}": expected[spec.name] for spec in outputs},
        **{f"reference:{spec.name}": original[spec.name] for spec in outputs},
        **({} if split.labels is None else {"labels": split.labels}),
    }
    known = parity.output_steps(winner.torch) if winner.torch is not None else {}
    steps = {
        spec.name: parity.step_of(spec, known.get(spec.name), [original[spec.name]])
        for spec in outputs
    }
    gates = {
        name: float(limit)
        for name, limit in ground.planned.gates.model_dump().items()
        if limit is not None and name in ("accuracy_drop", "speedup")
    }
    # On a host that has the device its own runtime was run; elsewhere the place says what
    # stood in for it.
    stands_in = FORMATS[artifact.format].stand_in
    stood_in = bool(stands_in) and stands_in in where
    beside = (
        reference.artifact
        if reference.artifact.key != artifact.key and not FORMATS[artifact.format].stand_in
        else None
    )
    steps_apart = scheme.find(winner.scheme).parity_steps
    facts = Facts(
        edgekit=edgekit.__version__,
        samples=len(split),
        metric=metric_name(build.task.metric),
        steps=steps,
        gates=gates,
        where=where,
        one_by_one=dynamic,
        parity_steps=steps_apart if stood_in else min(PARITY_STEPS, steps_apart),
        stands_in=stands_in,
        device_only=ground.planned.target.latency == "unmeasured",
        reference=None if beside is None else _told(beside),
        preprocessing={
            spec.name: spec.describe()
            for part in artifact.parts
            for spec in part.signature.inputs
            if spec.name in split.inputs
        },
    )
    told = facts.model_dump(mode="json", by_alias=True)
    raced = [
        row
        for row in winner.measurements
        if row.name in ("latency_ms", "speedup") and row.value is not None
    ]
    return Proof(
        facts.model_copy(
            update={"shipped": (*judged(arrays, expected, told, where), *raced)}
        ),
        arrays,
        beside,
    )


def _told(artifact: Artifact) -> ReferenceReport:
    entry = placed(describe(artifact), artifact, bundles.REFERENCE)
    models = tuple(file for file in entry.files if file.role == "model")
    return ReferenceReport(
        format=artifact.format, **{**dict(entry), "files": models, "notes": {}}
    )
