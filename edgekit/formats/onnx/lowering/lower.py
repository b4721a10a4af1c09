"""Rewrite a Q/DQ graph for ONNX Runtime's int8 kernels on x86, without changing the numbers
that it computes.

Three rewrites: int8 activations become uint8 (``unsigned``), padding moves into the
convolutions (``pads``), and few input channels become a multiple of four (``channels``).
"""

import dataclasses
from typing import ClassVar

import onnx

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import compact as onnx_compact
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.lowering import channels as onnx_channels
from edgekit.formats.onnx.lowering import pads as onnx_pads
from edgekit.formats.onnx.lowering import unsigned as onnx_unsigned
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class LowerOnnx:
    """Rewrite the graph for ONNX Runtime's int8 kernels. A float file passes unchanged."""

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("onnx",)
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Accept any ONNX file."""

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the lowered file of every part."""
        parts: list[Part] = []
        changes: dict[str, dict[str, int]] = {}
        for part in artifact.parts:
            model = onnx_graph.read(artifact.path(part))
            changes[part.name] = lower(model)
            file = File(path=f"{part.name}.onnx")
            onnx_graph.write(model, context.folder / file.path)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": file},
                )
            )
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"changes": changes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError if the interface changed or a signed activation is left."""
        for old, new in zip(before.parts, after.parts, strict=True):
            source = onnx_graph.read(before.path(old)).graph
            lowered = onnx_graph.read(after.path(new)).graph
            same_inputs = list(source.input) == list(lowered.input)
            same_outputs = list(source.output) == list(lowered.output)
            if not (same_inputs and same_outputs):
                raise StepError(
                    f"Lowering changed the inputs or outputs of {new.name}.",
                    fix="report this as a bug",
                )
            if onnx_unsigned.signed_quantizers(lowered):
                raise StepError(
                    f"Lowering left int8 activations in {new.name}.",
                    fix="report this as a bug",
                )


def lower(model: onnx.ModelProto) -> dict[str, int]:
    """Rewrite the graph in place; return the number of changes of each kind."""
    graph = model.graph
    folded_pads = onnx_pads.fold_pads(graph)
    unsigned_tensors = onnx_unsigned.make_unsigned(graph)
    widened_convolutions = onnx_channels.widen_channels(graph)
    onnx_graph.sweep(graph)
    onnx_compact.share_constants(graph)
    return {
        "unsigned_tensors": unsigned_tensors,
        "folded_pads": folded_pads,
        "widened_convolutions": widened_convolutions,
    }
