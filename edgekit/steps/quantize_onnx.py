"""Half precision on the ONNX file: 16-bit weights and arithmetic, 32-bit inputs and outputs."""

import dataclasses
import warnings
from typing import ClassVar

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekit.artifact import Artifact, File, Form, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.scheme import find
from edgekit.steps import onnx_graph
from edgekit.steps.torch_to_onnx import check_interface
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class QuantizeOnnx:
    """Store weights in 16 bits and compute in half precision where the runtime can."""

    scheme: str = "fp16"
    takes: ClassVar[tuple[Form, ...]] = ("onnx",)
    gives: ClassVar[Form] = "onnx"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A scheme that only casts."""
        if find(self.scheme).method != "cast":
            raise StepError(f"The scheme {self.scheme!r} is not made on an ONNX file.", fix="use fp16 here; w8a8-static is calibrated on the PyTorch graph")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the file of every part in half precision."""
        parts, notes = [], {}
        for part in artifact.parts:
            model = to_half(onnx_graph.read(artifact.path(part)))
            notes[part.name] = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
            file = f"{part.name}.onnx"
            onnx_graph.write(model, context.folder / file)
            parts.append(Part(name=part.name, signature=part.signature, files={"model": File(path=file)}))
        return Artifact(form="onnx", parts=tuple(parts), notes={"scheme": self.scheme, "half_tensors": notes}, folder=context.folder)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The interface is the same, the nodes are in order, and there are 16-bit weights."""
        for part in after.parts:
            check_interface(after.path(part), part.signature)
            graph = onnx_graph.read(after.path(part)).graph
            if not onnx_graph.is_sorted(graph):
                raise StepError(f"The nodes of {part.name} are out of order.", fix="report this as a bug")
            if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer):
                raise StepError(f"{part.name} has no float weights to store in 16 bits.", fix="take the scheme 'float'")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with 16-bit weights; inputs and outputs keep their types, and the nodes are in order."""
    with warnings.catch_warnings():
        # Numbers below half precision's range become its smallest ones; the accuracy gate judges that.
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated", category=UserWarning)
        try:
            half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
        except (ValueError, TypeError, onnx.checker.ValidationError) as error:
            raise StepError(f"The file cannot be turned to half precision: {onnx_graph.first_line(error)}", fix="take another scheme") from error
    onnx_graph.sort(half.graph)
    onnx_graph.sweep(half.graph)
    return half
