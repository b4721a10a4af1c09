"""Fold the Pad nodes of a Q/DQ graph into the convolutions that follow them."""

import onnx

from edgekit.arrays import Array
from edgekit.formats.onnx import graph as onnx_graph


def fold_pads(graph: onnx.GraphProto) -> int:
    """Make a Pad with zeros in front of a convolution the convolution's own padding.

    Exact, and one node and one Q/DQ pair less. Changes the graph in place; returns how many.
    """
    constants = onnx_graph.constants(graph)
    producers = onnx_graph.producers(graph)
    folded = 0
    for conv in graph.node:
        if conv.op_type != "Conv":
            continue
        pad = _pad_before(conv, producers)
        amounts = _zero_padding(pad, constants) if pad is not None else None
        if (
            pad is not None
            and amounts is not None
            and _add_padding(conv, amounts)
        ):
            conv.input[0] = pad.input[0]
            folded += 1
    return folded


def quantizing_pair(
    producers: dict[str, onnx.NodeProto], name: str
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Return the QuantizeLinear and the DequantizeLinear that produce a tensor, if these do."""
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = producers.get(dequantize.input[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    return quantize, dequantize


def _pad_before(
    conv: onnx.NodeProto, producers: dict[str, onnx.NodeProto]
) -> onnx.NodeProto | None:
    """Return the Pad whose output, quantized once more as its input was, is the data."""
    pair = quantizing_pair(producers, conv.input[0])
    if pair is None:
        return None
    quantize, dequantize = pair
    pad = producers.get(quantize.input[0])
    if pad is None or pad.op_type != "Pad":
        return None
    source = producers.get(pad.input[0])
    if source is None or source.op_type != "DequantizeLinear":
        return None
    same_scale = list(source.input[1:]) == list(dequantize.input[1:])
    return pad if same_scale else None


def _zero_padding(
    pad: onnx.NodeProto, constants: dict[str, Array]
) -> list[int] | None:
    """Return begin and end of every axis if the node pads positions (not samples or channels)
    with zeros, else None.
    """
    optional = [*pad.input[2:], "", ""]
    value, axes = optional[:2]
    mode = onnx_graph.attributes(pad).get("mode", b"constant")
    if mode != b"constant" or axes or pad.input[1] not in constants:
        return None
    if value and (value not in constants or float(constants[value]) != 0):
        return None
    amounts = [int(amount) for amount in constants[pad.input[1]]]
    rank = len(amounts) // 2
    samples_and_channels = amounts[:2] + amounts[rank : rank + 2]
    if min(amounts) < 0 or any(samples_and_channels):
        return None
    return amounts


def _add_padding(conv: onnx.NodeProto, amounts: list[int]) -> bool:
    """Add to a convolution's padding; False if its padding is computed from its input."""
    rank = len(amounts) // 2
    attributes = onnx_graph.attributes(conv)
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    extra = amounts[2:rank] + amounts[rank + 2 :]
    before = attributes.get("pads", [0] * len(extra))
    total = [old + new for old, new in zip(before, extra, strict=True)]
    for attribute in list(conv.attribute):
        if attribute.name == "pads":
            conv.attribute.remove(attribute)
    conv.attribute.append(onnx.helper.make_attribute("pads", total))
    return True
