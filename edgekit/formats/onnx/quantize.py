"""What is made on the exported ONNX file: half precision, dynamic int8, and weights alone
in 8 or 4 bits.
"""

import dataclasses
from typing import ClassVar

import onnx

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import blockwise as onnx_blocks
from edgekit.formats.onnx import dynamic as onnx_dynamic
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import half as onnx_half
from edgekit.formats.onnx import linear as onnx_linear
from edgekit.formats.onnx import outliers as onnx_outliers
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.export import check_interface
from edgekit.scheme import find
from edgekit.task import SplitName

_INT8_PRODUCTS = {"MatMulIntegerToFloat", "DynamicQuantizeLSTM"}


@dataclasses.dataclass(frozen=True)
class QuantizeOnnx:
    """Store weights in fewer bits, and compute in them where ONNX Runtime can.

    ``keep`` names modules by path (``part.path`` where there are several parts) that stay
    in float, with all that is in them. ``outliers`` is for dynamic int8 row by row: the
    most input channels of a linear layer that stay in float because they are far larger
    than the others. They are found on ``samples`` calibration samples; with 0, or without
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
        """A scheme that is made here, numbers that make sense, a float file."""
        known = find(self.scheme)
        if (
            known.method not in ("cast", "dynamic", "weight")
            or known.provider != "edgekit"
            or "onnx" not in known.formats
        ):
            fix = "use fp16, w8-dynamic, w8-dynamic-tensor, w8-weight or w4-weight here; w8a8-static is calibrated on the PyTorch graph"
            raise StepError(
                f"The scheme {self.scheme!r} is not made on an ONNX file.", fix=fix
            )
        if self.outliers < 0 or self.samples < 1:
            raise StepError(
                f"{self.outliers} float channels, found on {self.samples} samples, are not possible.",
                fix="set outliers to 0 or more, samples to 1 or more",
            )
        for part in artifact.parts:
            onnx_linear.refuse_quantized(
                onnx_graph.read(artifact.path(part)).graph, part.name
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the quantized file of every part."""
        models = {
            part.name: onnx_graph.read(artifact.path(part)) for part in artifact.parts
        }
        onnx_linear.refuse_unknown(
            self.keep, {name: model.graph for name, model in models.items()}
        )
        channels = self._float_channels(artifact, context)
        parts, notes = [], {}
        for part in artifact.parts:
            model, notes[part.name] = self._quantized(
                part, models[part.name], channels.get(part.name, {})
            )
            file = f"{part.name}.onnx"
            onnx_graph.write(model, context.folder / file)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": File(path=file)},
                )
            )
        after = Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"scheme": self.scheme, "parts": notes},
            folder=context.folder,
        )
        if not any(self._done(onnx_graph.read(after.path(part))) for part in after.parts):
            raise NothingToDo(
                f"There is nothing to quantize for {self.scheme}: {_why(notes)}",
                fix="take the scheme 'float', or w8a8-static for convolutions",
            )
        return after

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The same interface, nodes in order, a smaller file with quantized weights, and
        none in the modules to keep.
        """
        for part in after.parts:
            check_interface(after.path(part), part.signature)
            model = onnx_graph.read(after.path(part))
            if not onnx_graph.is_sorted(model.graph):
                raise StepError(
                    f"The nodes of {part.name} are out of order.",
                    fix="report this as a bug",
                )
            keep = onnx_linear.kept(self.keep, part.name)
            wrong = [
                onnx_graph.module(node)
                for node in self._done(model)
                if is_within(onnx_graph.module(node), keep)
            ]
            if wrong:
                raise StepError(
                    f"{wrong[0]} of {part.name} was to stay in float and was quantized.",
                    fix="report this as a bug",
                )
        if not any(self._done(onnx_graph.read(after.path(part))) for part in after.parts):
            raise StepError("No weights were quantized.", fix="take the scheme 'float'")
        sizes = [
            sum(artifact.path(part).stat().st_size for part in artifact.parts)
            for artifact in (before, after)
        ]
        if sizes[1] >= sizes[0]:
            raise StepError(
                f"The file did not become smaller: {sizes[0]} bytes before, {sizes[1]} after.",
                fix="take the scheme 'float'",
            )

    def _float_channels(
        self, artifact: Artifact, context: Context
    ) -> dict[str, dict[str, tuple[int, ...]]]:
        split = context.task.split("calibration")
        if not find(self.scheme).per_row or not self.outliers or split is None:
            return {}
        wanted = {}
        for part in artifact.parts:
            model = onnx_graph.read(artifact.path(part))
            lowest = onnx_dynamic.floors(model.graph)
            wanted[part.name] = {
                layer.input: lowest.get(layer.input)
                for layer in onnx_linear.linears(
                    Edit(model), onnx_linear.kept(self.keep, part.name)
                )[0]
            }
        return onnx_outliers.find(
            artifact, wanted, split.draw(self.samples, context.seed), self.outliers
        )

    def _quantized(
        self, part: Part, model: onnx.ModelProto, channels: onnx_dynamic.Outliers
    ) -> tuple[onnx.ModelProto, dict[str, object]]:
        """The new model and what is to be told of it."""
        scheme, keep = find(self.scheme), onnx_linear.kept(self.keep, part.name)
        if scheme.method == "cast":
            model = onnx_half.to_half(model, keep)
            return model, {
                "half_tensors": sum(
                    tensor.data_type == onnx.TensorProto.FLOAT16
                    for tensor in model.graph.initializer
                )
            }
        if scheme.method == "dynamic":
            return model, onnx_dynamic.quantize(model, scheme.per_row, keep, channels)
        return model, onnx_blocks.quantize(model, scheme.weight_bits, keep)

    def _done(self, model: onnx.ModelProto) -> list[onnx.NodeProto]:
        """The operators with weights in the scheme's bits."""
        scheme = find(self.scheme)
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        if scheme.method == "cast":
            return [
                node
                for node in model.graph.node
                if any(kinds.get(name) == onnx.TensorProto.FLOAT16 for name in node.input)
            ]
        lookups = [
            node
            for node in model.graph.node
            if node.op_type == "Gather"
            and kinds.get(node.input[0]) == onnx.TensorProto.INT8
        ]
        if scheme.method == "dynamic":
            return [
                node for node in model.graph.node if node.op_type in _INT8_PRODUCTS
            ] + lookups
        bits = [
            node
            for node in model.graph.node
            if node.op_type == "MatMulNBits"
            and onnx_graph.attributes(node)["bits"] == scheme.weight_bits
        ]
        return bits + lookups


def _why(notes: dict[str, dict[str, object]]) -> str:
    """What stays in float, for an error."""
    left = [item for note in notes.values() for item in note.get("left_float", ())]  # type: ignore[attr-defined]
    if not left:
        return "no linear layer and no large table is in it."
    return f"{left[0]['op']} {left[0]['module']}: {left[0]['reason']}." + (
        f" ({len(left)} operators stay in float.)" if len(left) > 1 else ""
    )
