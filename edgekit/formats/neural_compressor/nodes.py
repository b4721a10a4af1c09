"""Write grids of 4-bit weights as MatMulNBits nodes of a float ONNX graph.

Only a product with exactly a grid's weights is replaced.
"""

from collections.abc import Iterable

import numpy
import onnx
import onnx.helper

from edgekit.arrays import Array
from edgekit.errors import StepError
from edgekit.formats.neural_compressor.blocks import BITS, BLOCK, Grid
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import MICROSOFT, require_microsoft


def write_grids(model: onnx.ModelProto, grids: Iterable[Grid]) -> int:
    """Replace products in place; return the number of MatMulNBits nodes.

    Raises StepError if a grid's weights are not in the graph.
    """
    graph = model.graph
    by_weights = {grid.weights().tobytes(): grid for grid in grids}
    replaced: set[bytes] = set()
    nodes: list[onnx.NodeProto] = []
    constants = onnx_graph.constants(graph)
    producers = onnx_graph.producers(graph)
    for node in list(graph.node):
        weights = _weights(node, constants, producers)
        key = (
            b""
            if weights is None
            else numpy.ascontiguousarray(weights).tobytes()
        )
        grid = by_weights.get(key)
        if (
            grid is None
            or weights is None
            or grid.stored.shape != weights.shape
        ):
            nodes.append(node)
            continue
        replaced.add(key)
        nodes.extend(_grid_nodes(graph, node, grid))
    missing = len(by_weights) - len(replaced)
    if missing:
        raise StepError(
            f"{missing} of {len(by_weights)} quantized layers are not in the ONNX graph.",
            fix="use edgekit's own w4-weight",
        )
    onnx_graph.replace_nodes(graph, nodes)
    require_microsoft(model)
    onnx_graph.sweep(graph)
    return sum(node.op_type == "MatMulNBits" for node in nodes)


def read_grid(graph: onnx.GraphProto, node: onnx.NodeProto) -> Grid:
    """Return the grid of a MatMulNBits node that ``write_grids`` wrote."""
    constants = onnx_graph.constants(graph)
    attributes = onnx_graph.attributes(node)
    weight, scale, zero = (constants[name] for name in node.input[1:4])
    outputs = attributes["N"]
    blocks = weight.shape[1]
    if zero.dtype == numpy.uint8:
        zero = _unpack(zero.reshape(outputs, -1))[:, :blocks]
    return Grid(
        _unpack(weight.reshape(outputs, -1))[:, : attributes["K"]],
        scale.reshape(outputs, blocks),
        zero.reshape(outputs, blocks),
    )


def _weights(
    node: onnx.NodeProto,
    constants: dict[str, Array],
    producers: dict[str, onnx.NodeProto],
) -> Array | None:
    """The constant weights [outputs, inputs] of a matrix product, or None."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    attributes = onnx_graph.attributes(node)
    factors = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0))
    if attributes.get("transA", 0) or factors != (1.0, 1.0):
        return None
    name = node.input[1]
    transposed = bool(attributes.get("transB", 0))
    producer = producers.get(name)
    # The exporter leaves the transposition of a large weight in the graph.
    if producer is not None and producer.op_type == "Transpose":
        if producer.input[0] not in constants:
            return None
        name = producer.input[0]
        transposed = not transposed
    if name not in constants:
        return None
    weights = constants[name]
    if weights.ndim != 2 or weights.dtype != numpy.float32:
        return None
    return weights if transposed else weights.T


def _grid_nodes(
    graph: onnx.GraphProto, node: onnx.NodeProto, grid: Grid
) -> list[onnx.NodeProto]:
    """MatMulNBits, and an Add if the product had a bias."""
    output = node.output[0]
    stem = f"{output}_4bit"
    outputs, inputs = grid.stored.shape
    blocks = grid.scale.shape[1]
    padded = numpy.zeros((outputs, blocks * BLOCK), "uint8")
    padded[:, :inputs] = grid.stored
    weight = _pack(padded).reshape(outputs, blocks, BLOCK * BITS // 8)
    scale = numpy.ascontiguousarray(grid.scale.reshape(-1), "float32")
    names = [
        node.input[0],
        onnx_graph.add_constant(graph, f"{stem}_weight", weight),
        onnx_graph.add_constant(graph, f"{stem}_scale", scale),
        onnx_graph.add_constant(graph, f"{stem}_zero", _zeros(grid.zero)),
    ]
    bias = node.input[2] if len(node.input) > 2 else ""
    product = f"{stem}_product" if bias else output
    name = f"{onnx_graph.module(node)}/MatMulNBits"
    nodes = [
        onnx.helper.make_node(
            "MatMulNBits",
            names,
            [product],
            name=name,
            domain=MICROSOFT,
            K=inputs,
            N=outputs,
            bits=BITS,
            block_size=BLOCK,
        )
    ]
    if bias:
        add = onnx.helper.make_node(
            "Add", [product, bias], [output], name=f"{name}.bias"
        )
        nodes.append(add)
    return nodes


def _zeros(zero: Array) -> Array:
    """Zero points as MatMulNBits stores them: packed integers, or floats."""
    if zero.dtype != numpy.uint8:
        return numpy.ascontiguousarray(zero.reshape(-1), "float32")
    even = numpy.pad(zero, ((0, 0), (0, zero.shape[1] % 2)))
    return _pack(even).reshape(-1)


def _pack(values: Array) -> Array:
    """Two numbers per byte, the first in the lower half."""
    packed: Array = (values[:, 0::2] | (values[:, 1::2] << 4)).astype("uint8")
    return packed


def _unpack(packed: Array) -> Array:
    halves = numpy.stack((packed & 15, packed >> 4), axis=-1)
    values: Array = halves.reshape(packed.shape[0], -1)
    return values
