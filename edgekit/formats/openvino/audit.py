"""What OpenVINO executes on this processor: the share of the arithmetic in int8, what stays
float, and the known signs of slowness.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.errors import RunnerError
from edgekit.formats.openvino.executed import (
    FLOATS,
    Executed,
    Operator,
    compile_file,
)
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.target import Limits

HOW = (
    "the model as OpenVINO's CPU plugin compiled it for this processor, batch 1"
)
#: Operators that move data or change its type; they compute nothing.
_CARRIERS = {
    "Reorder",
    "Convert",
    "Transpose",
    "Reshape",
    "ShapeOf",
    "FakeQuantize",
}
_LAYOUT = {"Reorder", "Transpose"}
#: A few conversions are the price of one float operator between integers; more means that
#: fusing failed.
_FEW = 2
#: The kernel of an int8 product on a processor without an int8 dot product (VNNI, AMX), and
#: the share of the arithmetic from which it matters.
_GENERIC_KERNEL, _MUCH = "jit_gemm_", 0.1

#: In the names of kernels for processors with AVX2 and without an int8 dot product.
_AVX2 = "_avx2_"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Compile every part."""
    parts = {
        part.name: compile_file(
            artifact.path(part), artifact.path(part, "weights")
        )
        for part in artifact.parts
    }
    return _audit(parts, limits)


def read(path: pathlib.Path, limits: Limits | None = None) -> Audit:
    """Compile one ``.xml`` file, also one that edgekit did not write.

    Raises RunnerError for a file that OpenVINO cannot read.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise RunnerError(
            f"{path.name} has no {weights.name} in its folder.",
            fix="copy the .bin file, which contains the weights, next to the .xml file",
        )
    return _audit({path.stem: compile_file(path, weights)}, limits or Limits())


def _audit(parts: Mapping[str, Executed], limits: Limits) -> Audit:
    operators = [
        operator for part in parts.values() for operator in part.operators
    ]
    where = f"local: openvino {next(iter(parts.values())).version}"
    floats = [operator for operator in operators if _is_float(operator)]
    layouts = [operator for operator in operators if operator.op in _LAYOUT]
    pairs = [operator for operator in operators if operator.dequantizes]
    casts = [operator for operator in operators if _is_cast(operator)]
    measurements = [
        _share(operators, where),
        _count("float_ops", floats, where, "operators that compute in float"),
        _count(
            "transposes",
            layouts,
            where,
            "operators that only change the layout",
        ),
        _count(
            "qdq_pairs",
            pairs,
            where,
            "activations dequantized inside the graph",
        ),
        _count("casts", casts, where, "casts from one float type to another"),
    ]
    rows = [
        _row(operator, name)
        for name, part in parts.items()
        for operator in part.operators
    ]
    warnings = [
        f"{name}: {text}"
        for name, part in parts.items()
        for text in _warnings(part, limits)
    ]
    return Audit(measurements=measurements, rows=rows, warnings=warnings)


def _row(operator: Operator, part: str) -> dict[str, object]:
    return {
        "op": operator.op,
        "name": operator.name,
        "dtype": operator.dtype,
        "macs": operator.macs,
        "module": operator.module,
        "kernel": operator.kernel,
        "part": part,
    }


def _is_float(operator: Operator) -> bool:
    return operator.op not in _CARRIERS and operator.arithmetic in FLOATS


def _is_cast(operator: Operator) -> bool:
    types = {operator.arithmetic, operator.result}
    return operator.op == "Convert" and len(types) == 2 and types <= FLOATS


def _share(operators: Sequence[Operator], where: str) -> Measurement:
    """MACs of kernels that multiply 8-bit integers, divided by all MACs."""
    compute = [operator for operator in operators if operator.computes]
    if not compute:
        why = "the graph has no convolution and no matrix product"
        return unmeasured("int8_mac_share", "share", where, why)
    total = sum(operator.macs or 0 for operator in compute)
    if any(operator.macs is None for operator in compute) or total == 0:
        return unmeasured(
            "int8_mac_share", "share", where, "some shapes are not known"
        )
    integer = sum(
        operator.macs or 0 for operator in compute if operator.integer
    )
    return Measurement(
        name="int8_mac_share",
        value=integer / total,
        unit="share",
        n=len(compute),
        where=where,
        how=HOW,
        detail={"int8": integer, "all": total},
    )


def _count(
    name: MeasurementName, operators: Sequence[Operator], where: str, what: str
) -> Measurement:
    return Measurement(
        name=name,
        value=len(operators),
        unit="operators",
        where=where,
        how=f"{HOW}: {what}",
        detail={"operators": [operator.place for operator in operators]},
    )


def _warnings(part: Executed, limits: Limits) -> Iterator[str]:
    yield from _precision(part)
    compute = [operator for operator in part.operators if operator.computes]
    floats = [operator for operator in compute if not operator.integer]
    generic = [
        operator
        for operator in compute
        if operator.integer and operator.kernel.startswith(_GENERIC_KERNEL)
    ]
    matters = _macs(generic) > _MUCH * _macs(compute)
    pairs = sum(operator.dequantizes for operator in part.operators)
    if floats and len(floats) < len(compute):
        yield (
            f"{len(floats)} of {len(compute)} convolutions, matrix products and recurrent "
            f"layers of a quantized graph compute in float: {_names(floats)}."
        )
    if matters:
        yield (
            f"{len(generic)} int8 products run in OpenVINO's generic kernel, which was 1.3 "
            "times slower than float on a processor with AVX2 and no VNNI: "
            f"{_names(generic)}."
        )
    if any(
        operator.integer and _AVX2 in operator.kernel for operator in compute
    ):
        yield (
            "int8 kernels for AVX2 add two products in 16 bits and may saturate; processors "
            "with VNNI compute them exactly. The parity of this file holds for this one."
        )
    if pairs > _FEW:
        yield f"{pairs} activations are dequantized inside the graph."
    if limits.arithmetic == "integer" and any(
        _is_float(row) for row in part.operators
    ):
        yield "the device runs integer arithmetic only, and the graph computes in float."


def _macs(operators: Sequence[Operator]) -> int:
    return sum(operator.macs or 0 for operator in operators)


def _precision(part: Executed) -> Iterator[str]:
    """In which float type the file is executed, if that may surprise."""
    if part.requested_precision == "bf16" and part.float_precision != "bf16":
        yield (
            f"the file is for bfloat16 and is executed in {part.float_precision}: this "
            "processor has no bfloat16 arithmetic."
        )
    if not part.requested_precision and part.float_precision == "bf16":
        yield (
            "OpenVINO executes what is float in it in bfloat16 on this processor; set "
            "INFERENCE_PRECISION_HINT to f32 to keep float32."
        )


def _names(operators: Sequence[Operator], limit: int = 4) -> str:
    names = list(
        dict.fromkeys(
            operator.module or operator.name for operator in operators
        )
    )
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
