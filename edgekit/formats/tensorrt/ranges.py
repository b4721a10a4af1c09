"""How large the tensors of an ONNX file become on calibration data.

The maxima are computed inside the graph, so that only one number a tensor and batch comes
out: memory does not grow with the samples.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import onnx
import onnx.helper
import onnxruntime

from edgekit.artifact import Artifact, Part, chain
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.progress import Progress
from edgekit.task import Split

Feeds = Mapping[str, onnx_graph.Array]

BATCH_SIZE = 16


def largest(
    artifact: Artifact, tensors: Mapping[str, set[str]], split: Split, progress: Progress
) -> dict[str, dict[str, float]]:
    """The largest size (absolute value) of each named tensor of each part, over all
    samples. Parts feed each other as they do when they run.
    """
    meters = {
        part.name: _Meter(artifact, part, sorted(tensors[part.name]))
        for part in artifact.parts
    }
    progress.expect(len(split))
    for feeds, count in _batches(split, _width(artifact)):
        chain(artifact.parts, lambda part, given: meters[part.name](given), feeds)
        progress.advance(count)
    return {
        name: dict(zip(meter.tensors, map(float, meter.found), strict=True))
        for name, meter in meters.items()
    }


class _Meter:
    """A part in ONNX Runtime that keeps the maxima of what went through it."""

    def __init__(self, artifact: Artifact, part: Part, tensors: list[str]) -> None:
        self.part, self.tensors = part, tensors
        self.found = numpy.zeros(len(tensors), "float32")
        model = onnx_graph.read(artifact.path(part))
        self._outputs = [value.name for value in model.graph.output] + [
            _probe(model.graph, tensor, number) for number, tensor in enumerate(tensors)
        ]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        with _told(part.name, "load"):
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, feeds: Feeds) -> Feeds:
        signature = self.part.signature
        signature.check_feeds(feeds, f"The part {self.part.name!r}")
        with _told(self.part.name, "run"):
            given = self._session.run(
                self._outputs,
                {spec.name: spec.encode(feeds[spec.name]) for spec in signature.inputs},
            )
        count = len(signature.outputs)
        outputs = {
            spec.name: spec.decode(array)
            for spec, array in zip(signature.outputs, given[:count], strict=True)
        }
        sizes = {
            f"{self.part.name}: {name}": numpy.asarray(value)
            for name, value in zip(self.tensors, given[count:], strict=True)
        }
        _refuse_infinite({**outputs, **sizes})
        self.found = numpy.maximum(self.found, numpy.array(given[count:], "float32"))
        return outputs


class _told:  # noqa: N801  # reads as a word: with _told(...)
    """ONNX Runtime's exceptions, which have no common class, in the user's words."""

    def __init__(self, part: str, doing: str) -> None:
        self._part, self._doing = part, doing

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if isinstance(error, Exception) and type(error).__module__.startswith(
            "onnxruntime"
        ):
            told = f"ONNX Runtime cannot {self._doing} {self._part!r} to calibrate it: {onnx_graph.first_line(error)}"
            raise StepError(
                told,
                fix="export with operators that ONNX Runtime has, or take a scheme that needs no calibration",
            ) from error


def _probe(graph: onnx.GraphProto, tensor: str, number: int) -> str:
    """Let the graph also give the largest absolute value of a tensor."""
    name = f"edgekit.largest.{number}"
    graph.node.append(onnx.helper.make_node("Abs", [tensor], [f"{name}.sizes"]))
    graph.node.append(
        onnx.helper.make_node("ReduceMax", [f"{name}.sizes"], [name], keepdims=0)
    )
    graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [])
    )
    return name


def _width(artifact: Artifact) -> int:
    """Samples at a time: as many as the files' batch is fixed at, else a few."""
    fixed = [spec.static_batch for part in artifact.parts for spec in part.signature.inputs]
    return next((batch for batch in fixed if batch is not None), BATCH_SIZE)


def _batches(split: Split, width: int) -> Iterator[tuple[dict[str, onnx_graph.Array], int]]:
    """Slices of the samples and how many each holds; one that is not full is filled with
    its last sample, which changes no maximum.
    """
    for start in range(0, len(split), width):
        cut = {name: array[start : start + width] for name, array in split.inputs.items()}
        count = len(next(iter(cut.values())))
        yield (
            {
                name: numpy.concatenate(
                    [array, numpy.repeat(array[-1:], width - count, axis=0)]
                )
                for name, array in cut.items()
            },
            count,
        )


def _refuse_infinite(arrays: Feeds) -> None:
    """The data are finite (the task has seen to it), so where numbers are not the network
    made them.
    """
    wrong = [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not numpy.isfinite(array).all()
    ]
    if wrong:
        told = f"The network makes NaN or infinite values of the calibration data: {', '.join(wrong)}."
        raise StepError(
            told,
            fix="scale the data as they were in training; if they are, look for a division by zero in the network",
        )
