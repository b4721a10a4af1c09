"""The object tree of a TFLite file: reading, writing, and counting what it stores.

``edgekit.formats.tflite.graph`` is the typed, read-only view on top of it.
"""

import contextlib
import dataclasses
import pathlib
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit.errors import ModelError

#: Axes of the network (N, C, H, W) in the order of a channel-last file.
CHANNEL_LAST = (0, 2, 3, 1)
#: The operators that hold weights, and the position of the weights among their inputs.
WEIGHT_INPUTS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
}
_IDENTIFIER = b"TFL3"
#: An operator code's older field has 7 bits; newer operators store this value in it.
_LAST_OLD_CODE = 127
_QUANTIZED = (
    schema.TensorType.INT8,
    schema.TensorType.UINT8,
    schema.TensorType.INT4,
)
_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
#: What flatbuffers and the generated classes raise for a damaged file.
_PARSE_ERRORS = (
    struct.error,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
)


def _enum_names(enumeration: type) -> dict[int, str]:
    members = vars(enumeration).items()
    return {
        value: name
        for name, value in members
        if isinstance(value, int) and not name.startswith("_")
    }


#: Builtin operator code -> name, such as CONV_2D.
OPERATOR_NAMES: Mapping[int, str] = _enum_names(schema.BuiltinOperator)
#: Tensor type -> dtype, such as float32.
DTYPE_NAMES: Mapping[int, str] = {
    value: name.lower()
    for value, name in _enum_names(schema.TensorType).items()
}


@dataclasses.dataclass(frozen=True)
class LayerCounts:
    """How many layers of a file have which weights.

    A layer with float activations and int8 weights counts under ``int8_weights``.
    """

    int8_weights: int
    float_weights: int
    #: Operators that read or write a float tensor that is not stored in the file, by name;
    #: includes QUANTIZE and DEQUANTIZE.
    float_operators: Mapping[str, int]


@contextlib.contextmanager
def parse_errors(path: pathlib.Path) -> Iterator[None]:
    """Raise what goes wrong while a file is parsed as ModelError."""
    try:
        yield
    except _PARSE_ERRORS as error:
        raise ModelError(
            f"{path} is damaged: it starts like a TFLite file, but it cannot be parsed.",
            fix="export or copy it again",
        ) from error


def read(path: pathlib.Path) -> Any:
    """Read a file, written by any tool, as the schema's object tree (``ModelT``).

    Raises ModelError if the file is missing, truncated or not a TFLite file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}.",
            fix="pass a .tflite file",
        ) from error
    if content[4:8] != _IDENTIFIER:
        raise ModelError(
            f"{path} is not a TFLite file ({len(content)} bytes, no identifier 'TFL3').",
            fix="pass a .tflite file",
        )
    with parse_errors(path):
        return flatbuffer_utils.read_model_from_bytearray(content)


def serialize(model: Any) -> bytes:
    """The bytes of the TFLite file that an object tree describes."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def write(model: Any, path: pathlib.Path) -> None:
    """Write an object tree as a TFLite file."""
    path.write_bytes(serialize(model))


def tensor_name(tensor: Any) -> str:
    """The name of a tensor; empty if it has none."""
    return (tensor.name or b"").decode("utf-8", "replace")


def is_stored(model: Any, tensor: Any) -> bool:
    """Whether the values of a tensor are stored in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def operator_name(model: Any, operator: Any) -> str:
    """The name of an operator in the TFLite schema, such as CONV_2D.

    Custom operators are named ``CUSTOM:<custom code>``, and operators that are newer than
    the installed schema ``BUILTIN_<number>``.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    number = _builtin_number(code)
    if number == schema.BuiltinOperator.CUSTOM:
        custom_code = (code.customCode or b"").decode("utf-8", "replace")
        return f"CUSTOM:{custom_code}"
    return OPERATOR_NAMES.get(number, f"BUILTIN_{number}")


def ensure_operator_code(model: Any, builtin: int) -> int:
    """The index of a builtin operator's code; the code is added (version 1) if missing."""
    for index, code in enumerate(model.operatorCodes):
        if _builtin_number(code) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, _LAST_OLD_CODE)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _builtin_number(code: Any) -> int:
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def count_layers(path: pathlib.Path) -> LayerCounts:
    """Count layers by the dtype of their weights, and operators that compute in float."""
    model = read(path)
    float_weights: Counter[bool] = Counter()
    float_operators: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operator_name(model, operator)
            if _has_float_activations(model, graph, operator):
                float_operators[name] += 1
            if name in WEIGHT_INPUTS:
                weights = graph.tensors[operator.inputs[WEIGHT_INPUTS[name]]]
                float_weights[weights.type in _FLOATS] += 1
    return LayerCounts(
        int8_weights=float_weights[False],
        float_weights=float_weights[True],
        float_operators=dict(float_operators),
    )


def _has_float_activations(model: Any, graph: Any, operator: Any) -> bool:
    for index in (*operator.inputs, *operator.outputs):
        if index < 0:  # an optional input that is left out
            continue
        tensor = graph.tensors[index]
        if tensor.type in _FLOATS and not is_stored(model, tensor):
            return True
    return False


def operators_in(path: pathlib.Path) -> set[str]:
    """The names of all operators that a file needs."""
    model = read(path)
    operators = (
        operator for graph in model.subgraphs for operator in graph.operators
    )
    return {operator_name(model, operator) for operator in operators}


def count_half_tensors(path: pathlib.Path) -> int:
    """How many tensors the file stores as 16-bit floats."""
    return _count_stored(path, (schema.TensorType.FLOAT16,))


def count_quantized_tensors(path: pathlib.Path) -> int:
    """How many tensors the file stores with 8 or 4 bits."""
    return _count_stored(path, _QUANTIZED)


def _count_stored(path: pathlib.Path, types: tuple[int, ...]) -> int:
    model = read(path)
    tensors = (tensor for graph in model.subgraphs for tensor in graph.tensors)
    return sum(
        tensor.type in types and is_stored(model, tensor) for tensor in tensors
    )
