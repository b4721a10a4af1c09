"""Weight-only quantization of an OpenVINO graph: integer constants, dequantized to float.

OpenVINO keeps such constants compressed where its kernels read them (linear layers, lookup
tables) and dequantizes the others once, when the file is compiled (convolutions, recurrent
layers). The file is smaller in both cases; the arithmetic is float.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy

from edgekit.formats.onnx.blockwise import BLOCK, in_blocks
from edgekit.formats.openvino.library import openvino, ops

#: Where the weights of each operator are among its inputs.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Convolution": (1,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolution": (1,),
    "GroupConvolutionBackpropData": (1,),
    "MatMul": (1,),
    "Gather": (0,),
    "LSTMSequence": (4, 5),
    "GRUSequence": (3, 4),
    "RNNSequence": (3, 4),
}
#: The axes with a scale for each index: the output channels, directions and gates, or the
#: rows of a table. A MatMul has its outputs first only if its weights are transposed.
_CHANNELS: Mapping[str, tuple[int, ...]] = {
    "Convolution": (0,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolution": (0, 1),
    "GroupConvolutionBackpropData": (0, 2),
    "Gather": (0,),
    "LSTMSequence": (0, 1),
    "GRUSequence": (0, 1),
    "RNNSequence": (0, 1),
}
#: Of fewer weights the description of the dequantization takes more bytes than they save.
SMALLEST = 1024
#: The largest weight becomes this integer.
_TOP = 127


@dataclasses.dataclass(frozen=True)
class Weights:
    """One constant that holds the weights of an operator."""

    node: Any
    port: int
    constant: Any

    @property
    def kind(self) -> str:
        """The operator's type."""
        return str(self.node.get_type_name())

    @property
    def name(self) -> str:
        """The operator's name, which begins with the path of its PyTorch module."""
        return str(self.node.get_friendly_name())

    @property
    def outputs_first(self) -> bool:
        """Whether a MatMul's weights are [outputs, inputs]."""
        return bool(self.node.get_attributes()["transpose_b"])


def quantize(model: Any, bits: int, keep: Sequence[str]) -> dict[str, Any]:
    """Quantize every weight of ``model`` in place; the number of constants by their bits.

    Linear layers have a scale for each 32 inputs of an output: of the nearest neighbors of a
    sentence encoder, int8 changed 1.3 % this way and 3.0 % per-channel. All other weights are
    int8, symmetric and per-channel. ``keep`` names modules (by path) that stay float.
    """
    done = {f"int{size}": 0 for size in sorted({bits, 8})}
    left = []
    for weights in list(_weights(model)):
        if _is_kept(weights.name, keep):
            left.append(weights.name)
        elif _fits_blocks(weights):
            _quantize_blocks(weights, bits)
            done[f"int{bits}"] += 1
        else:
            _quantize_channels(weights)
            done["int8"] += 1
    return {**done, "kept_float": left}


def _weights(model: Any) -> Iterator[Weights]:
    """The float constants that are worth it, each once."""
    seen = set()
    for node in model.get_ordered_ops():
        for port in _WEIGHTS.get(node.get_type_name(), ()):
            constant = node.input_value(port).get_node()
            is_float = constant.get_type_name() == "Constant"
            is_float = (
                is_float and constant.get_element_type() == openvino.Type.f32
            )
            name = constant.get_friendly_name()
            if is_float and name not in seen and constant.data.size >= SMALLEST:
                seen.add(name)
                yield Weights(node, port, constant)


def _is_kept(name: str, keep: Sequence[str]) -> bool:
    return any(name.startswith((f"{module}/", f"{module}.")) for module in keep)


def _fits_blocks(weights: Weights) -> bool:
    if weights.kind != "MatMul" or weights.constant.data.ndim != 2:
        return False
    inputs = weights.constant.data.shape[1 if weights.outputs_first else 0]
    return bool(inputs % BLOCK == 0) and len(_readers(weights.constant)) == 1


def _quantize_channels(weights: Weights) -> None:
    """int8 with zero point 0 and a scale for each channel."""
    values = weights.constant.data
    if weights.kind == "MatMul":
        channels: tuple[int, ...] = (
            values.ndim - 2 if weights.outputs_first else values.ndim - 1,
        )
    else:
        channels = _CHANNELS[weights.kind]
    others = tuple(axis for axis in range(values.ndim) if axis not in channels)
    largest = numpy.abs(values).max(axis=others, keepdims=True)
    scales = numpy.where(largest > 0, largest, 1).astype(numpy.float32) / _TOP
    levels = numpy.clip(numpy.rint(values / scales), -_TOP, _TOP).astype(
        numpy.int8
    )
    integers = ops.convert(_constant(levels), "f32")
    dequantized = ops.multiply(integers, _constant(scales))
    for reader in _readers(weights.constant):
        reader.replace_source_output(dequantized.output(0))


def _quantize_blocks(weights: Weights, bits: int) -> None:
    """A scale for each 32 inputs of an output: int8 with zero point 0, uint4 with its own.

    The pattern (integers, Convert, Subtract, Multiply, Reshape) is the one that OpenVINO's
    CPU plugin recognizes as compressed weights.
    """
    values = weights.constant.data
    columns = values.T if weights.outputs_first else values
    levels, scales, zeros = in_blocks(columns, bits)
    if bits == 8:
        signed = (levels.astype(numpy.int16) - zeros[:, :, None]).astype(
            numpy.int8
        )
        centered = ops.convert(_constant(signed), "f16")
    else:
        integers = ops.convert(_uint4(levels), "f16")
        centered = ops.subtract(
            integers, ops.convert(_uint4(zeros[:, :, None]), "f16")
        )
    scaled = ops.multiply(
        centered, _constant(scales[:, :, None].astype(numpy.float16))
    )
    shape = _constant(numpy.array(columns.shape[::-1], numpy.int64))
    dequantized = ops.convert(
        ops.reshape(scaled, shape, special_zero=False), "f32"
    )
    attributes = weights.node.get_attributes()
    product = ops.matmul(
        weights.node.input_value(0),
        dequantized,
        attributes["transpose_a"],
        transpose_b=True,
    )
    product.set_friendly_name(weights.name)
    names = weights.node.output(0).get_names()
    for reader in _readers(weights.node):
        reader.replace_source_output(product.output(0))
    product.output(0).set_names(names)


def _readers(node: Any) -> list[Any]:
    return list(node.output(0).get_target_inputs())


def _constant(values: Any) -> Any:
    """A constant with a copy of the numbers.

    OpenVINO 2026.4 stores a float16 array that is not contiguous as int16, without an error.
    """
    return ops.constant(numpy.ascontiguousarray(values))


def _uint4(levels: Any) -> Any:
    """Numbers from 0 to 15, two in a byte.

    Let OpenVINO pack them: a Constant that is built from a packed Tensor refers to the
    Python array's memory and does not keep it alive (2026.4).
    """
    return ops.constant(numpy.ascontiguousarray(levels), dtype=openvino.Type.u4)
