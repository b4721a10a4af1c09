"""The known signs that ONNX Runtime runs a file slowly, and the likely reasons."""

import platform
from collections.abc import Iterator, Sequence

from edgekit.formats.onnx.macs import COMPUTE
from edgekit.formats.onnx.optimized import Operator

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
#: Integer operators that read and write quantized activations.
_FUSED = {"QLinearConv", "QLinearMatMul", "QGemm"}


def warn(operators: Sequence[Operator], x86: bool) -> Iterator[str]:
    """Yield a warning for each sign of slowness, on an x86 processor or another."""
    yield from _floats_left(operators, x86)
    yield from _slow_integers(operators, x86)
    yield from _conversions(operators)


def is_x86() -> bool:
    """Whether this processor is an x86 one."""
    return platform.machine().lower() in ("x86_64", "amd64", "x86", "i686")


def _floats_left(operators: Sequence[Operator], x86: bool) -> Iterator[str]:
    """What computes in float although the graph is quantized, and the likely reason."""
    compute = [operator for operator in operators if operator.op in COMPUTE]
    floats = [
        operator
        for operator in compute
        if not operator.integer and operator.op not in _PACKED
    ]
    quantizers = [
        operator
        for operator in operators
        if operator.op in ("QuantizeLinear", "DequantizeLinear")
    ]
    is_quantized = quantizers or any(operator.integer for operator in compute)
    if floats and is_quantized:
        yield (
            f"{len(floats)} of {len(compute)} convolutions, matrix products and recurrent"
            " layers of a quantized graph compute in float:"
            f" {_names(floats)}.{_reason(floats, quantizers, x86)}"
        )


def _reason(
    floats: Sequence[Operator], quantizers: Sequence[Operator], x86: bool
) -> str:
    """The likely reason why operators stayed float; empty if there is no usual one."""
    dtypes = {
        operator.dtype
        for operator in quantizers
        if operator.op == "QuantizeLinear"
    }
    if dtypes & {"int16", "uint16"}:
        return (
            " Its activations have 16 bits, and this runtime has no integer kernels for these"
            " operators: such a file is slower than float."
        )
    if any(dtype.startswith("Float8") for dtype in dtypes):
        return (
            " Its activations are 8-bit floats, which this runtime converts to 32 bits; they"
            " are for TensorRT: inspect the engine."
        )
    if all(operator.op in _NO_KERNEL for operator in floats):
        names = sorted({operator.op for operator in floats})
        return f" ONNX Runtime has no integer kernel for {' and '.join(names)}."
    if any(operator.op == "LSTM" for operator in floats):
        return " An LSTM computes in int8 only if it was quantized dynamically."
    if "int8" in dtypes and x86:
        return (
            " Its activations are signed (int8); on x86 most operators are only fused with"
            " unsigned ones (uint8)."
        )
    return ""


def _slow_integers(operators: Sequence[Operator], x86: bool) -> Iterator[str]:
    """Quantized operators that have slow kernels."""
    convolutions = [
        operator for operator in operators if operator.op == "ConvInteger"
    ]
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
    if convolutions:
        yield (
            f"{len(convolutions)} ConvInteger, which is slower than float on x86:"
            f" {_names(convolutions)}. Calibrate the file (static) instead."
        )
    if signed and x86:
        yield (
            f"{len(signed)} integer operators have signed activations (int8):"
            f" {_names(signed)}. x86 kernels are fast with unsigned ones (uint8)."
        )
    if packed:
        yield (
            f"{len(packed)} products with packed weights dequantize them and multiply in"
            " float; with accuracy_level 4 they would multiply integers:"
            f" {_names(packed)}."
        )


def _conversions(operators: Sequence[Operator]) -> Iterator[str]:
    """Tensors that are converted back and forth."""
    pairs = sum(operator.inner_dequantize for operator in operators)
    casts = sum(operator.float_cast for operator in operators)
    if pairs > _FEW:
        yield (
            f"{pairs} Q/DQ pairs did not fuse; each converts an entire tensor to float and"
            " back."
        )
    if casts > _FEW:
        yield (
            f"{casts} casts between float types: this processor has no kernels for half"
            " precision and converts to 32 bits and back."
        )


def _names(operators: Sequence[Operator], limit: int = 4) -> str:
    """List the first modules or nodes."""
    labels = [
        operator.module or operator.name or operator.op
        for operator in operators
    ]
    names = list(dict.fromkeys(labels))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
