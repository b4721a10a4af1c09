"""What ONNX Runtime will really execute: the share of the arithmetic in int8, what stays float, and the known signs of slowness."""

import pathlib
from collections.abc import Sequence

from edgekit.artifact import Artifact
from edgekit.checks.onnx_optimized import COMPUTE, Operator, Optimized, optimize
from edgekit.contracts import Audit
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.target import Limits

#: Compute operators whose products are of integers.
INTEGER = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvInteger"}
#: Operators that turn numbers into other types or layouts; they compute nothing.
_CARRIERS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "ReorderInput", "ReorderOutput", "Transpose", "Identity", "Reshape",
    "Flatten", "Squeeze", "Unsqueeze", "Shape", "Constant",
}  # fmt: skip
_TRANSPOSES = {"Transpose", "ReorderInput", "ReorderOutput"}
_FLOATS = {"float", "float16", "double", "bfloat16"}
#: A few Q/DQ pairs are the price of one float operator in the middle; more means that fusing failed.
_FEW_PAIRS = 2
HOW = "ONNX Runtime's own optimized graph at its default level, batch 1"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Read every part as the runtime will run it."""
    parts = {part.name: optimize(artifact.path(part)) for part in artifact.parts}
    return _audit(parts, limits)


def read(path: pathlib.Path, limits: Limits | None = None) -> Audit:
    """Read one ``.onnx`` file, also one that edgekit did not make. Raises RunnerError for a file that is not sound."""
    return _audit({path.stem: optimize(path)}, limits or Limits())


def _audit(parts: dict[str, Optimized], limits: Limits) -> Audit:
    operators = [operator for part in parts.values() for operator in part.operators]
    where = f"local: onnxruntime {next(iter(parts.values())).version}"
    floats = [operator for operator in operators if _is_float(operator)]
    measurements = [
        _share(operators, where),
        _count("float_ops", floats, where, "operators that compute in float"),
        _count("transposes", [operator for operator in operators if operator.op in _TRANSPOSES], where, "operators that only change the layout"),
        _count("qdq_pairs", [operator for operator in operators if operator.inner_dequantize], where, "activations dequantized inside the graph"),
    ]
    rows = [
        {"op": operator.op, "name": operator.name, "dtype": operator.dtype, "macs": operator.macs, "module": operator.module, "part": name}
        for name, part in parts.items() for operator in part.operators
    ]  # fmt: skip
    warnings = [text for name, part in parts.items() for text in _warnings(name, part, limits)]
    return Audit(measurements=measurements, rows=rows, warnings=warnings)


def _is_float(operator: Operator) -> bool:
    if operator.op in _CARRIERS or operator.op in INTEGER:
        return False
    return operator.dtype in _FLOATS or (operator.dtype == "unknown" and operator.op in COMPUTE)


def _share(operators: Sequence[Operator], where: str) -> Measurement:
    """MACs of integer operators divided by all MACs."""
    compute = [operator for operator in operators if operator.op in COMPUTE]
    if not compute:
        return unmeasured("int8_mac_share", "share", where, "the graph has no convolution and no matrix product")
    counted = [operator.macs for operator in compute if operator.macs is not None]
    total = sum(counted)
    if len(counted) < len(compute) or total == 0:
        return unmeasured("int8_mac_share", "share", where, "the shapes are not known: the graph did not run on zeros")
    integer = sum(operator.macs or 0 for operator in compute if operator.op in INTEGER)
    return Measurement(name="int8_mac_share", value=integer / total, unit="share", n=len(compute), where=where, how=HOW, detail={"int8": integer, "all": total})


def _count(name: MeasurementName, operators: Sequence[Operator], where: str, what: str) -> Measurement:
    listed = [operator.name or operator.op for operator in operators]
    return Measurement(name=name, value=len(operators), unit="operators", where=where, how=f"{HOW}: {what}", detail={"operators": listed})


def _warnings(part: str, optimized: Optimized, limits: Limits) -> list[str]:
    operators = optimized.operators
    compute = [operator for operator in operators if operator.op in COMPUTE]
    integer = [operator for operator in compute if operator.op in INTEGER]
    floats = [operator for operator in compute if operator.op not in INTEGER]
    quantized = bool(integer) or any(operator.op in ("QuantizeLinear", "DequantizeLinear") for operator in operators)
    pairs = sum(operator.inner_dequantize for operator in operators)
    slow = [operator for operator in operators if operator.op == "ConvInteger"]
    found = []
    if quantized and floats:
        found.append(f"{part}: {len(floats)} of {len(compute)} convolutions and matrix products of a quantized graph compute in float: {_named(floats)}.")
    if slow:
        found.append(f"{part}: {len(slow)} ConvInteger, which is slower than float on x86: {_named(slow)}.")
    if pairs > _FEW_PAIRS:
        found.append(f"{part}: {pairs} Q/DQ pairs did not fuse; each moves a whole tensor to float and back.")
    if limits.arithmetic == "integer" and any(_is_float(operator) for operator in operators):
        found.append(f"{part}: the device runs integer arithmetic only, and the graph computes in float.")
    if optimized.not_run:
        found.append(f"{part}: the graph did not run on zeros, so MACs and types are not known: {optimized.not_run}")
    return found


def _named(operators: Sequence[Operator], limit: int = 4) -> str:
    names = [operator.module or operator.name or operator.op for operator in operators]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
