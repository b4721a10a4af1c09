"""What ONNX Runtime will really execute: the share of the arithmetic in int8, what stays
float, and the known signs of slowness.
"""

import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.formats.onnx.macs import COMPUTE
from edgekit.formats.onnx.optimized import FLOATS, Operator, Optimized, optimize
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.target import Limits

#: Operators that turn numbers into other types or layouts; they compute nothing.
_CARRIERS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Cast",
    "ReorderInput",
    "ReorderOutput",
    "Transpose",
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Shape",
    "Constant",
}
_TRANSPOSES = {"Transpose", "ReorderInput", "ReorderOutput"}
#: A few Q/DQ pairs are the price of one float operator in the middle, a few casts that of
#: float inputs; more means that fusing failed.
_FEW = 2
#: Products with weights in 4 or 8 bits; the activations are floats, or rounded inside the
#: kernel.
_PACKED = {"MatMulNBits", "MatMulBnb4"}
#: Operators that have no integer kernel on a processor.
_NO_KERNEL = {
    "ConvTranspose",
    "GRU",
    "RNN",
    "Einsum",
    "MultiHeadAttention",
    "GroupQueryAttention",
}
#: Integer operators that take quantized activations and give some.
_FUSED = {"QLinearConv", "QLinearMatMul", "QGemm"}
HOW = "ONNX Runtime's own optimized graph at its default level, batch 1"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Read every part as the runtime will run it."""
    parts = {part.name: optimize(artifact.path(part)) for part in artifact.parts}
    return audit_parts(parts, limits)


def read(path: pathlib.Path, limits: Limits | None = None) -> Audit:
    """Read one ``.onnx`` file, also one that edgekit did not make.

    Raises RunnerError for a file that is not sound.
    """
    return audit_parts({path.stem: optimize(path)}, limits or Limits())


def audit_parts(
    parts: Mapping[str, Optimized], limits: Limits, how: str = HOW, x86: bool | None = None
) -> Audit:
    """The numbers drawn from what was read; ``how`` tells how it was.

    ``x86``: whether the file is for such a processor; None: for this one.
    """
    x86 = _is_x86() if x86 is None else x86
    operators = [operator for part in parts.values() for operator in part.operators]
    where = f"local: onnxruntime {next(iter(parts.values())).version}"
    floats = [operator for operator in operators if _is_float(operator)]
    measurements = [
        _share(operators, where, how),
        _count("float_ops", floats, where, f"{how}: operators that compute in float"),
        _count(
            "transposes",
            [operator for operator in operators if operator.op in _TRANSPOSES],
            where,
            f"{how}: operators that only change the layout",
        ),
        _count(
            "qdq_pairs",
            [operator for operator in operators if operator.inner_dequantize],
            where,
            f"{how}: activations dequantized inside the graph",
        ),
        _count(
            "casts",
            [operator for operator in operators if operator.float_cast],
            where,
            f"{how}: casts from one float type to another",
        ),
    ]
    rows = [
        {
            "op": operator.op,
            "name": operator.name,
            "dtype": operator.dtype,
            "macs": operator.macs,
            "module": operator.module,
            "part": name,
        }
        for name, part in parts.items()
        for operator in part.operators
    ]
    warnings = [
        text for name, part in parts.items() for text in _warnings(name, part, limits, x86)
    ]
    return Audit(measurements=measurements, rows=rows, warnings=warnings)


def _is_float(operator: Operator) -> bool:
    if operator.op in _CARRIERS or operator.integer:
        return False
    return operator.dtype in FLOATS or (
        operator.dtype == "unknown" and operator.op in COMPUTE
    )


def _share(operators: Sequence[Operator], where: str, how: str) -> Measurement:
    """MACs of integer operators divided by all MACs."""
    compute = [operator for operator in operators if operator.op in COMPUTE]
    if not compute:
        return unmeasured(
            "int8_mac_share",
            "share",
            where,
            "the graph has no convolution and no matrix product",
        )
    counted = [operator.macs for operator in compute if operator.macs is not None]
    total = sum(counted)
    if len(counted) < len(compute) or total == 0:
        return unmeasured(
            "int8_mac_share",
            "share",
            where,
            "the shapes are not known: the graph did not run on zeros",
        )
    integer = sum(operator.int8_macs for operator in compute)
    return Measurement(
        name="int8_mac_share",
        value=integer / total,
        unit="share",
        n=len(compute),
        where=where,
        how=how,
        detail={"int8": integer, "all": total},
    )


def _count(
    name: MeasurementName, operators: Sequence[Operator], where: str, what: str
) -> Measurement:
    listed = [operator.place for operator in operators]
    return Measurement(
        name=name,
        value=len(operators),
        unit="operators",
        where=where,
        how=what,
        detail={"operators": listed},
    )


def _warnings(part: str, optimized: Optimized, limits: Limits, x86: bool) -> list[str]:
    found = [*_floats_left(optimized.operators, x86), *_slow(optimized.operators, x86)]
    if limits.arithmetic == "integer" and any(
        _is_float(operator) for operator in optimized.operators
    ):
        found.append(
            "the device runs integer arithmetic only, and the graph computes in float."
        )
    if not optimized.sorted:
        found.append(
            "its nodes are out of order; ONNX Runtime forgives that, other runtimes refuse the file."
        )
    if optimized.not_run:
        found.append(
            f"the graph did not run on zeros, so MACs and types are not known: {optimized.not_run}"
        )
    return [f"{part}: {text}" for text in found]


def _floats_left(operators: Sequence[Operator], x86: bool) -> Iterator[str]:
    """What computes in float although the graph is quantized, and the likely reason."""
    compute = [operator for operator in operators if operator.op in COMPUTE]
    quantizers = [
        operator
        for operator in operators
        if operator.op in ("QuantizeLinear", "DequantizeLinear")
    ]
    floats = [
        operator
        for operator in compute
        if not operator.integer and operator.op not in _PACKED
    ]
    if not floats or not (quantizers or any(operator.integer for operator in compute)):
        return
    what = "convolutions, matrix products and recurrent layers of a quantized graph compute in float"
    yield f"{len(floats)} of {len(compute)} {what}: {_named(floats)}.{_reason(floats, quantizers, x86)}"


def _reason(floats: Sequence[Operator], quantizers: Sequence[Operator], x86: bool) -> str:
    """The likely reason why operators were left in float; empty where there is no usual
    one.
    """
    kinds = {operator.dtype for operator in quantizers if operator.op == "QuantizeLinear"}
    if kinds & {"int16", "uint16"}:
        return " Its activations have 16 bits, and this runtime has no integer kernels for these operators: such a file is slower than float."
    if any(kind.startswith("Float8") for kind in kinds):
        return " Its activations are 8-bit floats, which this runtime converts to 32 bits; they are for TensorRT: inspect the engine."
    lacking = sorted({operator.op for operator in floats} & _NO_KERNEL)
    if lacking and all(operator.op in _NO_KERNEL for operator in floats):
        return f" ONNX Runtime has no integer kernel for {' and '.join(lacking)}."
    if any(operator.op == "LSTM" for operator in floats):
        return " An LSTM computes in int8 only where it was quantized dynamically."
    if "int8" in kinds and x86:
        return " Its activations are signed (int8); on x86 most operators are only fused with unsigned ones (uint8)."
    return ""


def _slow(operators: Sequence[Operator], x86: bool) -> Iterator[str]:
    """The known signs that a file is slow."""
    convolutions = [operator for operator in operators if operator.op == "ConvInteger"]
    signed = [
        operator
        for operator in operators
        if operator.op in _FUSED and operator.dtype == "int8"
    ]
    packed = [
        operator
        for operator in operators
        if operator.op in _PACKED and not operator.integer
    ]
    pairs, casts = (
        sum(operator.inner_dequantize for operator in operators),
        sum(operator.float_cast for operator in operators),
    )
    if convolutions:
        yield f"{len(convolutions)} ConvInteger, which is slower than float on x86: {_named(convolutions)}. Calibrate the file (static) instead."
    if signed and x86:
        yield f"{len(signed)} integer operators have signed activations (int8): {_named(signed)}. x86 kernels are fast with unsigned ones (uint8)."
    if packed:
        told = "make their weights float again and multiply in float; with accuracy_level 4 they would multiply integers"
        yield f"{len(packed)} products with packed weights {told}: {_named(packed)}."
    if pairs > _FEW:
        yield f"{pairs} Q/DQ pairs did not fuse; each moves a whole tensor to float and back."
    if casts > _FEW:
        yield f"{casts} casts between float types: this processor has no kernels for half precision and converts to 32 bits and back."


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "x86", "i686")


def _named(operators: Sequence[Operator], limit: int = 4) -> str:
    names = list(
        dict.fromkeys(
            operator.module or operator.name or operator.op for operator in operators
        )
    )
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )
