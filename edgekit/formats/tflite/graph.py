"""Read a TFLite file as plain values: its operators in order, what they read and write, and
their multiply-accumulates.
"""

import dataclasses
import functools
import math
import pathlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit.errors import ModelError

INTEGERS = ("int8", "uint8", "int16", "int4")
FLOATS = ("float32", "float16", "bfloat16", "float64")
#: Constants with at most this many integers (axes, paddings, shapes) are kept as numbers.
_SMALL = 64
_MAGIC = b"TFL3"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor.

    ``stored``: its numbers are in the file; ``values``: these numbers, where they are a few
    integers.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int = 0
    values: tuple[int, ...] | None = None
    #: All its stored numbers stand for zero.
    zeros: bool = False

    @property
    def stored(self) -> bool:
        return self.bytes > 0

    @property
    def size(self) -> int:
        """How many numbers it holds; an unknown dim counts as 1."""
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
        """Multiply-accumulates for the shapes in the file; 0 for what does not multiply
        matrices.
        """
        return _MACS[self.op](self) if self.op in _MACS else 0

    @property
    def multiplies(self) -> bool:
        """True for convolutions and matrix products."""
        return self.op in _MACS

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """The tensors that it reads and writes while the network runs."""
        return tuple(
            tensor
            for tensor in (*self.inputs, *self.outputs)
            if tensor is not None and not tensor.stored
        )

    @property
    def weights(self) -> Tensor | None:
        """The second factor of a convolution or matrix product, stored or not."""
        return self.inputs[1] if self.multiplies and len(self.inputs) > 1 else None

    def input(self, position: int) -> Tensor:
        """An input that must be there."""
        tensor = self.inputs[position]
        if tensor is None:
            raise ModelError(
                f"The operator {self.index} ({self.op}) has no input {position}.",
                fix="export the file again",
            )
        return tensor


@dataclasses.dataclass(frozen=True)
class Graph:
    """The main graph of a TFLite file.

    ``others``: how many more graphs the file has (other signatures, branches).
    """

    path: pathlib.Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    others: int

    @property
    def macs(self) -> int:
        return sum(operator.macs for operator in self.operators)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights and constants, each counted once."""
        stored = {
            tensor.index: tensor.bytes
            for operator in self.operators
            for tensor in operator.inputs
            if tensor is not None
        }
        return sum(stored.values())


def read(path: pathlib.Path) -> Graph:
    """Read a file made by any tool.

    Raises ModelError where it is missing, cut short, or no TFLite file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}.", fix="name a .tflite file"
        ) from error
    if content[4:8] != _MAGIC:
        raise ModelError(
            f"{path} is no TFLite file ({len(content)} bytes, without the mark 'TFL3').",
            fix="name a .tflite file",
        )
    try:
        model = flatbuffer_utils.read_model_from_bytearray(content)
        tensors = _tensors(model)
        graph = model.subgraphs[0]
        operators = tuple(
            _operator(model, index, operator, tensors)
            for index, operator in enumerate(graph.operators)
        )
        inputs, outputs = (
            tuple(tensors[index] for index in ends)
            for ends in (graph.inputs, graph.outputs)
        )
    except (
        struct.error,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise ModelError(
            f"{path} is damaged: it begins like a TFLite file, but it cannot be read to its end.",
            fix="export or copy it again",
        ) from error
    return Graph(
        path=path,
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        others=len(model.subgraphs) - 1,
    )


def _tensors(model: Any) -> list[Tensor]:
    return [
        _tensor(model, index, tensor)
        for index, tensor in enumerate(model.subgraphs[0].tensors)
    ]


def _tensor(model: Any, index: int, tensor: Any) -> Tensor:
    data = model.buffers[tensor.buffer].data
    shape = tuple(int(dim) for dim in tensor.shape) if tensor.shape is not None else ()
    dtype = _DTYPES.get(tensor.type, f"type {tensor.type}")
    size = 0 if data is None else len(data)
    values = None
    if 0 < size <= 8 * _SMALL and dtype in ("int32", "int64"):
        values = tuple(int(value) for value in numpy.frombuffer(bytes(data), dtype=dtype))
    name = (tensor.name or b"").decode("utf-8", "replace")
    return Tensor(
        index=index,
        name=name,
        dtype=dtype,
        shape=shape,
        bytes=size,
        values=values,
        zeros=size > 0 and dtype in ("int8", "uint8") and _zeros(tensor, data),
    )


def _zeros(tensor: Any, data: Any) -> bool:
    points = tensor.quantization.zeroPoint if tensor.quantization is not None else None
    zero = 0 if points is None or len(points) != 1 else int(points[0])
    return bool((numpy.frombuffer(bytes(data), "uint8") == zero % 256).all())


def _operator(model: Any, index: int, operator: Any, tensors: list[Tensor]) -> Operator:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _OPERATORS.get(number, f"BUILTIN_{number}")
    if number == schema.BuiltinOperator.CUSTOM:
        name = f"CUSTOM:{(code.customCode or b'').decode('utf-8', 'replace')}"
    plain = {
        key: value
        for key, value in vars(operator.builtinOptions or object).items()
        if isinstance(value, int | float | bool)
    }
    return Operator(
        index=index,
        op=name,
        version=int(code.version),
        options=plain,
        inputs=tuple(
            None if k < 0 else tensors[k] for k in operator.inputs if k < len(tensors)
        ),
        outputs=tuple(tensors[k] for k in operator.outputs),
    )


def _names(enumeration: type) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(enumeration).items()
        if not name.startswith("_") and isinstance(value, int)
    }


_OPERATORS = _names(schema.BuiltinOperator)
_DTYPES = {value: name.lower() for value, name in _names(schema.TensorType).items()}


def _convolution(operator: Operator) -> int:
    """Weights are [out, kh, kw, in / groups] (3-D: one more), so each output number takes
    their product but the first.
    """
    return operator.outputs[0].size * math.prod(operator.input(1).shape[1:])


def _depthwise(operator: Operator) -> int:
    """Weights are [1, kh, kw, out]: each output number takes kh * kw."""
    return operator.outputs[0].size * math.prod(operator.input(1).shape[1:3])


def _convolution_3d(operator: Operator) -> int:
    """Weights are [kd, kh, kw, in / groups, out]."""
    return operator.outputs[0].size * math.prod(operator.input(1).shape[:4])


def _transposed(operator: Operator) -> int:
    """Inputs are the output's shape, weights [out, kh, kw, in] and the data: each number of
    the data takes out * kh * kw.
    """
    return operator.input(2).size * math.prod(operator.input(1).shape[:3])


def _fully_connected(operator: Operator) -> int:
    """Weights are [out, in]."""
    return operator.outputs[0].size * operator.input(1).shape[-1]


def _batch_matmul(operator: Operator) -> int:
    left = operator.input(0).shape
    return operator.outputs[0].size * (
        left[-2] if operator.options.get("adjX") else left[-1]
    )


_MACS: Mapping[str, Callable[[Operator], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "CONV_3D": _convolution_3d,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
}
