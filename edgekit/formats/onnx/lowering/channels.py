"""Widen the int8 convolutions of a Q/DQ graph that have few input channels."""

import numpy
import onnx

from edgekit.arrays import Array
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.lowering.pads import quantizing_pair

#: Input channels become a multiple of this: for all other numbers ONNX Runtime's int8
#: convolutions take a path that is three times as slow.
FAST_CHANNELS = 4


def widen_channels(graph: onnx.GraphProto) -> int:
    """Append channels that are zero to convolutions with few channels.

    The integers are padded with their zero point, the weights with zeros, so the sums are the
    same. Changes the graph in place; returns how many convolutions were widened.
    """
    constants = onnx_graph.constants(graph)
    producers = onnx_graph.producers(graph)
    widened = 0
    for conv in list(graph.node):
        if (
            conv.op_type != "Conv"
            or onnx_graph.attributes(conv).get("group", 1) != 1
        ):
            continue
        pair = quantizing_pair(producers, conv.input[0])
        weight = producers.get(conv.input[1])
        if pair is None or weight is None or not _is_stored(weight, constants):
            continue
        dequantize = pair[1]
        stored = constants[weight.input[0]]
        missing = -stored.shape[1] % FAST_CHANNELS
        per_tensor = constants[weight.input[1]].size == 1
        axis = onnx_graph.attributes(weight).get("axis", 1)
        scale_fits = (
            per_tensor or axis == 0
        )  # no scale is missing for the new channels
        if missing and scale_fits and len(dequantize.input) > 2:
            _pad_input(graph, conv, dequantize, stored.ndim, missing)
            _pad_weights(graph, conv, weight, stored, missing)
            widened += 1
    return widened


def _is_stored(weight: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    """Whether integers and scales are constants."""
    if weight.op_type != "DequantizeLinear":
        return False
    return weight.input[0] in constants and weight.input[1] in constants


def _pad_weights(
    graph: onnx.GraphProto,
    conv: onnx.NodeProto,
    weight: onnx.NodeProto,
    stored: Array,
    missing: int,
) -> None:
    """Let the convolution read wider weights, dequantized in front of it."""
    wide = numpy.pad(
        stored, [(0, 0), (0, missing), *[(0, 0)] * (stored.ndim - 2)]
    )
    stored_name = onnx_graph.add_constant(
        graph, f"{weight.input[0]}_wide", wide
    )
    dequantize = onnx.helper.make_node(
        "DequantizeLinear",
        [stored_name, *weight.input[1:]],
        [f"{weight.output[0]}_wide"],
        name=f"{weight.name}_wide" if weight.name else "",
        axis=onnx_graph.attributes(weight).get("axis", 1),
    )
    graph.node.insert(list(graph.node).index(conv), dequantize)
    conv.input[1] = dequantize.output[0]


def _pad_input(
    graph: onnx.GraphProto,
    conv: onnx.NodeProto,
    dequantize: onnx.NodeProto,
    rank: int,
    missing: int,
) -> None:
    """Let the convolution read wider data: a Pad of the integers with its own
    DequantizeLinear, shared by all convolutions that read the tensor.
    """
    name = f"{dequantize.input[0]}_wide"
    if name not in onnx_graph.producers(graph):
        amounts = numpy.zeros(2 * rank, numpy.int64)
        amounts[rank + 1] = missing
        pads = onnx_graph.add_constant(graph, f"pads_{rank}_{missing}", amounts)
        pad = onnx.helper.make_node(
            "Pad",
            [dequantize.input[0], pads, dequantize.input[2]],
            [name],
            name=f"{conv.name}/Pad",
        )
        wide = onnx.helper.make_node(
            "DequantizeLinear", [name, *dequantize.input[1:]], [f"{name}_float"]
        )
        place = list(graph.node).index(dequantize) + 1
        graph.node.insert(place, pad)
        graph.node.insert(place + 1, wide)
    conv.input[0] = f"{name}_float"
