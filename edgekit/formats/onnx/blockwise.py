"""Weight-only 8 and 4 bits for ONNX Runtime: MatMulNBits, weights in blocks, each with a
scale of its own.

The kernel sums integers: it rounds each block of an activation row to 8 bits (accuracy
level 4).
"""

from collections.abc import Iterable

import numpy
import onnx

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.graph import Array
from edgekit.formats.onnx.linear import Left, Linear, linears, round_table, tables

#: Inputs that share one scale.
BLOCK = 32
_INTEGER_SUMS = 4


def quantize(model: onnx.ModelProto, bits: int, keep: Iterable[str]) -> dict[str, object]:
    """Rewrite the model in place; tells what was quantized and what was not."""
    edit = Edit(model)
    keep = tuple(keep)
    layers, left = linears(edit, keep)
    for layer in layers:
        _blocks(edit, layer, bits)
    lookups = tables(edit, keep)
    for node in lookups:
        round_table(edit, node)
    left += [
        Left(node.op_type, onnx_graph.module(node), "ONNX Runtime has no weight-only LSTM")
        for node in edit.graph.node
        if node.op_type == "LSTM"
    ]
    edit.finish()
    return {
        "linear_bits": bits,
        "linear": len(layers),
        "int8_tables": len(lookups),
        "left_float": [item.told() for item in left],
    }


def in_blocks(weight: Array, bits: int, block: int = BLOCK) -> tuple[Array, Array, Array]:
    """Levels [outputs, blocks, block], scales and zero points [outputs, blocks]: ``weight =
    (level - zero) * scale``.

    8 bits are symmetric. 4 bits use all 16 levels between the lowest and the highest weight
    of a block, zero among them.
    """
    inputs, outputs = weight.shape
    blocks = -(-inputs // block)
    padded = numpy.zeros((outputs, blocks * block), numpy.float32)
    padded[:, :inputs] = weight.T
    values = padded.reshape(outputs, blocks, block)
    top = 2**bits - 1
    if bits == 8:
        scales = numpy.abs(values).max(axis=2) / 127
        zeros = numpy.full(scales.shape, 128, numpy.uint8)
    else:
        low, high = (
            numpy.minimum(values.min(axis=2), 0),
            numpy.maximum(values.max(axis=2), 0),
        )
        scales = (high - low) / top
        zeros = numpy.clip(numpy.rint(-low / numpy.maximum(scales, 1e-12)), 0, top).astype(
            numpy.uint8
        )
    scales = numpy.maximum(scales, 1e-12).astype(numpy.float32)
    levels = numpy.clip(
        numpy.rint(values / scales[:, :, None]) + zeros[:, :, None], 0, top
    ).astype(numpy.uint8)
    return levels, scales, zeros


def _blocks(edit: Edit, layer: Linear, bits: int) -> None:
    levels, scales, zeros = in_blocks(layer.weight, bits)
    inputs = [
        layer.input,
        edit.constant(_packed(levels, bits)),
        edit.constant(scales.reshape(-1)),
    ]
    inputs.append(edit.constant(_packed(zeros, bits).reshape(-1)) if bits != 8 else "")
    if layer.bias is not None:
        inputs += ["", edit.constant(numpy.ascontiguousarray(layer.bias, numpy.float32))]
    while not inputs[-1]:
        inputs.pop()
    size, outputs = layer.weight.shape
    edit.add(
        "MatMulNBits",
        inputs,
        layer.module,
        layer.output,
        K=size,
        N=outputs,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=_INTEGER_SUMS,
    )
    for node in layer.nodes:
        edit.drop(node)


def _packed(levels: Array, bits: int) -> Array:
    """Numbers of the last axis side by side in bytes, the first in the lowest bits."""
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = numpy.concatenate(
            [levels, numpy.zeros((*levels.shape[:-1], 1), numpy.uint8)], axis=-1
        )
    packed: Array = levels[..., ::2] | (levels[..., 1::2] << 4)
    return packed
