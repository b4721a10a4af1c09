"""What ONNX Runtime really executes of an ONNX file: integer or float, layout changes, and the
known signs of slowness.
"""

import pathlib
from collections.abc import Mapping, Sequence

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.formats.onnx.macs import COMPUTE
from edgekit.formats.onnx.optimized import FLOATS, Operator, Optimized, optimize
from edgekit.formats.onnx.slowness import is_x86, warn
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.target import Limits

#: Operators that only change types or layouts; they compute nothing.
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
HOW = "ONNX Runtime's own optimized graph at its default level, batch 1"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Audit every part as ONNX Runtime runs it.

    Raises RunnerError if the runtime refuses a file or crashes.
    """
    parts = {
        part.name: optimize(artifact.path(part)) for part in artifact.parts
    }
    return audit_parts(parts, limits)


def read(path: pathlib.Path, limits: Limits | None = None) -> Audit:
    """Audit one ``.onnx`` file of any origin.

    Raises RunnerError if the file is invalid, or if the runtime refuses it or crashes.
    """
    return audit_parts({path.stem: optimize(path)}, limits or Limits())


def audit_parts(
    parts: Mapping[str, Optimized],
    limits: Limits,
    how: str = HOW,
    x86: bool | None = None,
) -> Audit:
    """Count the operators of optimized files, and warn about what is slow.

    ``how`` is reported with every number. ``x86``: whether the files run on such a processor;
    None: whether this one is.
    """
    for_x86 = is_x86() if x86 is None else x86
    operators = [
        operator for part in parts.values() for operator in part.operators
    ]
    where = f"local: onnxruntime {next(iter(parts.values())).version}"
    rows = [
        _row(name, operator)
        for name, part in parts.items()
        for operator in part.operators
    ]
    warnings = [
        f"{name}: {text}"
        for name, part in parts.items()
        for text in _warnings(part, limits, for_x86)
    ]
    measurements = [
        _integer_share(operators, where, how),
        *_counts(operators, where, how),
    ]
    return Audit(measurements=measurements, rows=rows, warnings=warnings)


def is_float(operator: Operator) -> bool:
    """Whether the operator computes in float."""
    if operator.op in _CARRIERS or operator.integer:
        return False
    unknown = operator.dtype == "unknown" and operator.op in COMPUTE
    return operator.dtype in FLOATS or unknown


def _row(part: str, operator: Operator) -> dict[str, object]:
    return {
        "op": operator.op,
        "name": operator.name,
        "dtype": operator.dtype,
        "macs": operator.macs,
        "module": operator.module,
        "part": part,
    }


def _integer_share(
    operators: Sequence[Operator], where: str, how: str
) -> Measurement:
    """MACs of integer operators divided by all MACs."""
    compute = [operator for operator in operators if operator.op in COMPUTE]
    if not compute:
        reason = "the graph has no convolution and no matrix product"
        return unmeasured("int8_mac_share", "share", where, reason)
    counted = [
        operator.macs for operator in compute if operator.macs is not None
    ]
    total = sum(counted)
    if len(counted) < len(compute) or total == 0:
        reason = "the shapes are unknown: the graph did not run on zeros"
        return unmeasured("int8_mac_share", "share", where, reason)
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


def _counts(
    operators: Sequence[Operator], where: str, how: str
) -> list[Measurement]:
    """How many operators are of a kind that costs time, with their labels."""
    kinds: dict[MeasurementName, tuple[str, list[Operator]]] = {
        "float_ops": (
            "operators that compute in float",
            [operator for operator in operators if is_float(operator)],
        ),
        "transposes": (
            "operators that only change the layout",
            [operator for operator in operators if operator.op in _TRANSPOSES],
        ),
        "qdq_pairs": (
            "activations dequantized inside the graph",
            [operator for operator in operators if operator.inner_dequantize],
        ),
        "casts": (
            "casts from one float type to another",
            [operator for operator in operators if operator.float_cast],
        ),
    }
    return [
        Measurement(
            name=name,
            value=len(listed),
            unit="operators",
            where=where,
            how=f"{how}: {meaning}",
            detail={"operators": [operator.label for operator in listed]},
        )
        for name, (meaning, listed) in kinds.items()
    ]


def _warnings(optimized: Optimized, limits: Limits, x86: bool) -> list[str]:
    operators = optimized.operators
    warnings = list(warn(operators, x86))
    if limits.arithmetic == "integer" and any(map(is_float, operators)):
        warnings.append(
            "the device runs integer arithmetic only, and the graph computes in float."
        )
    if not optimized.sorted:
        warnings.append(
            "its nodes are out of order; ONNX Runtime accepts that, other runtimes refuse"
            " the file."
        )
    if optimized.run_error:
        warnings.append(
            "the graph did not run on zeros, so MACs and types are unknown:"
            f" {optimized.run_error}"
        )
    return warnings
