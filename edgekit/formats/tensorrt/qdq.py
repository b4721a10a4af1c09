"""Q/DQ pairs around the products of an ONNX graph, as TensorRT takes them: 8-bit floats,
and 4-bit weights in blocks.

fp8 (E4M3): data and weights, one scale a tensor, so that the largest value that was seen is
448 (Micikevicius et al. 2022, "FP8 formats for deep learning"). 4 bits: weights alone, one
scale for 32 of them along the axis that is summed over.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes
import numpy
import numpy.typing
import onnx
import onnx.helper
import onnx.numpy_helper

from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph

#: The largest number of float8 E4M3.
LARGEST_FP8 = 448.0
#: TensorRT fuses 4-bit weights into the product only where they are blocked.
BLOCK = 32
#: Scales that are tried for a block, as shares of the one that takes its largest weight to
#: the end of the grid.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or matrix product of data with stored weights.

    ``axis`` is the weights' axis that is summed over.
    """

    node: onnx.NodeProto
    weight: onnx.TensorProto
    axis: int

    @property
    def module(self) -> str:
        """The PyTorch module, from the node's name ``module.path/Operator``; else the
        node's name.
        """
        return self.node.name.partition("/")[0] or self.node.name

    def is_in(self, modules: Sequence[str]) -> bool:
        """Whether the product is made by one of the modules, or inside one."""
        return any(
            self.module == module or self.module.startswith(f"{module}.")
            for module in modules
        )


def products(
    graph: onnx.GraphProto, operators: Sequence[str] = ("Conv", "Gemm", "MatMul")
) -> list[Product]:
    """The products whose weights are stored, in the order in which they run; those inside
    If, Loop and Scan are left out.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    given = {
        value.name for value in graph.input
    }  # ONNX lets a user overwrite such a tensor
    found = []
    for node in graph.node:
        if (
            node.op_type not in operators
            or node.domain not in ("", "ai.onnx")
            or node.input[0] in stored
        ):
            continue
        weight = stored.get(node.input[1])
        if (
            weight is None
            or weight.name in given
            or weight.data_type not in _FLOATS
            or len(weight.dims) < 2
        ):
            continue
        transposed = bool(onnx_graph.attributes(node).get("transB", 0))
        found.append(
            Product(
                node,
                weight,
                1 if node.op_type == "Conv" or transposed else len(weight.dims) - 2,
            )
        )
    return found


def to_fp8(
    model: onnx.ModelProto, chosen: Sequence[Product], largest: Mapping[str, float]
) -> None:
    """Round the data and the weights of the chosen products to float8, in place.

    ``largest``: node name -> the largest size of its data.
    """
    graph, pairs, weights = model.graph, dict[str, str](), dict[str, str]()
    before: dict[str, list[onnx.NodeProto]] = {}
    for product in chosen:
        data, added = product.node.input[0], before.setdefault(product.node.output[0], [])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(product.weight.data_type)
        if data not in pairs:
            nodes = _pair(graph, data, _fp8_scale(largest[product.node.name], dtype))
            pairs[data] = nodes[-1].output[0]
            added += nodes
        if product.weight.name not in weights:
            node = _fp8_weights(graph, product.weight)
            weights[product.weight.name] = node.output[0]
            added.append(node)
        product.node.input[0], product.node.input[1] = (
            pairs[data],
            weights[product.weight.name],
        )
    _insert(graph, before)


def to_int4(model: onnx.ModelProto, chosen: Sequence[Product]) -> None:
    """Store the weights of the chosen products in 4 bits, in place."""
    weights: dict[tuple[str, int], str] = {}
    before: dict[str, list[onnx.NodeProto]] = {}
    for product in chosen:
        key = product.weight.name, product.axis
        if key not in weights:
            node = _int4_weights(model.graph, product)
            weights[key] = node.output[0]
            before[product.node.output[0]] = [node]
        product.node.input[1] = weights[key]
    _insert(model.graph, before)
    _raise_opset(model)


def blocked(
    weights: onnx_graph.Array, axis: int
) -> tuple[onnx_graph.Array, onnx_graph.Array]:
    """A matrix as 4-bit integers (-8 to 7) and one scale for each block of 32 along
    ``axis``: of a few scales the one with the least squared error.
    """
    rows = numpy.moveaxis(weights.astype("float32"), axis, -1)
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK)
    sizes = numpy.abs(blocks).max(-1)
    best, scales = (
        numpy.full(sizes.shape, numpy.inf, "float32"),
        numpy.empty(sizes.shape, "float32"),
    )
    for share in _SHARES:
        tried = _at_least_normal(sizes * numpy.float32(share / 7), weights.dtype).astype(
            "float32"
        )
        error = numpy.square(_on_grid(blocks, tried) * tried[..., None] - blocks).sum(-1)
        better = error < best
        best, scales = numpy.where(better, error, best), numpy.where(better, tried, scales)
    integers = _on_grid(blocks, scales).reshape(rows.shape)
    return numpy.moveaxis(integers, -1, axis), numpy.moveaxis(scales, -1, axis).astype(
        weights.dtype
    )


def _on_grid(blocks: onnx_graph.Array, scales: onnx_graph.Array) -> onnx_graph.Array:
    grid: onnx_graph.Array = numpy.clip(numpy.rint(blocks / scales[..., None]), -8, 7)
    return grid


def _fp8_scale(largest: float, dtype: numpy.typing.DTypeLike) -> onnx_graph.Array:
    return _at_least_normal(numpy.array(largest / LARGEST_FP8, "float32"), dtype)


def _at_least_normal(
    scales: onnx_graph.Array, dtype: numpy.typing.DTypeLike
) -> onnx_graph.Array:
    """Scales in the graph's own precision.

    What is always zero would have scale 0, and half floats hold no other small number
    exactly.
    """
    found: onnx_graph.Array = numpy.maximum(scales, numpy.finfo(dtype).tiny).astype(dtype)
    return found


def _pair(
    graph: onnx.GraphProto, name: str, scale: onnx_graph.Array
) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear of a tensor to float8 and back."""
    stored = onnx_graph.add_constant(graph, f"{name}.fp8_scale", scale)
    zero = onnx_graph.add_constant(
        graph, "fp8_zero", numpy.zeros((), ml_dtypes.float8_e4m3fn)
    )
    return [
        onnx.helper.make_node("QuantizeLinear", [name, stored, zero], [f"{name}.fp8"]),
        onnx.helper.make_node(
            "DequantizeLinear", [f"{name}.fp8", stored, zero], [f"{name}.rounded"]
        ),
    ]


def _fp8_weights(graph: onnx.GraphProto, weight: onnx.TensorProto) -> onnx.NodeProto:
    array = onnx.numpy_helper.to_array(weight)
    scale = _fp8_scale(float(numpy.abs(array).max()), array.dtype)
    rounded = numpy.clip(
        array.astype("float32") / scale.astype("float32"), -LARGEST_FP8, LARGEST_FP8
    ).astype(ml_dtypes.float8_e4m3fn)
    names = [
        onnx_graph.add_constant(graph, f"{weight.name}.{what}", value)
        for what, value in (("fp8", rounded), ("fp8_scale", scale))
    ]
    zero = onnx_graph.add_constant(
        graph, "fp8_zero", numpy.zeros((), ml_dtypes.float8_e4m3fn)
    )
    return onnx.helper.make_node(
        "DequantizeLinear", [*names, zero], [f"{weight.name}.rounded"]
    )


def _int4_weights(graph: onnx.GraphProto, product: Product) -> onnx.NodeProto:
    name, axis = product.weight.name, product.axis
    integers, scales = blocked(onnx.numpy_helper.to_array(product.weight), axis)
    stored = onnx_graph.add_constant(
        graph, f"{name}.int4.{axis}", integers.astype(ml_dtypes.int4)
    )
    scale = onnx_graph.add_constant(
        graph, f"{name}.int4_scale.{axis}", numpy.ascontiguousarray(scales)
    )
    return onnx.helper.make_node(
        "DequantizeLinear",
        [stored, scale],
        [f"{name}.rounded.{axis}"],
        axis=axis,
        block_size=BLOCK,
    )


def _insert(graph: onnx.GraphProto, before: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put the new nodes in front of those that read them, and drop what nobody reads any
    more.
    """

    def ordered() -> Iterator[onnx.NodeProto]:
        for node in graph.node:
            yield from before.get(node.output[0], ())
            yield node

    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered()]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx_graph.sweep(graph)


def _raise_opset(model: onnx.ModelProto) -> None:
    """Blocks need opset 21; against opset 18 to 20 only GroupNormalization means something
    else there.
    """
    entry = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if entry.version < 21:
        if any(node.op_type == "GroupNormalization" for node in model.graph.node):
            raise StepError(
                "4-bit weights need opset 21, and GroupNormalization has changed since the file's.",
                fix="export with opset 21",
            )
        entry.version = 21
    model.ir_version = max(model.ir_version, 10)
