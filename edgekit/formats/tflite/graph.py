"""A typed, read-only view of a TFLite file: its operators in order, their tensors, and their
multiply-accumulates.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from edgekit.errors import ModelError
from edgekit.formats.tflite import file as tflite_file

INTEGERS = ("int8", "uint8", "int16", "int4")
FLOATS = ("float32", "float16", "bfloat16", "float64")
#: Custom operators of compiled files: each runs a part of the graph on an accelerator.
ETHOS_U = "CUSTOM:ethos-u"
EDGE_TPU = "CUSTOM:edgetpu-custom-op"
#: Integer constants (axes, paddings, shapes) with at most this many values are read.
_MAX_VALUES = 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the main graph.

    ``bytes`` counts the values that are stored in the file; ``values`` are the values of a
    small integer constant.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int = 0
    values: tuple[int, ...] | None = None
    #: Whether all stored values are the zero point.
    is_zero: bool = False

    @property
    def stored(self) -> bool:
        """Whether its values are stored in the file."""
        return self.bytes > 0

    @property
    def size(self) -> int:
        """The number of elements; an unknown dim counts as 1."""
        return math.prod(max(dim, 1) for dim in self.shape)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator. An optional input that is left out is None."""

    index: int
    op: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any]

    @functools.cached_property
    def macs(self) -> int:
        """Multiply-accumulates for the shapes in the file.

        0 for operators that are neither convolutions nor matrix products.
        """
        return _MACS[self.op](self) if self.op in _MACS else 0

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return self.op in _MACS

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """The tensors that it reads and writes while the network runs."""
        tensors = (*self.inputs, *self.outputs)
        return tuple(
            tensor
            for tensor in tensors
            if tensor is not None and not tensor.stored
        )

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """The tensors that it reads from the file."""
        return tuple(
            tensor
            for tensor in self.inputs
            if tensor is not None and tensor.stored
        )

    @property
    def weights(self) -> Tensor | None:
        """The second factor of a convolution or matrix product, stored or not."""
        return (
            self.inputs[1] if self.multiplies and len(self.inputs) > 1 else None
        )

    def input(self, position: int) -> Tensor:
        """A required input. Raises ModelError if it is left out."""
        tensor = self.inputs[position]
        if tensor is None:
            raise ModelError(
                f"Operator {self.index} ({self.op}) has no input {position}.",
                fix="export the file again",
            )
        return tensor


@dataclasses.dataclass(frozen=True)
class Graph:
    """The main graph of a TFLite file."""

    path: pathlib.Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    #: How many more graphs the file has (other signatures, branches).
    extra_graphs: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all operators."""
        return sum(operator.macs for operator in self.operators)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights and constants, each counted once."""
        sizes = {
            tensor.index: tensor.bytes
            for operator in self.operators
            for tensor in operator.constants
        }
        return sum(sizes.values())


def read(path: pathlib.Path) -> Graph:
    """Read the main graph of a file, written by any tool.

    Raises ModelError if the file is missing, truncated or not a TFLite file.
    """
    model = tflite_file.read(path)
    with tflite_file.parse_errors(path):
        return _graph(path, model)


def _graph(path: pathlib.Path, model: Any) -> Graph:
    graph = model.subgraphs[0]
    tensors = [
        _tensor(model, index, tensor)
        for index, tensor in enumerate(graph.tensors)
    ]
    operators = [
        _operator(model, index, operator, tensors)
        for index, operator in enumerate(graph.operators)
    ]
    return Graph(
        path=path,
        inputs=tuple(tensors[index] for index in graph.inputs),
        outputs=tuple(tensors[index] for index in graph.outputs),
        operators=tuple(operators),
        extra_graphs=len(model.subgraphs) - 1,
    )


def _tensor(model: Any, index: int, tensor: Any) -> Tensor:
    data = model.buffers[tensor.buffer].data
    size = 0 if data is None else len(data)
    dtype = tflite_file.DTYPE_NAMES.get(tensor.type, f"type {tensor.type}")
    shape: tuple[int, ...] = ()
    if tensor.shape is not None:
        shape = tuple(int(dim) for dim in tensor.shape)
    values = None
    if dtype in ("int32", "int64") and 0 < size <= 8 * _MAX_VALUES:
        values = tuple(
            int(value) for value in numpy.frombuffer(bytes(data), dtype=dtype)
        )
    is_zero = size > 0 and dtype in ("int8", "uint8") and _is_zero(tensor, data)
    return Tensor(
        index=index,
        name=tflite_file.tensor_name(tensor),
        dtype=dtype,
        shape=shape,
        bytes=size,
        values=values,
        is_zero=is_zero,
    )


def _is_zero(tensor: Any, data: Any) -> bool:
    zero_points = None
    if tensor.quantization is not None:
        zero_points = tensor.quantization.zeroPoint
    zero = 0
    if zero_points is not None and len(zero_points) == 1:
        zero = int(zero_points[0])
    return bool((numpy.frombuffer(bytes(data), "uint8") == zero % 256).all())


def _operator(
    model: Any, index: int, operator: Any, tensors: list[Tensor]
) -> Operator:
    code = model.operatorCodes[operator.opcodeIndex]
    fields = vars(operator.builtinOptions or object)
    inputs = [
        None if position < 0 else tensors[position]
        for position in operator.inputs
        if position < len(tensors)
    ]
    return Operator(
        index=index,
        op=tflite_file.operator_name(model, operator),
        version=int(code.version),
        inputs=tuple(inputs),
        outputs=tuple(tensors[position] for position in operator.outputs),
        options={
            name: value
            for name, value in fields.items()
            if isinstance(value, int | float | bool)
        },
    )


def _convolution_macs(operator: Operator) -> int:
    """Weights are [out, kh, kw, in / groups] (3-D: one more axis): one multiply-accumulate
    for each output element and each weight of its filter.
    """
    return operator.outputs[0].size * math.prod(operator.input(1).shape[1:])


def _depthwise_macs(operator: Operator) -> int:
    """Weights are [1, kh, kw, out]: kh * kw for each output element."""
    return operator.outputs[0].size * math.prod(operator.input(1).shape[1:3])


def _convolution_3d_macs(operator: Operator) -> int:
    """Weights are [kd, kh, kw, in / groups, out]."""
    return operator.outputs[0].size * math.prod(operator.input(1).shape[:4])


def _transposed_macs(operator: Operator) -> int:
    """Inputs are the output's shape, weights [out, kh, kw, in] and the data: out * kh * kw
    for each element of the data.
    """
    return operator.input(2).size * math.prod(operator.input(1).shape[:3])


def _fully_connected_macs(operator: Operator) -> int:
    """Weights are [out, in]: ``in`` for each output element."""
    return operator.outputs[0].size * operator.input(1).shape[-1]


def _batch_matmul_macs(operator: Operator) -> int:
    """The length of the summed axis of the first factor for each output element."""
    left = operator.input(0).shape
    summed = left[-2] if operator.options.get("adjX") else left[-1]
    return operator.outputs[0].size * summed


_MACS: Mapping[str, Callable[[Operator], int]] = {
    "CONV_2D": _convolution_macs,
    "DEPTHWISE_CONV_2D": _depthwise_macs,
    "CONV_3D": _convolution_3d_macs,
    "TRANSPOSE_CONV": _transposed_macs,
    "FULLY_CONNECTED": _fully_connected_macs,
    "BATCH_MATMUL": _batch_matmul_macs,
}
