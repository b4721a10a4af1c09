"""The schemes that only TensorRT has, made on the float ONNX file: 8-bit floats, and 4-bit
weights in half-precision arithmetic.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import onnx

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import check_interface
from edgekit.formats.onnx.half import to_half
from edgekit.formats.tensorrt import ranges as onnx_ranges
from edgekit.formats.tensorrt.qdq import BLOCK, Product, products, to_fp8, to_int4
from edgekit.scheme import find
from edgekit.target import too_old
from edgekit.task import SplitName

_SCHEMES = ("fp8", "w4-weight")
#: Half precision ends at 65,504; a network that was seen to come near stays in 32 bits
#: around its float8 products.
LARGEST_HALF = 32_000.0
_QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclasses.dataclass(frozen=True)
class QuantizeTensorrt:
    """Round products with stored weights to float8 (data and weights), or their weights
    alone to 4 bits.

    Modules in ``keep`` stay as they are. What is not rounded computes in half precision
    (TensorRT fuses 4-bit weights into every product only there), in 32 bits where ``half``
    is False.
    """

    scheme: str = "fp8"
    compute_capabilities: Sequence[str] = ()
    samples: int = 256
    keep: Sequence[str] = ()
    half: bool = True
    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "ml-dtypes")
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def __post_init__(self) -> None:
        for field in ("compute_capabilities", "keep"):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    def requires(self, artifact: Artifact) -> None:
        """A scheme of TensorRT's own, GPUs that have its arithmetic, and a float file with
        something to quantize.
        """
        if self.scheme not in _SCHEMES:
            raise StepError(
                f"The scheme {self.scheme!r} is not made here.",
                fix=f"use one of {', '.join(_SCHEMES)}; w8a8-static is calibrated in PyTorch",
            )
        if self.samples < 1:
            raise StepError(
                f"Calibration on {self.samples} samples is not possible.",
                fix="set samples to 100 or more",
            )
        if refusal := too_old(find(self.scheme), self.compute_capabilities):
            raise StepError(f"quantize_tensorrt: {refusal[0]}.", fix=refusal[1])
        for part in artifact.parts:
            graph = onnx_graph.read(artifact.path(part)).graph
            if any(node.op_type in _QDQ for node in onnx_graph.nodes(graph)):
                raise StepError(
                    f"The ONNX file of {part.name!r} is quantized already.",
                    fix="give this step the float file",
                )
        if not any(
            self._chosen(onnx_graph.read(artifact.path(part)).graph)
            for part in artifact.parts
        ):
            raise NothingToDo(
                f"There is nothing to quantize to {self.scheme}: {self._wanted()}.",
                fix="take another scheme, or keep fewer modules",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Find the ranges where the scheme needs them, and write the file of every part."""
        models = {
            part.name: onnx_graph.read(artifact.path(part)) for part in artifact.parts
        }
        for model in models.values():
            _name_products(model.graph)
        ranges = (
            self._ranges(artifact, models, context)
            if self.scheme == "fp8"
            else {part.name: {} for part in artifact.parts}
        )
        parts, notes = [], {}
        for part in artifact.parts:
            model, notes[part.name] = self._made(models[part.name], ranges[part.name])
            file = f"{part.name}.onnx"
            onnx_graph.write(model, context.folder / file)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": File(path=file)},
                )
            )
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"scheme": self.scheme, "parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The interface is the same, the nodes are in order, and every product that was to
        be rounded reads rounded weights.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            check_interface(after.path(new), new.signature)
            graph = onnx_graph.read(after.path(new)).graph
            rounded = sum(
                tensor.data_type in (onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.INT4)
                and len(tensor.dims) > 1
                for tensor in graph.initializer
            )
            wanted = len(
                {
                    product.weight.name
                    for product in self._chosen(onnx_graph.read(before.path(old)).graph)
                }
            )
            if not onnx_graph.is_sorted(graph) or rounded < wanted:
                raise StepError(
                    f"Quantizing {new.name} left {rounded} of {wanted} weights, or its nodes out of order.",
                    fix="report this as a bug",
                )

    def _chosen(self, graph: onnx.GraphProto) -> list[Product]:
        """The products to quantize: all for fp8; for 4 bits the matrices that can be cut
        into blocks.
        """
        if self.scheme == "fp8":
            return [product for product in products(graph) if not product.is_in(self.keep)]
        matrices = [
            product
            for product in products(graph, ("Gemm", "MatMul"))
            if len(product.weight.dims) == 2
        ]
        return [
            product
            for product in matrices
            if product.weight.dims[product.axis] % BLOCK == 0
            and not product.is_in(self.keep)
        ]

    def _wanted(self) -> str:
        if self.scheme == "fp8":
            return (
                "no convolution and no matrix product has stored weights, or all are kept"
            )
        return f"no linear layer has a multiple of {BLOCK} inputs, or all are kept"

    def _ranges(
        self, artifact: Artifact, models: Mapping[str, onnx.ModelProto], context: Context
    ) -> dict[str, dict[str, float]]:
        """Part -> node name -> the largest size of the data that the product reads."""
        split = context.task.need("calibration", "quantization").draw(
            self.samples, context.seed
        )
        data = {
            name: {
                product.node.name: product.node.input[0]
                for product in self._chosen(model.graph)
            }
            for name, model in models.items()
        }
        found = onnx_ranges.largest(
            artifact,
            {name: set(row.values()) for name, row in data.items()},
            split,
            context.progress,
        )
        return {
            name: {node: found[name][tensor] for node, tensor in row.items()}
            for name, row in data.items()
        }

    def _made(
        self, model: onnx.ModelProto, largest: Mapping[str, float]
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        names = {product.node.name for product in self._chosen(model.graph)}
        left = [
            product.node.name
            for product in products(model.graph)
            if product.node.name not in names
        ]
        half = self.half and max(largest.values(), default=0.0) < LARGEST_HALF
        made = to_half(model) if half else model
        chosen = [product for product in products(made.graph) if product.node.name in names]
        if self.scheme == "fp8":
            to_fp8(made, chosen, largest)
        else:
            to_int4(made, chosen)
        onnx_graph.share_constants(made.graph)
        return made, {
            "quantized": len(chosen),
            "left": left,
            "half": half,
            "largest": dict(largest),
        }


def _name_products(graph: onnx.GraphProto) -> None:
    """Give a name of its own to every product that has none, so that it is found again in
    half precision.
    """
    seen: set[str] = set()
    for product in products(graph):
        name = product.node.name or product.node.op_type
        product.node.name = name if name not in seen else f"{name}.{product.node.output[0]}"
        seen.add(product.node.name)
