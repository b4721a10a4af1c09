"""Whether a file computes what the network computes: the largest difference, in steps of the
output's quantization.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.artifact import Artifact
from edgekit.contracts import Runner
from edgekit.device_worker.judging import find_fault, largest_difference
from edgekit.errors import ModelError, TaskError
from edgekit.measurement import Measurement
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    from edgekit.arrays import Array, Feeds

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
    """Measure the largest difference of any output on 1 and on 5 samples; it passes if it is at
    most ``tolerance`` steps.

    ``inputs`` are the task's own (6 samples or more), ``outputs`` the candidate's output
    specs. One step is the scale of a quantized output, else its entry in ``scales`` (the scale
    of its last Q/DQ pair), else 1/255 of the range of the reference's output on all these
    samples. Outputs that are missing, of another shape, or not finite fail. Raises TaskError
    for too few samples, ModelError if the reference itself is not usable.
    """
    needed = sum(BATCHES)
    if any(len(array) < needed for array in inputs.values()):
        raise TaskError(
            f"Parity needs {needed} samples.",
            fix="give the task more test data",
        )
    ours = [candidate.infer(feeds) for feeds in _batches(inputs)]
    theirs = [reference.infer(feeds) for feeds in _batches(inputs)]
    batches = " and ".join(map(str, BATCHES))
    context = f"compared with {reference.where}, batches of {batches}"
    fault = _first_fault(ours, theirs, outputs)
    if fault is not None:
        return Measurement(
            name="parity",
            value=None,
            unit=UNIT,
            n=needed,
            where=candidate.where,
            how=f"{context}: {fault}",
            verdict="fail",
            detail={"fault": fault},
        )
    scales = scales or {}
    steps = _steps(outputs, scales, theirs)
    differences = {
        f"batch {batch}": _largest_in_steps(ours[k], theirs[k], steps)
        for k, batch in enumerate(BATCHES)
    }
    value = max(differences.values())
    return Measurement(
        name="parity",
        value=value,
        unit=UNIT,
        n=needed,
        where=candidate.where,
        how=f"largest difference {context}; a step is {_step_source(outputs, scales)}",
        verdict="pass" if value <= tolerance else "fail",
        detail={**differences, "step": steps, "tolerance": tolerance},
    )


def quantization_error(
    quantized: Runner,
    original: Runner,
    inputs: "Feeds",
    outputs: Sequence[TensorSpec],
    scales: Mapping[str, float],
) -> float:
    """Return the distance of a quantized network from its float one on the samples of
    ``check``, in the same steps; 0 if they cannot be compared.

    A deep network can turn one flipped rounding into many steps. A file that is nearer to its
    simulation than the simulation is to float computes the same, as far as can be
    distinguished; the accuracy then decides what it is worth.
    """
    ours = [quantized.infer(feeds) for feeds in _batches(inputs)]
    theirs = [original.infer(feeds) for feeds in _batches(inputs)]
    if _first_fault(ours, theirs, outputs) is not None:
        return 0.0
    steps = _steps(outputs, scales, ours)
    return max(
        _largest_in_steps(mine, other, steps)
        for mine, other in zip(ours, theirs, strict=True)
    )


def output_steps(quantized: Artifact) -> dict[str, float]:
    """Return the scale with which each output of a quantized network is quantized; empty for
    a float network.
    """
    notes: Mapping[str, Any] = quantized.notes.get("parts", {})
    steps: dict[str, float] = {}
    for part in quantized.parts:
        scales = notes.get(part.name, {}).get("output_scales", ())
        for spec, scale in zip(part.signature.outputs, scales, strict=False):
            if scale is not None:
                steps[spec.name] = scale
    return steps


def step_of(
    spec: TensorSpec, step: float | None, values: Sequence["Array"]
) -> float:
    """Return one step of an output: its scale if the file quantizes it, else ``step``, else
    1/255 of the range of ``values``.
    """
    if spec.quantization is not None:
        return spec.quantization.scale
    if step is not None:
        return step
    joined = numpy.concatenate([array.ravel() for array in values]).astype(
        "float64"
    )
    finite = joined[numpy.isfinite(joined)]
    if finite.size == 0:
        return 1.0
    # A constant output has no range; its magnitude is used instead.
    return float(numpy.ptp(finite) or numpy.abs(finite).max() or 1.0) / 255


def _batches(inputs: "Feeds") -> Iterator["Feeds"]:
    start = 0
    for batch in BATCHES:
        yield {
            name: array[start : start + batch] for name, array in inputs.items()
        }
        start += batch


def _steps(
    outputs: Sequence[TensorSpec],
    scales: Mapping[str, float],
    values: Sequence["Feeds"],
) -> dict[str, float]:
    return {
        spec.name: step_of(
            spec, scales.get(spec.name), [batch[spec.name] for batch in values]
        )
        for spec in outputs
    }


def _largest_in_steps(
    ours: "Feeds", theirs: "Feeds", steps: Mapping[str, float]
) -> float:
    return max(
        largest_difference(ours[name], theirs[name]) / step
        for name, step in steps.items()
    )


def _first_fault(
    ours: Sequence["Feeds"],
    theirs: Sequence["Feeds"],
    outputs: Sequence[TensorSpec],
) -> str | None:
    """Why the outputs cannot be compared, or None."""
    for mine, other in zip(ours, theirs, strict=True):
        _check_reference(other, outputs)
        fault = find_fault(
            mine, {spec.name: other[spec.name] for spec in outputs}
        )
        if fault is not None:
            return fault
    return None


def _check_reference(reference: "Feeds", outputs: Sequence[TensorSpec]) -> None:
    for spec in outputs:
        if spec.name not in reference:
            raise ModelError(
                f"The reference has no output {spec.name!r}, only {', '.join(reference)}.",
                fix="compare runners of the same model",
            )
        if numpy.isnan(reference[spec.name]).any():
            raise ModelError(
                f"The network itself outputs NaN for {spec.name!r}.",
                fix="train it again, or look for a division by zero",
            )


def _step_source(
    outputs: Sequence[TensorSpec], scales: Mapping[str, float]
) -> str:
    if all(spec.quantization is not None for spec in outputs):
        return "the scale of the file's output"
    if all(spec.name in scales for spec in outputs):
        return "the scale of the output's last quantization"
    share = "1/255 of the range of the reference's output"
    if scales:
        return f"the scale of the output's last quantization if it has one, else {share}"
    return share
