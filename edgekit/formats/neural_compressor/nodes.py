"""Grids of 4-bit weights into MatMulNBits nodes of a float ONNX graph.

Only a product with exactly a grid's weights is replaced.
"""

from collections.abc import Iterable

import numpy
import onnx
import onnx.helper

from edgekit.errors import StepError
from edgekit.formats.neural_compressor.blocks import BITS, BLOCK, Array, Grid
from edgekit.formats.onnx import graph as onnx_graph

DOMAIN = "com.microsoft"


def write_grids(model: onnx.ModelProto, grids: Iterable[Grid]) -> int:
    """Replace, in place; the number of nodes written.

    Raises StepError where a grid's weights are nowhere in the graph.
    """
    graph = model.graph
    by_weights = {grid.weights().tobytes(): grid for grid in grids}
    found: set[bytes] = set()
    nodes: list[onnx.NodeProto] = []
    constants, makers = onnx_graph.constants(graph), onnx_graph.producers(graph)
    for node in list(graph.node):
        weights = _weights(node, constants, makers)
        key = b"" if weights is None else numpy.ascontiguousarray(weights).tobytes()
        if key not in by_weights or by_weights[key].stored.shape != getattr(
            weights, "shape", None
        ):
            nodes.append(node)
            continue
        found.add(key)
        nodes.extend(_written(graph, node, by_weights[key]))
    if len(found) < len(by_weights):
        raise StepError(
            f"{len(by_weights) - len(found)} of {len(by_weights)} quantized layers are not to be found in the ONNX graph.",
            fix="take edgekit's own w4-weight",
        )
    del graph.node[:]
    graph.node.extend(nodes)
    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    onnx_graph.sweep(graph)
    return sum(node.op_type == "MatMulNBits" for node in nodes)


def _weights(
    node: onnx.NodeProto, constants: dict[str, Array], makers: dict[str, onnx.NodeProto]
) -> Array | None:
    """The constant weights [outputs, inputs] of a matrix product, or None."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    given = onnx_graph.attributes(node)
    if (
        given.get("transA", 0)
        or given.get("alpha", 1.0) != 1.0
        or given.get("beta", 1.0) != 1.0
    ):
        return None
    name, turned = node.input[1], not given.get("transB", 0)
    maker = makers.get(name)
    if maker is not None and maker.op_type == "Transpose" and maker.input[0] in constants:
        name, turned = (
            maker.input[0],
            not turned,
        )  # the exporter leaves a large weight's transposition in the graph
    if (
        name not in constants
        or constants[name].ndim != 2
        or constants[name].dtype != numpy.float32
    ):
        return None
    return constants[name].T if turned else constants[name]


def _written(
    graph: onnx.GraphProto, node: onnx.NodeProto, grid: Grid
) -> list[onnx.NodeProto]:
    """MatMulNBits, and an Add where the product had a bias."""
    stem, output = f"{node.output[0]}_4bit", node.output[0]
    outputs, inputs = grid.stored.shape
    blocks = grid.scale.shape[1]
    padded = numpy.zeros((outputs, blocks * BLOCK), "uint8")
    padded[:, :inputs] = grid.stored
    names = [
        node.input[0],
        onnx_graph.add_constant(
            graph,
            f"{stem}_weight",
            _packed(padded).reshape(outputs, blocks, BLOCK * BITS // 8),
        ),
        onnx_graph.add_constant(
            graph,
            f"{stem}_scale",
            numpy.ascontiguousarray(grid.scale.reshape(-1), "float32"),
        ),
        onnx_graph.add_constant(graph, f"{stem}_zero", _zeros(grid.zero)),
    ]
    bias = node.input[2] if len(node.input) > 2 else ""
    product = f"{stem}_product" if bias else output
    attributes = {"K": inputs, "N": outputs, "bits": BITS, "block_size": BLOCK}
    name = f"{node.name.rpartition('/')[0]}/MatMulNBits"
    made = [
        onnx.helper.make_node(
            "MatMulNBits", names, [product], name=name, domain=DOMAIN, **attributes
        )
    ]
    if bias:
        made.append(
            onnx.helper.make_node("Add", [product, bias], [output], name=f"{name}.bias")
        )
    return made


def _zeros(zero: Array) -> Array:
    if zero.dtype != numpy.uint8:
        return numpy.ascontiguousarray(zero.reshape(-1), "float32")
    even = numpy.pad(zero, ((0, 0), (0, zero.shape[1] % 2)))
    return _packed(even).reshape(-1)


def _packed(values: Array) -> Array:
    """Two numbers a byte, the first in the low half."""
    packed: Array = (values[:, 0::2] | (values[:, 1::2] << 4)).astype("uint8")
    return packed


def read_grid(graph: onnx.GraphProto, node: onnx.NodeProto) -> Grid:
    """The grid that a MatMulNBits node of ``write_grids`` holds."""
    constants, given = onnx_graph.constants(graph), onnx_graph.attributes(node)
    weight, scale, zero = (constants[name] for name in node.input[1:4])
    outputs, blocks = given["N"], weight.shape[1]
    if zero.dtype == numpy.uint8:
        zero = _unpacked(zero.reshape(outputs, -1))[:, :blocks]
    return Grid(
        _unpacked(weight.reshape(outputs, -1))[:, : given["K"]],
        scale.reshape(outputs, blocks),
        zero.reshape(outputs, blocks),
    )


def _unpacked(packed: Array) -> Array:
    values: Array = numpy.stack((packed & 15, packed >> 4), axis=-1).reshape(
        packed.shape[0], -1
    )
    return values
