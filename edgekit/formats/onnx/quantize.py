"""Quantize an exported ONNX file: half precision, dynamic int8, and weight-only 8 or 4 bits."""

import dataclasses
from typing import ClassVar, cast

import onnx

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import blockwise as onnx_blockwise
from edgekit.formats.onnx import dynamic as onnx_dynamic
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import half as onnx_half
from edgekit.formats.onnx import linear as onnx_linear
from edgekit.formats.onnx import outliers as onnx_outliers
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.export import check_interface
from edgekit.scheme import Scheme, find
from edgekit.task import SplitName

_INT8_PRODUCTS = {"MatMulIntegerToFloat", "DynamicQuantizeLSTM"}
#: What was done to one part, for the report.
Notes = dict[str, object]


@dataclasses.dataclass(frozen=True)
class QuantizeOnnx:
    """Store weights in fewer bits, and compute in them where ONNX Runtime can.

    ``keep`` lists modules by path (``part.path`` if there are several parts) that stay in
    float, with everything in them. ``outliers`` is for dynamic int8 with per-row scales: the
    most input channels of a linear layer that stay in float because they are far larger than
    the others. They are measured on ``samples`` calibration samples; with 0, or without
    calibration data, all channels are int8.
    """

    scheme: str = "fp16"
    keep: tuple[str, ...] = ()
    outliers: int = 16
    samples: int = 32
    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError for other schemes, impossible numbers, and quantized files."""
        scheme = find(self.scheme)
        on_this_file = scheme.method in ("cast", "dynamic", "weight")
        by_edgekit = scheme.provider == "edgekit"
        if not on_this_file or not by_edgekit or "onnx" not in scheme.formats:
            raise StepError(
                f"The scheme {self.scheme!r} cannot be applied to an ONNX file.",
                fix="use fp16, w8-dynamic, w8-dynamic-tensor, w8-weight or w4-weight here;"
                " w8a8-static is calibrated on the PyTorch graph",
            )
        if self.outliers < 0 or self.samples < 1:
            raise StepError(
                f"outliers and samples must not be {self.outliers} and {self.samples}.",
                fix="set outliers to 0 or more, samples to 1 or more",
            )
        for part in artifact.parts:
            graph = onnx_graph.read(artifact.path(part)).graph
            onnx_linear.refuse_quantized(graph, part.name)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the quantized file of every part.

        Raises NothingToDo if nothing can be quantized.
        """
        models = {
            part.name: onnx_graph.read(artifact.path(part))
            for part in artifact.parts
        }
        graphs = {name: model.graph for name, model in models.items()}
        onnx_linear.refuse_unknown(self.keep, graphs)
        channels = self._float_channels(artifact, context)
        parts: list[Part] = []
        notes: dict[str, Notes] = {}
        for part in artifact.parts:
            model, notes[part.name] = self._quantize(
                part, models[part.name], channels.get(part.name, {})
            )
            file = File(path=f"{part.name}.onnx")
            onnx_graph.write(model, context.folder / file.path)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": file},
                )
            )
        after = Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"scheme": self.scheme, "parts": notes},
            folder=context.folder,
        )
        if not self._has_quantized(after):
            raise NothingToDo(
                f"There is nothing to quantize for {self.scheme}: {_reason(notes)}",
                fix="choose the scheme 'float', or w8a8-static for convolutions",
            )
        return after

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError unless the interface is the same, nodes are sorted, the files are
        smaller with quantized weights, and the modules to keep have none.
        """
        for part in after.parts:
            check_interface(after.path(part), part.signature)
            model = onnx_graph.read(after.path(part))
            if not onnx_graph.is_sorted(model.graph):
                raise StepError(
                    f"The nodes of {part.name} are out of order.",
                    fix="report this as a bug",
                )
            self._check_kept(model, part)
        if not self._has_quantized(after):
            raise StepError(
                "No weights were quantized.", fix="choose the scheme 'float'"
            )
        old_size = _total_bytes(before)
        new_size = _total_bytes(after)
        if new_size >= old_size:
            raise StepError(
                f"The file did not become smaller: {old_size} bytes before, {new_size}"
                " after.",
                fix="choose the scheme 'float'",
            )

    def _check_kept(self, model: onnx.ModelProto, part: Part) -> None:
        keep = onnx_linear.paths_in_part(self.keep, part.name)
        for node in _quantized_nodes(model, find(self.scheme)):
            module = onnx_graph.module(node)
            if is_within(module, keep):
                raise StepError(
                    f"{module} of {part.name} is to be kept in float and was quantized.",
                    fix="report this as a bug",
                )

    def _has_quantized(self, artifact: Artifact) -> bool:
        scheme = find(self.scheme)
        return any(
            _quantized_nodes(onnx_graph.read(artifact.path(part)), scheme)
            for part in artifact.parts
        )

    def _float_channels(
        self, artifact: Artifact, context: Context
    ) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the channels that stay in float, by part and tensor."""
        split = context.task.split("calibration")
        if not find(self.scheme).per_row or not self.outliers or split is None:
            return {}
        floors = {}
        for part in artifact.parts:
            model = onnx_graph.read(artifact.path(part))
            lowest = onnx_dynamic.floors(model.graph)
            keep = onnx_linear.paths_in_part(self.keep, part.name)
            layers, _ = onnx_linear.find_linears(Edit(model), keep)
            floors[part.name] = {
                layer.input: lowest.get(layer.input) for layer in layers
            }
        samples = split.draw(self.samples, context.seed)
        return onnx_outliers.find(artifact, floors, samples, self.outliers)

    def _quantize(
        self,
        part: Part,
        model: onnx.ModelProto,
        channels: onnx_dynamic.Outliers,
    ) -> tuple[onnx.ModelProto, Notes]:
        """Return the new model and its notes for the report."""
        scheme = find(self.scheme)
        keep = onnx_linear.paths_in_part(self.keep, part.name)
        if scheme.method == "cast":
            model = onnx_half.to_half(model, keep)
            dtypes = [tensor.data_type for tensor in model.graph.initializer]
            return model, {
                "half_tensors": dtypes.count(onnx.TensorProto.FLOAT16)
            }
        if scheme.method == "dynamic":
            return model, onnx_dynamic.quantize(
                model, scheme.per_row, keep, channels
            )
        return model, onnx_blockwise.quantize(model, scheme.weight_bits, keep)


