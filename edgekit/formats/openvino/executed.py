"""The operators that OpenVINO executes of a file on this processor, and their arithmetic.

``runtimePrecision`` alone is misleading: for compressed weights it is the type in which they
are stored. What the kernel multiplies is the last word of ``primitiveType``:
``brgemm_avx2_f32`` with ``runtimePrecision`` u8 is a float product (openvino 2026.4.1).
"""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import RunnerError, condense
from edgekit.formats.openvino import runtime_graph

TIMEOUT_S = 300
#: Operators that multiply and accumulate.
COMPUTE = {
    "Convolution",
    "Deconvolution",
    "FullyConnected",
    "MatMul",
    "RNNSeq",
    "RNNCell",
}
#: Operators into which the matrix products of an attention are fused.
_FUSED = {
    "Subgraph",
    "ScaledDotProductAttention",
    "MHA",
    "QKVProjection",
    "LLMMLP",
}
_INTEGERS = {"i8", "u8", "i4", "u4"}
FLOATS = {"f32", "f16", "bf16", "f64"}
_DTYPES: Mapping[str, str] = {
    "f32": "float",
    "f16": "float16",
    "bf16": "bfloat16",
}


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the compiled model, for one sample. ``macs`` is None if unknown."""

    op: str
    name: str
    #: The PyTorch module; empty if the file does not name it.
    module: str
    #: The types that the kernel multiplies, and that it writes.
    arithmetic: str
    result: str
    kernel: str
    macs: int | None
    computes: bool = False
    #: Converts an activation inside the graph from integers to floats.
    dequantizes: bool = False

    @property
    def integer(self) -> bool:
        """Whether the kernel multiplies 8-bit integers."""
        return self.arithmetic in _INTEGERS

    @property
    def dtype(self) -> str:
        """The arithmetic, as the other formats report it."""
        return (
            "int8"
            if self.integer
            else _DTYPES.get(self.arithmetic, self.arithmetic)
        )

    @property
    def place(self) -> str:
        """The module and the operator, else the operator's name."""
        return (
            f"{self.module}/{self.op}" if self.module else self.name or self.op
        )


@dataclasses.dataclass(frozen=True)
class Executed:
    """The compiled model of one file."""

    version: str
    operators: tuple[Operator, ...]
    #: The arithmetic that the file records; empty if it records none.
    requested_precision: str
    #: The arithmetic in which this processor executes what is not quantized.
    float_precision: str
    capabilities: tuple[str, ...]


def compile_file(path: pathlib.Path, weights: pathlib.Path | None) -> Executed:
    """Compile a file in another process, so that a damaged one cannot end edgekit's.

    Raises RunnerError if OpenVINO cannot read, compile or finish it.
    """
    script = pathlib.Path(runtime_graph.__file__)
    files = [path] if weights is None else [path, weights]
    command = [sys.executable, "-I", "-W", "ignore", str(script)]
    command += [str(file.resolve()) for file in files]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise RunnerError(
            f"{path.name}: OpenVINO did not compile it within {TIMEOUT_S} s.",
            fix="try a smaller network, or a faster machine",
        ) from error
    except json.JSONDecodeError as error:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunnerError(
            f"{path.name}: OpenVINO's process ended with status {done.returncode}: "
            f"{condense(last)}",
            fix="check that openvino can be imported, and that memory is free",
        ) from error
    if report["error"]:
        raise RunnerError(
            f"{path.name} cannot be compiled with OpenVINO {report['version']}: "
            f"{condense(report['error'])}",
            fix="convert the ONNX file again, and keep the .xml and .bin together",
        )
    return _parse(report)


def _parse(report: Mapping[str, Any]) -> Executed:
    products = report["products"]
    operators = [_operator(row, products) for row in report["operators"]]
    return Executed(
        version=report["version"],
        operators=tuple(_with_fused_products(operators, products)),
        requested_precision=report["requested_precision"],
        float_precision=report["float_precision"],
        capabilities=tuple(report["capabilities"]),
    )


