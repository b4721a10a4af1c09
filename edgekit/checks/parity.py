"""Whether a file computes what the network computes: the largest difference, in steps of
the output's quantization.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.artifact import Artifact
from edgekit.contracts import Runner
from edgekit.errors import ModelError, TaskError
from edgekit.measurement import Measurement, Verdict
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

#: Both are run, on different samples: a file can be right for one sample and wrong for
#: several, or the other way round.
BATCHES = (1, 5)
UNIT = "output steps"


def check(
    candidate: Runner,
    reference: Runner,
    inputs: "Feeds",
    outputs: Sequence[TensorSpec],
    tolerance: float,
    scales: Mapping[str, float] | None = None,
) -> Measurement:
    """The largest difference of any output on 1 and on 5 samples; pass where it is at most
    ``tolerance`` steps.

    ``inputs`` are the task's own (6 samples or more), ``outputs`` the candidate's output
    specs. One step is the scale of a quantized output, else its entry in ``scales`` (the
    scale of its last Q/DQ pair), else 1/255 of the range of the reference's output on all
    these samples. Outputs that are missing, of another shape, or not finite fail.
    """
    need = sum(BATCHES)
    if any(len(array) < need for array in inputs.values()):
        raise TaskError(f"Parity needs {need} samples.", fix="give the task more test data")
    ours, theirs = (
        [runner.infer(feeds) for feeds in _batches(inputs)]
        for runner in (candidate, reference)
    )
    said = f"against {reference.where}, batches of {' and '.join(map(str, BATCHES))}"
    wrong = next(
        (
            fault
            for mine, other in zip(ours, theirs, strict=True)
            if (fault := _fault(mine, other, outputs))
        ),
        None,
    )
    if wrong is not None:
        how = f"{said}: {wrong}"
        return Measurement(
            name="parity",
            value=None,
            unit=UNIT,
            n=need,
            where=candidate.where,
            how=how,
            verdict="fail",
            detail={"fault": wrong},
        )
    scales = scales or {}
    steps = {
        spec.name: step_of(
            spec, scales.get(spec.name), [other[spec.name] for other in theirs]
        )
        for spec in outputs
    }
    found = {
        f"batch {batch}": max(
            _largest(mine[name], other[name]) / size for name, size in steps.items()
        )
        for batch, mine, other in zip(BATCHES, ours, theirs, strict=True)
    }
    value = max(found.values())
    detail = {**found, "step": steps, "tolerance": tolerance}
    how = f"largest difference {said}; a step is {_source(outputs, scales)}"
    verdict: Verdict = "pass" if value <= tolerance else "fail"
    return Measurement(
        name="parity",
        value=value,
        unit=UNIT,
        n=need,
        where=candidate.where,
        how=how,
        verdict=verdict,
        detail=detail,
    )


def own_error(
    quantized: Runner,
    original: Runner,
    inputs: "Feeds",
    outputs: Sequence[TensorSpec],
    scales: Mapping[str, float],
) -> float:
    """How far a quantized network is from its float one on the samples of ``check``, in the
    same steps.

    A deep network can turn one flipped rounding into many steps. A file that is nearer to
    its simulation than the simulation is to float computes the same thing as far as can be
    told; what it is worth is then for the accuracy to say.
    """
    ours, theirs = (
        [runner.infer(feeds) for feeds in _batches(inputs)]
        for runner in (quantized, original)
    )
    if any(_fault(mine, other, outputs) for mine, other in zip(ours, theirs, strict=True)):
        return 0.0
    steps = {
        spec.name: step_of(spec, scales.get(spec.name), [mine[spec.name] for mine in ours])
        for spec in outputs
    }
    return max(
        _largest(mine[name], other[name]) / size
        for mine, other in zip(ours, theirs, strict=True)
        for name, size in steps.items()
    )


def _batches(inputs: "Feeds") -> Iterator["Feeds"]:
    start = 0
    for batch in BATCHES:
        yield {name: array[start : start + batch] for name, array in inputs.items()}
        start += batch


def _fault(ours: "Feeds", theirs: "Feeds", outputs: Sequence[TensorSpec]) -> str | None:
    """Why the outputs cannot even be compared, or None."""
    for spec in outputs:
        if spec.name not in theirs:
            raise ModelError(
                f"The reference has no output {spec.name!r}, only {', '.join(theirs)}.",
                fix="compare runners of the same model",
            )
        other = theirs[spec.name]
        if numpy.isnan(other).any():
            raise ModelError(
                f"The network itself gives NaN for {spec.name!r}.",
                fix="train it again, or look for a division by zero",
            )
        if spec.name not in ours:
            return f"there is no output {spec.name!r}"
        mine = ours[spec.name]
        if mine.shape != other.shape:
            return f"{spec.name} has shape {list(mine.shape)}, not {list(other.shape)}"
        if not (numpy.isfinite(mine) | (mine == other)).all():
            return f"{spec.name} is not finite"
    return None


def _largest(ours: "Array", theirs: "Array") -> float:
    """The largest difference; equal infinities (of a mask) differ by nothing."""
    compared = ours != theirs
    if not compared.any():
        return 0.0
    return float(
        numpy.abs(
            ours[compared].astype("float64") - theirs[compared].astype("float64")
        ).max()
    )


def output_steps(quantized: Artifact) -> dict[str, float]:
    """The scale with which each output of a quantized network leaves; empty for a float
    network.
    """
    told: Mapping[str, Any] = quantized.notes.get("parts", {})
    steps: dict[str, float] = {}
    for part in quantized.parts:
        scales = told.get(part.name, {}).get("output_scales", ())
        steps |= {
            spec.name: scale
            for spec, scale in zip(part.signature.outputs, scales, strict=False)
            if scale is not None
        }
    return steps


def step_of(spec: TensorSpec, step: float | None, values: Sequence["Array"]) -> float:
    """One step of an output: its scale where the file quantizes it, else ``step``, else
    1/255 of the range of ``values``.
    """
    if spec.quantization is not None:
        return spec.quantization.scale
    if step is not None:
        return step
    joined = numpy.concatenate([array.ravel() for array in values]).astype("float64")
    finite = joined[numpy.isfinite(joined)]
    if finite.size == 0:
        return 1.0
    # An output that is the same everywhere has no range; its size stands in.
    return float(numpy.ptp(finite) or numpy.abs(finite).max() or 1.0) / 255


def _source(outputs: Sequence[TensorSpec], scales: Mapping[str, float]) -> str:
    if all(spec.quantization is not None for spec in outputs):
        return "the scale of the file's output"
    if all(spec.name in scales for spec in outputs):
        return "the scale of the output's last quantization"
    ranged = "1/255 of the range of the reference's output"
    return (
        f"the scale of the output's last quantization where it has one, else {ranged}"
        if scales
        else ranged
    )