def _quantized_nodes(
    model: onnx.ModelProto, scheme: Scheme
) -> list[onnx.NodeProto]:
    """The operators with weights in the scheme's bits."""
    dtypes = {
        tensor.name: tensor.data_type for tensor in model.graph.initializer
    }

    def is_quantized(node: onnx.NodeProto) -> bool:
        if scheme.method == "cast":
            half = onnx.TensorProto.FLOAT16
            return any(dtypes.get(name) == half for name in node.input)
        if node.op_type == "Gather":
            return dtypes.get(node.input[0]) == onnx.TensorProto.INT8
        if scheme.method == "dynamic":
            return node.op_type in _INT8_PRODUCTS
        if node.op_type != "MatMulNBits":
            return False
        return bool(onnx_graph.attributes(node)["bits"] == scheme.weight_bits)

    return [node for node in model.graph.node if is_quantized(node)]


def _total_bytes(artifact: Artifact) -> int:
    return sum(artifact.path(part).stat().st_size for part in artifact.parts)


def _reason(notes: dict[str, Notes]) -> str:
    """Why an operator stays in float, for an error."""
    left: list[dict[str, str]] = []
    for note in notes.values():
        left += cast(list[dict[str, str]], note.get("left_float", []))
    if not left:
        return "it has no linear layer and no large table."
    first = left[0]
    more = f" ({len(left)} operators stay in float.)" if len(left) > 1 else ""
    return f"{first['op']} {first['module']}: {first['reason']}.{more}"
