"""Turn int8 activations of a Q/DQ graph into uint8.

ONNX Runtime's x86 kernels require unsigned activations: with int8 activations most
convolutions do not fuse, and the file is slower than float. int8 with zero point z and uint8
with zero point z + 128 represent the same real numbers. In a symmetric graph (z = 0) a tensor
that is never negative gets zero point 0 and the same scale, so that its ReLU needs no node;
only values that int8 would have clipped can change.
"""

import dataclasses

import numpy
import onnx

from edgekit.arrays import Array
from edgekit.formats.onnx import graph as onnx_graph

#: Operators whose output is not negative if their inputs are not.
_KEEPS_SIGN = {
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceMax",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Concat",
    "Slice",
    "Add",
    "Mul",
    "QuantizeLinear",
    "DequantizeLinear",
    "Gather",
    "Expand",
}
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "Softmax", "HardSigmoid"}
#: Operators that read several tensors of data; of all others only the first input is data.
_ELEMENTWISE = {"Add", "Mul", "Concat"}
#: int8 with zero point z and uint8 with zero point z + 128 are the same numbers.
_OFFSET = 128


@dataclasses.dataclass(frozen=True)
class _Clip:
    """A Clip from 0 to ``limit`` with one reader."""

    node: onnx.NodeProto
    limit: float


def make_unsigned(graph: onnx.GraphProto) -> int:
    """Turn activations from int8 to uint8 in place; return how many.

    A tensor that is also read by something other than DequantizeLinear is left unchanged.
    """
    constants = onnx_graph.constants(graph)
    readers = onnx_graph.consumers(graph)
    outputs = {value.name for value in graph.output}
    positive = never_negative(graph)
    clips = _find_clips(graph)
    changed = 0
    for node in signed_quantizers(graph):
        users = readers.get(node.output[0], [])
        only_dequantized = all(
            user.op_type == "DequantizeLinear" for user in users
        )
        if node.output[0] in outputs or not only_dequantized:
            continue
        source = node.input[0]
        scale = constants[node.input[1]].astype(numpy.float32).item()
        zero = int(constants[node.input[2]].item())
        unsigned_zero = (
            0 if zero == 0 and source in positive else zero + _OFFSET
        )
        if unsigned_zero == 0 and source in clips:
            _clip_after_quantizing(graph, node, clips[source], scale)
        zero_name = _add_uint8(graph, unsigned_zero)
        node.input[2] = zero_name
        for user in users:
            user.input[2] = zero_name
        changed += 1
    return changed + _make_constants_unsigned(graph)


def signed_quantizers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the QuantizeLinear nodes with an int8 zero point and a per-tensor scale."""
    constants = onnx_graph.constants(graph)
    return [
        node
        for node in graph.node
        if node.op_type == "QuantizeLinear"
        and len(node.input) > 2
        and node.input[2] in constants
        and _is_int8_scalar(constants[node.input[2]])
    ]


def never_negative(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that cannot hold a negative number, whatever the input."""
    constants = onnx_graph.constants(graph)
    names: set[str] = set()
    for node in graph.node:
        data = node.input if node.op_type in _ELEMENTWISE else node.input[:1]
        keeps = node.op_type in _KEEPS_SIGN and names.issuperset(data)
        if (
            node.op_type in _NEVER_NEGATIVE
            or keeps
            or _clips_at_zero(node, constants)
        ):
            names.update(node.output)
    return names


def _is_int8_scalar(zero: Array) -> bool:
    return zero.dtype == numpy.int8 and zero.size == 1


def _clips_at_zero(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    """Whether the node is a Clip whose lower limit is not negative."""
    if (
        node.op_type != "Clip"
        or len(node.input) < 2
        or node.input[1] not in constants
    ):
        return False
    return float(constants[node.input[1]]) >= 0


def _find_clips(graph: onnx.GraphProto) -> dict[str, _Clip]:
    """Return every Clip from 0 to a limit whose output is read once, by that output."""
    constants = onnx_graph.constants(graph)
    readers = onnx_graph.consumers(graph)
    clips = {}
    for node in graph.node:
        if node.op_type != "Clip" or len(node.input) != 3:
            continue
        _, low, high = node.input
        if (
            low not in constants
            or high not in constants
            or float(constants[low]) != 0
        ):
            continue
        if len(readers.get(node.output[0], [])) == 1:
            clips[node.output[0]] = _Clip(node, float(constants[high]))
    return clips


def _clip_after_quantizing(
    graph: onnx.GraphProto, quantizer: onnx.NodeProto, clip: _Clip, scale: float
) -> None:
    """Clip the integers instead of the floats, to the same number, if uint8 with int8's scale
    reaches higher than the limit.

    A float Clip between a convolution and its QuantizeLinear keeps the convolution in float.
    Rounding is monotonic, so the order does not matter.
    """
    if clip.limit >= 255 * scale:
        return  # uint8 itself clips at the limit
    level = int(numpy.rint(numpy.float32(clip.limit) / numpy.float32(scale)))
    highest = min(127, level)
    quantizer.input[0] = clip.node.input[0]
    unclipped = f"{quantizer.output[0]}_unclipped"
    bounds = [_add_uint8(graph, 0), _add_uint8(graph, highest)]
    inner = onnx.helper.make_node(
        "Clip", [unclipped, *bounds], [quantizer.output[0]], name=clip.node.name
    )
    quantizer.output[0] = unclipped
    place = next(
        index
        for index, node in enumerate(graph.node)
        if list(node.output) == [unclipped]
    )
    graph.node.insert(place + 1, inner)


def _make_constants_unsigned(graph: onnx.GraphProto) -> int:
    """Turn int8 constants with a per-tensor scale to uint8: the operands of an element-wise
    operator must be of one type. Returns how many.
    """
    constants = onnx_graph.constants(graph)
    readers = onnx_graph.consumers(graph)
    changed = 0
    for node in list(graph.node):
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        users = readers.get(node.output[0], [])
        if node.input[0] not in constants or any(
            user.op_type not in _ELEMENTWISE for user in users
        ):
            continue
        stored = constants[node.input[0]]
        zero = constants[node.input[2]]
        if stored.dtype != numpy.int8 or zero.size != 1:
            continue
        shifted = (stored.astype(numpy.int16) + _OFFSET).astype(numpy.uint8)
        unsigned_zero = int(zero.item()) + _OFFSET
        node.input[0] = onnx_graph.add_constant(
            graph, f"{node.input[0]}_u8", shifted
        )
        node.input[2] = _add_uint8(graph, unsigned_zero)
        changed += 1
    return changed


def _add_uint8(graph: onnx.GraphProto, value: int) -> str:
    """Store one uint8, once, and return its name."""
    return onnx_graph.add_constant(
        graph, f"u8_{value}", numpy.array(value, numpy.uint8)
    )
