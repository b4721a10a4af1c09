"""The largest absolute values of the tensors of an ONNX file on calibration data.

The maxima are computed inside the graph, so that it outputs one number per tensor and
batch: memory does not grow with the samples.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy
import onnx
import onnx.helper
import onnxruntime

from edgekit.arrays import Array, Feeds
from edgekit.artifact import Artifact, Part, chain
from edgekit.errors import StepError, condense
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.progress import Progress
from edgekit.task import Split

BATCH_SIZE = 16


def measure_largest(
    artifact: Artifact,
    tensors: Mapping[str, set[str]],
    split: Split,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Part -> tensor -> its largest absolute value over all samples.

    ``tensors``: part -> names. Parts feed each other as they do at run time. Raises
    StepError if ONNX Runtime cannot run a part, or a value is NaN or infinite.
    """
    meters = {
        part.name: _Meter(artifact, part, sorted(tensors[part.name]))
        for part in artifact.parts
    }
    progress.expect(len(split))

    def run_part(part: Part, feeds: Feeds) -> Feeds:
        return meters[part.name].run(feeds)

    for feeds, count in _batches(split, _batch_size(artifact)):
        chain(artifact.parts, run_part, feeds)
        progress.advance(count)
    return {name: meter.largest() for name, meter in meters.items()}


class _Meter:
    """A part in ONNX Runtime that records the maxima of the tensors that pass through it."""

    def __init__(
        self, artifact: Artifact, part: Part, tensors: Sequence[str]
    ) -> None:
        self.part = part
        self._tensors = tensors
        self._maxima = numpy.zeros(len(tensors), "float32")
        model = onnx_graph.read(artifact.path(part))
        self._outputs = [value.name for value in model.graph.output]
        for number, tensor in enumerate(tensors):
            self._outputs.append(_add_probe(model.graph, tensor, number))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        with _translate_errors(part.name, "load"):
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )

    def run(self, feeds: Feeds) -> Feeds:
        """The part's outputs for a batch; the maxima are recorded."""
        name = self.part.name
        signature = self.part.signature
        signature.check_feeds(feeds, f"The part {name!r}")
        encoded = {
            spec.name: spec.encode(feeds[spec.name])
            for spec in signature.inputs
        }
        with _translate_errors(name, "run"):
            arrays = self._session.run(self._outputs, encoded)
        count = len(signature.outputs)
        outputs = {
            spec.name: spec.decode(array)
            for spec, array in zip(
                signature.outputs, arrays[:count], strict=True
            )
        }
        maxima = {
            f"{name}: {tensor}": numpy.asarray(value)
            for tensor, value in zip(self._tensors, arrays[count:], strict=True)
        }
        _require_finite({**outputs, **maxima})
        self._maxima = numpy.maximum(
            self._maxima, numpy.array(arrays[count:], "float32")
        )
        return outputs

    def largest(self) -> dict[str, float]:
        """The maxima of all batches by tensor."""
        return dict(zip(self._tensors, map(float, self._maxima), strict=True))


@contextlib.contextmanager
def _translate_errors(part: str, action: str) -> Iterator[None]:
    """Raise ONNX Runtime's exceptions, which have no common class, as StepError."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise StepError(
            f"ONNX Runtime cannot {action} {part!r} for calibration: {condense(error)}",
            fix="export with operators that ONNX Runtime supports, or use a scheme that needs "
            "no calibration",
        ) from error


def _add_probe(graph: onnx.GraphProto, tensor: str, number: int) -> str:
    """Add the largest absolute value of a tensor to the graph's outputs; its name."""
    name = f"edgekit.largest.{number}"
    absolute = onnx.helper.make_node("Abs", [tensor], [f"{name}.sizes"])
    maximum = onnx.helper.make_node(
        "ReduceMax", [f"{name}.sizes"], [name], keepdims=0
    )
    graph.node.extend([absolute, maximum])
    output = onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, []
    )
    graph.output.append(output)
    return name


def _batch_size(artifact: Artifact) -> int:
    """The files' static batch, or ``BATCH_SIZE`` if it is free."""
    for part in artifact.parts:
        for spec in part.signature.inputs:
            if spec.static_batch is not None:
                return spec.static_batch
    return BATCH_SIZE


def _batches(split: Split, size: int) -> Iterator[tuple[dict[str, Array], int]]:
    """Batches of ``size`` samples, and how many of them are distinct.

    The last batch is filled with its last sample, which changes no maximum.
    """
    for start in range(0, len(split), size):
        batch = {
            name: array[start : start + size]
            for name, array in split.inputs.items()
        }
        count = len(next(iter(batch.values())))
        yield {name: _fill(array, size) for name, array in batch.items()}, count


def _fill(array: Array, size: int) -> Array:
    padding = numpy.repeat(array[-1:], size - len(array), axis=0)
    return numpy.concatenate([array, padding])


def _require_finite(arrays: Feeds) -> None:
    """The task checks that the data are finite, so the network computed any other value."""
    invalid = [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not numpy.isfinite(array).all()
    ]
    if invalid:
        raise StepError(
            "The network computes NaN or infinite values from the calibration data: "
            f"{', '.join(invalid)}.",
            fix="scale the data as in training; if they are, look for a division by zero in "
            "the network",
        )