def _with_fused_products(
    operators: Sequence[Operator], products: Mapping[str, Any]
) -> list[Operator]:
    """Give the MACs of the products that no operator performs alone to those that contain
    some: a fused operator names only a part of its products. Shares are equal.
    """
    alone = [
        row.macs or 0
        for row in operators
        if row.op in ("FullyConnected", "MatMul")
    ]
    pairs = [pair for entry in products.values() for pair in entry]
    remaining = sum(_product(first, output) for first, output in pairs) - sum(
        alone
    )
    fused = [row for row in operators if row.computes and row.op in _FUSED]
    if not fused:
        return list(operators)
    share = max(remaining, 0) // len(fused)
    return [
        dataclasses.replace(row, macs=share) if row in fused else row
        for row in operators
    ]


def _operator(row: Mapping[str, Any], products: Mapping[str, Any]) -> Operator:
    layers = row["layers"].split(",")
    is_fused = row["op"] in _FUSED and any(name in products for name in layers)
    computes = row["op"] in COMPUTE or is_fused
    arithmetic = arithmetic_of(row["kernel"], row["precision"])
    result = row["results"].partition(",")[0]
    is_inside = bool(set(row["readers"]) - {"Output"})
    dequantizes = arithmetic in _INTEGERS and result in FLOATS and is_inside
    return Operator(
        op=row["op"],
        name=row["name"],
        module=_module(layers),
        arithmetic=arithmetic,
        result=result,
        kernel=row["kernel"],
        macs=_macs(row) if row["op"] in COMPUTE else 0,
        computes=computes,
        dequantizes=dequantizes and not computes,
    )


def arithmetic_of(kernel: str, precision: str) -> str:
    """The type that a kernel computes in: the last word of its name, else ``precision``."""
    word = kernel.rpartition("_")[2].lower()
    return word if word in _INTEGERS | FLOATS else precision


def _module(layers: Sequence[str]) -> str:
    """The part of a layer's name before the operator: ``stages.0.conv1/Conv/WithoutBiases``."""
    return next((name.partition("/")[0] for name in layers if "/" in name), "")


def _macs(row: Mapping[str, Any]) -> int | None:
    """Multiply-accumulates for one sample; None for shapes that are not understood."""
    inputs, output = row["inputs"], row["output"]
    if len(inputs) < 2 or not all(inputs[:2]):
        return None
    if row["op"] == "FullyConnected":
        return int(math.prod(output) * inputs[0][-1])
    if row["op"] == "MatMul":
        return _product(inputs[0], output)
    if row["op"] in ("RNNSeq", "RNNCell"):
        return _recurrent(inputs)
    is_transposed = row["op"] == "Deconvolution"
    return _convolution(inputs[0], inputs[1], output, transposed=is_transposed)


def _product(first: Sequence[int], output: Sequence[int]) -> int:
    """Of a matrix product: the inner dimension is the one of ``first`` that is not a row."""
    rows = output[-2] if len(output) > 1 else 1
    is_transposed = len(first) > 1 and first[-2] != rows and first[-1] == rows
    inner = first[-2] if is_transposed else first[-1]
    return math.prod(output) * inner


def _convolution(
    first: Sequence[int],
    weights: Sequence[int],
    output: Sequence[int],
    *,
    transposed: bool,
) -> int:
    """Weights are [outputs, inputs, ...], transposed [inputs, outputs, ...]; with groups in
    front of both.
    """
    channels = (
        weights[0] * weights[1] if len(weights) > len(first) else weights[0]
    )
    places = math.prod(first if transposed else output)
    return places * math.prod(weights) // channels


def _recurrent(inputs: Sequence[Sequence[int]]) -> int | None:
    """Both weights [directions, gates x hidden, inputs] are multiplied once a time step."""
    weights = [shape for shape in inputs[3:] if len(shape) == 3]
    if len(weights) < 2 or not inputs[0]:
        return None
    steps = math.prod(inputs[0]) // inputs[0][-1]
    return steps * sum(math.prod(shape) for shape in weights[-2:])
