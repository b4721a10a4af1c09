"""Weight-only 8 and 4 bits for ONNX Runtime: MatMulNBits, weights in blocks, each with its
own scale.

The kernel sums integers: it rounds each block of an activation row to 8 bits (accuracy
level 4).
"""

from collections.abc import Iterable

import numpy
import onnx

from edgekit.arrays import Array
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.linear import (
    FloatOperator,
    Linear,
    find_linears,
    find_tables,
    quantize_table,
)
from edgekit.formats.onnx.macs import INTEGER_LEVEL

#: Inputs that share one scale.
BLOCK = 32
#: The smallest scale: a block of zeros must not divide by zero.
_TINY = 1e-12


def quantize(
    model: onnx.ModelProto, bits: int, keep: Iterable[str]
) -> dict[str, object]:
    """Quantize the weights in place to 4 or 8 ``bits``; report what was quantized and what
    was not.
    """
    edit = Edit(model)
    keep = tuple(keep)
    layers, left = find_linears(edit, keep)
    for layer in layers:
        _write_blocks(edit, layer, bits)
    tables = find_tables(edit, keep)
    for node in tables:
        quantize_table(edit, node)
    for node in edit.graph.node:
        if node.op_type == "LSTM":
            module = onnx_graph.module(node)
            reason = "ONNX Runtime has no weight-only LSTM"
            left.append(FloatOperator(node.op_type, module, reason))
    edit.finish()
    return {
        "linear_bits": bits,
        "linear": len(layers),
        "int8_tables": len(tables),
        "left_float": [operator.as_dict() for operator in left],
    }


def in_blocks(
    weight: Array, bits: int, block: int = BLOCK
) -> tuple[Array, Array, Array]:
    """Quantize float32 weights [inputs, outputs] in blocks of inputs.

    Returns levels [outputs, blocks, block] (uint8), scales (float32) and zero points (uint8)
    [outputs, blocks]: ``weight = (level - zero) * scale``. 8 bits are symmetric. 4 bits use
    all 16 levels between the lowest and the highest weight of a block, zero among them.
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
        low = numpy.minimum(values.min(axis=2), 0)
        high = numpy.maximum(values.max(axis=2), 0)
        scales = (high - low) / top
        zeros = numpy.rint(-low / numpy.maximum(scales, _TINY))
        zeros = numpy.clip(zeros, 0, top).astype(numpy.uint8)
    scales = numpy.maximum(scales, _TINY).astype(numpy.float32)
    levels = numpy.rint(values / scales[:, :, None]) + zeros[:, :, None]
    return numpy.clip(levels, 0, top).astype(numpy.uint8), scales, zeros


def _write_blocks(edit: Edit, layer: Linear, bits: int) -> None:
    """Replace a linear layer by a MatMulNBits."""
    levels, scales, zeros = in_blocks(layer.weight, bits)
    inputs = [
        layer.input,
        edit.constant(_packed(levels, bits)),
        edit.constant(scales.reshape(-1)),
    ]
    if bits != 8:  # the default zero point of 8 bits is 128
        inputs.append(edit.constant(_packed(zeros, bits).reshape(-1)))
    if layer.bias is not None:
        bias = edit.constant(numpy.ascontiguousarray(layer.bias, numpy.float32))
        inputs += [""] * (5 - len(inputs)) + [bias]
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
        accuracy_level=INTEGER_LEVEL,
    )
    for node in layer.nodes:
        edit.drop(node)


def _packed(levels: Array, bits: int) -> Array:
    """Two 4-bit numbers of the last axis per byte, the first in the lower half; 8-bit numbers
    unchanged.
    """
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        padding = numpy.zeros((*levels.shape[:-1], 1), numpy.uint8)
        levels = numpy.concatenate([levels, padding], axis=-1)
    packed: Array = levels[..., ::2] | (levels[..., 1::2] << 4)
    return packed
