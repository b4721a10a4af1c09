"""Q/DQ pairs around the products of an ONNX graph, as TensorRT supports them: 8-bit floats,
and 4-bit weights in blocks.

fp8 (E4M3): data and weights with per-tensor scales, so that the largest observed value is
448 (Micikevicius et al. 2022, "FP8 formats for deep learning"). 4 bits: only weights, with a
scale for each 32 of them along the axis that is summed over.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes
import numpy
import numpy.typing
import onnx
import onnx.helper
import onnx.numpy_helper

from edgekit.arrays import Array
from edgekit.errors import StepError
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph

#: The largest float8 E4M3 value.
MAX_FP8 = 448.0
#: TensorRT fuses 4-bit weights into the product only if they have blocks.
BLOCK = 32
#: Scales that are tried for a block, relative to the one that maps its largest weight to the
#: end of the grid.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
_ONNX_DOMAINS = ("", "ai.onnx")


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
        """The PyTorch module, from the node's name ``module.path/Operator``, or that name."""
        return self.node.name.partition("/")[0] or self.node.name

    def is_in(self, modules: Sequence[str]) -> bool:
        """Whether the product belongs to one of the modules, or to one below."""
        return is_within(self.module, modules)


def find_products(
    graph: onnx.GraphProto,
    operators: Sequence[str] = ("Conv", "Gemm", "MatMul"),
) -> list[Product]:
    """The products with stored float weights, in the order in which they run.

    Those inside If, Loop and Scan are left out.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    # ONNX lets a user overwrite a stored tensor that is also an input.
    inputs = {value.name for value in graph.input}
    products = []
    for node in graph.node:
        if node.op_type not in operators or node.domain not in _ONNX_DOMAINS:
            continue
        weight = stored.get(node.input[1])
        if weight is None or weight.name in inputs or node.input[0] in stored:
            continue
        if weight.data_type not in _FLOATS or len(weight.dims) < 2:
            continue
        is_transposed = bool(onnx_graph.attributes(node).get("transB", 0))
        axis = len(weight.dims) - 2
        if node.op_type == "Conv" or is_transposed:
            axis = 1
        products.append(Product(node, weight, axis))
    return products


def to_fp8(
    model: onnx.ModelProto,
    products: Sequence[Product],
    largest: Mapping[str, float],
) -> None:
    """Quantize the data and the weights of products of ``model`` to float8, in place.

    ``largest``: node name -> the largest absolute value of its data.
    """
    graph = model.graph
    data_of: dict[str, str] = {}
    weights_of: dict[str, str] = {}
    nodes_before: dict[str, list[onnx.NodeProto]] = {}
    for product in products:
        node, weight = product.node, product.weight
        data = node.input[0]
        new_nodes = nodes_before.setdefault(node.output[0], [])
        if data not in data_of:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
            pair = _fp8_pair(graph, data, _fp8_scale(largest[node.name], dtype))
            data_of[data] = pair[-1].output[0]
            new_nodes += pair
        if weight.name not in weights_of:
            dequantize = _fp8_weights(graph, weight)
            weights_of[weight.name] = dequantize.output[0]
            new_nodes.append(dequantize)
        node.input[0] = data_of[data]
        node.input[1] = weights_of[weight.name]
    _insert(graph, nodes_before)


def to_int4(model: onnx.ModelProto, products: Sequence[Product]) -> None:
    """Store the weights of products of ``model`` in 4 bits, in place.

    Raises StepError if the file cannot have opset 21, which blocks require.
    """
    weights_of: dict[tuple[str, int], str] = {}
    nodes_before: dict[str, list[onnx.NodeProto]] = {}
    for product in products:
        key = (product.weight.name, product.axis)
        if key not in weights_of:
            dequantize = _int4_weights(model.graph, product)
            weights_of[key] = dequantize.output[0]
            nodes_before[product.node.output[0]] = [dequantize]
        product.node.input[1] = weights_of[key]
    _insert(model.graph, nodes_before)
    _raise_opset(model)


def quantize_blocks(weights: Array, axis: int) -> tuple[Array, Array]:
    """A matrix as 4-bit integers (-8 to 7), and a scale for each 32 along ``axis``.

    The scale of a block is the one of a few with the least squared error. Shapes: that of
    ``weights``, and the same with 1/32 of the length along ``axis``.
    """
    rows = numpy.moveaxis(weights.astype("float32"), axis, -1)
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK)
    largest = numpy.abs(blocks).max(-1)
    least_error = numpy.full(largest.shape, numpy.inf, "float32")
    scales = numpy.empty(largest.shape, "float32")
    for shrink in _SHRINKS:
        exact = largest * numpy.float32(shrink / 7)
        candidate = _at_least_normal(exact, weights.dtype).astype("float32")
        restored = _round_to_grid(blocks, candidate) * candidate[..., None]
        error = numpy.square(restored - blocks).sum(-1)
        is_better = error < least_error
        least_error = numpy.where(is_better, error, least_error)
        scales = numpy.where(is_better, candidate, scales)
    integers = _round_to_grid(blocks, scales).reshape(rows.shape)
    scales = numpy.moveaxis(scales, -1, axis).astype(weights.dtype)
    return numpy.moveaxis(integers, -1, axis), scales


def _round_to_grid(blocks: Array, scales: Array) -> Array:
    return numpy.asarray(
        numpy.clip(numpy.rint(blocks / scales[..., None]), -8, 7)
    )


def _fp8_scale(largest: float, dtype: numpy.typing.DTypeLike) -> Array:
    return _at_least_normal(numpy.array(largest / MAX_FP8, "float32"), dtype)


def _at_least_normal(scales: Array, dtype: numpy.typing.DTypeLike) -> Array:
    """Scales in the graph's own precision.

    A tensor that is always zero would have scale 0, and half floats represent no other
    small number exactly.
    """
    return numpy.asarray(
        numpy.maximum(scales, numpy.finfo(dtype).tiny).astype(dtype)
    )


def _fp8_zero(graph: onnx.GraphProto) -> str:
    """The name of the zero point, which all pairs share."""
    zero = numpy.zeros((), ml_dtypes.float8_e4m3fn)
    return onnx_graph.add_constant(graph, "fp8_zero", zero)


def _fp8_pair(
    graph: onnx.GraphProto, name: str, value: Array
) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear of a tensor to float8 and back."""
    scale = onnx_graph.add_constant(graph, f"{name}.fp8_scale", value)
    zero = _fp8_zero(graph)
    quantize = onnx.helper.make_node(
        "QuantizeLinear", [name, scale, zero], [f"{name}.fp8"]
    )
    dequantize = onnx.helper.make_node(
        "DequantizeLinear", [f"{name}.fp8", scale, zero], [f"{name}.rounded"]
    )
    return [quantize, dequantize]


