"""Quantize a float ONNX file to the schemes that only TensorRT supports: 8-bit floats, and
4-bit weights in half-precision arithmetic.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import onnx

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.onnx import compact as onnx_compact
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import check_interface
from edgekit.formats.onnx.half import to_half
from edgekit.formats.tensorrt import ranges as onnx_ranges
from edgekit.formats.tensorrt.qdq import (
    BLOCK,
    Product,
    find_products,
    to_fp8,
    to_int4,
)
from edgekit.scheme import find
from edgekit.target import too_old
from edgekit.task import SplitName

_SCHEMES = ("fp8", "w4-weight")
#: Half precision ends at 65,504; a network that came close to it in calibration stays in 32
#: bits around its float8 products.
MAX_HALF = 32_000.0
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_STORED_DTYPES = (onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.INT4)


@dataclasses.dataclass(frozen=True)
class QuantizeTensorrt:
    """Quantizes products with stored weights to float8 (data and weights), or only their
    weights to 4 bits.

    Modules in ``keep`` stay unchanged. Everything else computes in half precision (TensorRT
    fuses 4-bit weights into every product only there), or in 32 bits if ``half`` is False.
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
        """A scheme of this step, GPUs that have its arithmetic, and a float file with
        something to quantize.
        """
        if self.scheme not in _SCHEMES:
            raise StepError(
                f"quantize_tensorrt does not support the scheme {self.scheme!r}.",
                fix=f"use one of {', '.join(_SCHEMES)}; w8a8-static is calibrated in PyTorch",
            )
        if self.samples < 1:
            raise StepError(
                f"Invalid number of calibration samples: {self.samples}.",
                fix="set samples to 100 or more",
            )
        explanation = too_old(find(self.scheme), self.compute_capabilities)
        if explanation is not None:
            problem, fix = explanation
            raise StepError(f"quantize_tensorrt: {problem}.", fix=fix)
        graphs = {
            part.name: onnx_graph.read(artifact.path(part)).graph
            for part in artifact.parts
        }
        for name, graph in graphs.items():
            if any(node.op_type in _QDQ for node in onnx_graph.nodes(graph)):
                raise StepError(
                    f"The ONNX file of {name!r} is already quantized.",
                    fix="use the float file for this step",
                )
        if not any(self._select(graph) for graph in graphs.values()):
            raise NothingToDo(
                f"There is nothing to quantize to {self.scheme}: {self._why_nothing()}.",
                fix="use another scheme, or keep fewer modules",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Measure ranges if the scheme needs them, and write the file of every part."""
        models = {
            part.name: onnx_graph.read(artifact.path(part))
            for part in artifact.parts
        }
        for model in models.values():
            _name_products(model.graph)
        ranges: dict[str, dict[str, float]] = {name: {} for name in models}
        if self.scheme == "fp8":
            ranges = self._measure_ranges(artifact, models, context)
        parts = []
        notes = {}
        for part in artifact.parts:
            model, part_notes = self._quantize(
                models[part.name], ranges[part.name]
            )
            path = context.folder / f"{part.name}.onnx"
            onnx_graph.write(model, path)
            files = {"model": File(path=path.name)}
            parts.append(
                Part(name=part.name, signature=part.signature, files=files)
            )
            notes[part.name] = part_notes
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"scheme": self.scheme, "parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The interface is the same, the nodes are in order, and every selected product has
        quantized weights.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            check_interface(after.path(new), new.signature)
            graph = onnx_graph.read(after.path(new)).graph
            quantized = sum(
                tensor.data_type in _STORED_DTYPES and len(tensor.dims) > 1
                for tensor in graph.initializer
            )
            selected = self._select(onnx_graph.read(before.path(old)).graph)
            expected = len({product.weight.name for product in selected})
            if not onnx_graph.is_sorted(graph) or quantized < expected:
                raise StepError(
                    f"Quantizing {new.name} stored {quantized} of {expected} weights, or left "
                    "its nodes out of order.",
                    fix="report this as a bug",
                )

    def _select(self, graph: onnx.GraphProto) -> list[Product]:
        """The products to quantize: all for fp8; for 4 bits the matrices that consist of
        complete blocks.
        """
        if self.scheme == "fp8":
            products = find_products(graph)
        else:
            products = [
                product
                for product in find_products(graph, ("Gemm", "MatMul"))
                if len(product.weight.dims) == 2
                and product.weight.dims[product.axis] % BLOCK == 0
            ]
        return [product for product in products if not product.is_in(self.keep)]

    def _why_nothing(self) -> str:
        if self.scheme == "fp8":
            return "no convolution and no matrix product has stored weights, or all are kept"
        return (
            f"no linear layer has a multiple of {BLOCK} inputs, or all are kept"
        )

    def _measure_ranges(
        self,
        artifact: Artifact,
        models: Mapping[str, onnx.ModelProto],
        context: Context,
    ) -> dict[str, dict[str, float]]:
        """Part -> node name -> the largest absolute value of the data that it reads."""
        data = context.task.need("calibration", "quantization")
        split = data.draw(self.samples, context.seed)
        inputs = {
            name: {
                product.node.name: product.node.input[0]
                for product in self._select(model.graph)
            }
            for name, model in models.items()
        }
        tensors = {name: set(row.values()) for name, row in inputs.items()}
        largest = onnx_ranges.measure_largest(
            artifact, tensors, split, context.progress
        )
        return {
            name: {node: largest[name][tensor] for node, tensor in row.items()}
            for name, row in inputs.items()
        }

    def _quantize(
        self, model: onnx.ModelProto, largest: Mapping[str, float]
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The quantized model and the notes; ``largest`` by node name."""
        names = {product.node.name for product in self._select(model.graph)}
        all_names = [
            product.node.name for product in find_products(model.graph)
        ]
        use_half = self.half and max(largest.values(), default=0.0) < MAX_HALF
        if use_half:
            model = to_half(model)
        products = [
            product
            for product in find_products(model.graph)
            if product.node.name in names
        ]
        if self.scheme == "fp8":
            to_fp8(model, products, largest)
        else:
            to_int4(model, products)
        onnx_compact.share_constants(model.graph)
        return model, {
            "quantized": len(products),
            "left": [name for name in all_names if name not in names],
            "half": use_half,
            "largest": dict(largest),
        }


def _name_products(graph: onnx.GraphProto) -> None:
    """Give every product a unique name, which identifies it in the half-precision graph."""
    names: set[str] = set()
    for product in find_products(graph):
        name = product.node.name or product.node.op_type
        if name in names:
            name = f"{name}.{product.node.output[0]}"
        product.node.name = name
        names.add(name)
