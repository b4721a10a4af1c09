"""What a step must know of a TFLite file that it wrote: inputs, outputs, and in which
arithmetic its layers compute.
"""

import dataclasses
import pathlib
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from edgekit.errors import StepError
from edgekit.formats import runtime_size
from edgekit.signature import DType, Quantization, Signature, TensorSpec

CHANNEL_LAST = (0, 2, 3, 1)
#: The operators that hold weights, and which of their inputs these are.
WEIGHTS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
}
_OPERATORS: dict[int, str] = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}
#: The older field of an operator's code has 7 bits; newer operators write this there.
_LAST_OLD_CODE = 127
_SMALL = (schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT4)
_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How the layers of a file compute.

    A layer with float activations and int8 weights counts as int8 weights.
    """

    int8_weights: int
    float_weights: int
    #: Operators that touch a float tensor that is not stored in the file, by name; QUANTIZE
    #: and DEQUANTIZE too.
    float_operators: Mapping[str, int]


def read(path: pathlib.Path) -> Any:
    """The file as the schema's object tree, or StepError where it is no TFLite file."""
    try:
        return flatbuffer_utils.read_model(str(path))
    except (struct.error, ValueError, IndexError, AttributeError, TypeError) as error:
        raise StepError(
            f"{path} is no TFLite file, or a part of it is missing.", fix="export it again"
        ) from error


def write(model: Any, path: pathlib.Path) -> None:
    """Write an object tree as a TFLite file."""
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operator_name(model: Any, operator: Any) -> str:
    """The name of an operator in the TFLite schema, such as CONV_2D."""
    code = model.operatorCodes[operator.opcodeIndex]
    return _OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")


def operator_code(model: Any, builtin: int) -> int:
    """The index of an operator's code, which is added (version 1) where the file has none."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, _LAST_OLD_CODE)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def arithmetic(path: pathlib.Path) -> Arithmetic:
    """Count the layers by the dtype of their weights, and the operators that compute in
    float.
    """
    model = read(path)
    weights: Counter[bool] = Counter()
    floats: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operator_name(model, operator)
            tensors = [
                graph.tensors[index]
                for index in (*operator.inputs, *operator.outputs)
                if index >= 0
            ]
            if any(
                tensor.type in _FLOATS and not stored(model, tensor) for tensor in tensors
            ):
                floats[name] += 1
            if name in WEIGHTS:
                weights[graph.tensors[operator.inputs[WEIGHTS[name]]].type in _FLOATS] += 1
    return Arithmetic(
        int8_weights=weights[False],
        float_weights=weights[True],
        float_operators=dict(floats),
    )


def runtime(path: pathlib.Path) -> dict[str, Any]:
    """For the notes: how many of TFLite's operators the file needs, and the size of the
    library that has all of them.
    """
    model = read(path)
    needed = {
        operator_name(model, operator)
        for graph in model.subgraphs
        for operator in graph.operators
    }
    return runtime_size.measured(
        "ai-edge-litert", "libpywrap_litert_common", len(needed), len(_OPERATORS)
    )


def half_tensors(path: pathlib.Path) -> int:
    """How many tensors the file stores as 16-bit floats."""
    model = read(path)
    return sum(
        tensor.type == schema.TensorType.FLOAT16 and stored(model, tensor)
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def small_tensors(path: pathlib.Path) -> int:
    """How many tensors the file stores with 8 or 4 bits."""
    model = read(path)
    return sum(
        tensor.type in _SMALL and stored(model, tensor)
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def require_loadable(path: pathlib.Path) -> None:
    """Raise StepError unless LiteRT can load the file; asked in another process, since on
    some files it ends the one that it is in.
    """
    code = "import sys; from ai_edge_litert.interpreter import Interpreter; Interpreter(sys.argv[1], num_threads=1).allocate_tensors()"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [
            line.strip()
            for line in done.stderr.splitlines()
            if line.strip() and not line.startswith("INFO")
        ]
        said = lines[-1][:240] if lines else "no word"
        ended = (
            f"crashes (signal {-done.returncode})" if done.returncode < 0 else "refuses it"
        )
        raise StepError(
            f"{path.name}: LiteRT {ended} while it loads the file: {said}",
            fix="take another scheme for this network",
        )


def described(path: pathlib.Path, wanted: Signature) -> Signature:
    """``wanted`` (in the file's order) with the dims, dtypes and quantization that the file
    has; names and axes are kept.

    LiteRT loads the file for this, so a file that it cannot run raises here, whatever
    LiteRT raises.
    """
    interpreter = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return Signature(
        inputs=_specs(path, wanted.inputs, inputs),
        outputs=_specs(path, wanted.outputs, outputs),
    )


def _specs(
    path: pathlib.Path, wanted: Sequence[TensorSpec], details: Sequence[Mapping[str, Any]]
) -> tuple[TensorSpec, ...]:
    if len(wanted) != len(details):
        raise StepError(
            f"{path.name} has {len(details)} inputs or outputs where the network has {len(wanted)} ({', '.join(spec.name for spec in wanted)}).",
            fix="remove inputs that the network does not use, and outputs that are the same tensor",
        )
    ordered = sorted(details, key=lambda detail: by_number(str(detail["name"])))
    return tuple(_spec(spec, detail) for spec, detail in zip(wanted, ordered, strict=True))


def _spec(wanted: TensorSpec, detail: Mapping[str, Any]) -> TensorSpec:
    scales, zero_points = (
        detail["quantization_parameters"]["scales"],
        detail["quantization_parameters"]["zero_points"],
    )
    quantization = (
        Quantization(scale=float(scales[0]), zero_point=int(zero_points[0]))
        if len(scales)
        else None
    )
    dtype = cast(DType, numpy.dtype(detail["dtype"]).name)
    return wanted.model_copy(
        update={
            "dims": tuple(int(dim) for dim in detail["shape"]),
            "dtype": dtype,
            "quantization": quantization,
        }
    )


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``args_10`` after ``args_2``."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece)
        for piece in re.split(r"(\d+)", name)
    ]


def stored(model: Any, tensor: Any) -> bool:
    """True for a tensor whose numbers are in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0
