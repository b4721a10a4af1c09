"""LiteRT's interpreter: whether it loads a file, and the signature that it reports."""

import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit.arrays import Array
from edgekit.errors import StepError
from edgekit.formats.runtime_size import measure_runtime
from edgekit.formats.tflite import file as tflite_file
from edgekit.signature import DType, Quantization, Signature, TensorSpec

#: One input, output or tensor, as the interpreter describes it.
Detail = Mapping[str, Any]

_LOAD = """
import sys
from ai_edge_litert.interpreter import Interpreter

Interpreter(sys.argv[1], num_threads=1).allocate_tensors()
"""


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``args_10`` after ``args_2``."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece)
        for piece in re.split(r"(\d+)", name)
    ]


def sort_details(details: Iterable[Detail]) -> list[Detail]:
    """Inputs or outputs in the order of the network's signature."""
    return sorted(details, key=lambda detail: natural_key(str(detail["name"])))


def set_inputs(
    interpreter: Interpreter, inputs: Iterable[Detail], values: Iterable[Array]
) -> None:
    """Set the inputs to ``values``, which must be encoded as the file stores them."""
    for detail, value in zip(inputs, values, strict=True):
        interpreter.set_tensor(detail["index"], value)


def describe_runtime(path: pathlib.Path) -> dict[str, Any]:
    """Notes for the report: how many of TFLite's operators the file needs, and the size in
    bytes of the library that has all of them.
    """
    needed = tflite_file.operators_in(path)
    return measure_runtime(
        "ai-edge-litert",
        "libpywrap_litert_common",
        len(needed),
        len(tflite_file.OPERATOR_NAMES),
    )


def require_loadable(path: pathlib.Path) -> None:
    """Raise StepError unless LiteRT can load the file.

    Runs in another process, since LiteRT aborts the process on some files.
    """
    process = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", _LOAD, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        return
    lines = [line.strip() for line in process.stderr.splitlines()]
    messages = [line for line in lines if line and not line.startswith("INFO")]
    message = messages[-1][:240] if messages else "no message"
    outcome = "rejects the file"
    if process.returncode < 0:
        outcome = f"crashes (signal {-process.returncode})"
    raise StepError(
        f"{path.name}: LiteRT {outcome} on loading: {message}",
        fix="use another scheme for this network",
    )


def read_signature(path: pathlib.Path, expected: Signature) -> Signature:
    """``expected`` with the dims, dtypes and quantization of the file.

    ``expected`` must be in the file's order; its names and axes are kept. LiteRT loads the
    file, so for a file that it cannot run this raises whatever LiteRT raises. Raises
    StepError if the number of inputs or outputs differs.
    """
    interpreter = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return Signature(
        inputs=_specs(
            path, "inputs", expected.inputs, interpreter.get_input_details()
        ),
        outputs=_specs(
            path, "outputs", expected.outputs, interpreter.get_output_details()
        ),
    )


def _specs(
    path: pathlib.Path,
    kind: str,
    expected: Sequence[TensorSpec],
    details: Sequence[Detail],
) -> tuple[TensorSpec, ...]:
    if len(expected) != len(details):
        names = ", ".join(spec.name for spec in expected)
        raise StepError(
            f"{path.name}: expected {len(expected)} {kind} ({names}), got {len(details)}.",
            fix="remove inputs that the network does not use, and duplicate outputs",
        )
    pairs = zip(expected, sort_details(details), strict=True)
    return tuple(_spec(spec, detail) for spec, detail in pairs)


def _spec(expected: TensorSpec, detail: Detail) -> TensorSpec:
    parameters = detail["quantization_parameters"]
    quantization = None
    if len(parameters["scales"]):
        quantization = Quantization(
            scale=float(parameters["scales"][0]),
            zero_point=int(parameters["zero_points"][0]),
        )
    return expected.model_copy(
        update={
            "dims": tuple(int(dim) for dim in detail["shape"]),
            "dtype": cast(DType, numpy.dtype(detail["dtype"]).name),
            "quantization": quantization,
        }
    )