def _fp8_weights(
    graph: onnx.GraphProto, weight: onnx.TensorProto
) -> onnx.NodeProto:
    array = onnx.numpy_helper.to_array(weight)
    scale = _fp8_scale(float(numpy.abs(array).max()), array.dtype)
    scaled = array.astype("float32") / scale.astype("float32")
    rounded = numpy.clip(scaled, -MAX_FP8, MAX_FP8).astype(
        ml_dtypes.float8_e4m3fn
    )
    inputs = [
        onnx_graph.add_constant(graph, f"{weight.name}.fp8", rounded),
        onnx_graph.add_constant(graph, f"{weight.name}.fp8_scale", scale),
        _fp8_zero(graph),
    ]
    return onnx.helper.make_node(
        "DequantizeLinear", inputs, [f"{weight.name}.rounded"]
    )


def _int4_weights(graph: onnx.GraphProto, product: Product) -> onnx.NodeProto:
    name, axis = product.weight.name, product.axis
    array = onnx.numpy_helper.to_array(product.weight)
    integers, scales = quantize_blocks(array, axis)
    inputs = [
        onnx_graph.add_constant(
            graph, f"{name}.int4.{axis}", integers.astype(ml_dtypes.int4)
        ),
        onnx_graph.add_constant(
            graph, f"{name}.int4_scale.{axis}", numpy.ascontiguousarray(scales)
        ),
    ]
    return onnx.helper.make_node(
        "DequantizeLinear",
        inputs,
        [f"{name}.rounded.{axis}"],
        axis=axis,
        block_size=BLOCK,
    )


def _insert(
    graph: onnx.GraphProto, nodes_before: Mapping[str, Sequence[onnx.NodeProto]]
) -> None:
    """Insert nodes before those that read them, and remove what is not read any more.

    ``nodes_before``: the first output of a node -> the nodes in front of it.
    """

    def ordered() -> Iterator[onnx.NodeProto]:
        for node in graph.node:
            yield from nodes_before.get(node.output[0], ())
            yield node

    nodes = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for node in ordered()
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx_graph.sweep(graph)


def _raise_opset(model: onnx.ModelProto) -> None:
    """Blocks require opset 21; compared with 18 to 20, only GroupNormalization has changed."""
    entry = next(
        entry for entry in model.opset_import if entry.domain in _ONNX_DOMAINS
    )
    if entry.version < 21:
        if any(
            node.op_type == "GroupNormalization" for node in model.graph.node
        ):
            raise StepError(
                "4-bit weights require opset 21, in which GroupNormalization differs from the "
                "file's.",
                fix="export with opset 21",
            )
        entry.version = 21
    model.ir_version = max(model.ir_version, 10)
