"""What a TensorRT engine will execute, read from the build log next to it; no GPU is needed."""

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgekit.artifact import MAIN, Artifact, File, Part
from edgekit.contracts import Audit
from edgekit.errors import EdgekitError, RunnerError
from edgekit.formats.tensorrt.nvidia import DISPLAY_NAMES
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits

Row = Mapping[str, Any]

#: The kinds of layers that multiply and add. kernel: a generated kernel that fused a product.
_COMPUTE = ("conv", "deconv", "gemm", "kernel")
INT8 = "Int8"
_FOUR_BITS = ("Int4", "FP4")
_RECIPE_KEYS = ("compute_capabilities", "warnings", "promised")
_LOG_KEYS = (
    "layers",
    "module",
    "version",
    "compute_capabilities",
    "memory",
    "quantized",
    "uncounted",
)


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """How much of the arithmetic runs in int8, which layers stay in float, and which
    transpose.

    Raises RunnerError if a build log is missing or cannot be read.
    """
    if all("recipe" in part.files for part in artifact.parts):
        return _audit_recipes(artifact)
    logs = {part.name: _read_log(artifact, part) for part in artifact.parts}
    rows = [
        {**row, "part": name}
        for name, log in logs.items()
        for row in log["layers"]
    ]
    where = "; ".join(dict.fromkeys(_where(log) for log in logs.values()))
    measurements = [
        _measure_int8_share(rows, where),
        _count(
            "float_ops",
            [row for row in rows if _is_float(row)],
            where,
            "layers of the build log that multiply in Float, Half or BFloat16",
        ),
        _count(
            "transposes",
            [row for row in rows if row["transposes"]],
            where,
            "layers of the build log that move axes (including fused kernels)",
        ),
    ]
    warnings: list[str] = []
    for name, log in logs.items():
        warnings += [f"{name}: {text}" for text in _find_warnings(log, limits)]
    return Audit(measurements, [_report_row(row) for row in rows], warnings)


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """Audit one engine by its build log, ``<name>.log.json`` in the same folder.

    Raises EdgekitError if there is no build log.
    """
    log = path.with_suffix(".log.json")
    if not log.is_file():
        raise EdgekitError(
            f"There is no {log.name} next to {path}.",
            fix="name an engine that edgekit built; an engine alone does not report its "
            "datatypes",
        )
    # The audit does not read the signature.
    unknown = TensorSpec(name="unknown", dtype="float32", dims=())
    signature = Signature(inputs=(unknown,), outputs=(unknown,))
    files = {"engine": File(path=path.name), "log": File(path=log.name)}
    part = Part(name=MAIN, signature=signature, files=files)
    return audit(
        Artifact(format="tensorrt", parts=(part,), folder=path.parent), limits
    )


def _audit_recipes(artifact: Artifact) -> Audit:
    """The audit of recipes: the device that builds the engine knows what runs in int8."""
    recipes = {
        part.name: _read_recipe(artifact, part) for part in artifact.parts
    }
    gpus = dict.fromkeys(
        name
        for recipe in recipes.values()
        for name in recipe["compute_capabilities"]
    )
    where = f"recipe for {', '.join(gpus) or 'any GPU'}, built on the device"
    reason = (
        "the engine is built on the device, where edgekit reads which layers run in int8 "
        "(edgekit/formats/tensorrt/device_results.py)"
    )
    units: dict[MeasurementName, str] = {
        "int8_mac_share": "share",
        "float_ops": "layers",
        "transposes": "layers",
    }
    warnings = [
        f"{name}: {text}"
        for name, recipe in recipes.items()
        for text in recipe["warnings"]
    ]
    measurements = [
        unmeasured(name, unit, where, reason) for name, unit in units.items()
    ]
    return Audit(measurements, [], warnings)


def _read_recipe(artifact: Artifact, part: Part) -> dict[str, Any]:
    path = artifact.path(part, "recipe")
    try:
        return _read_json(path, _RECIPE_KEYS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunnerError(
            f"The recipe {path.name} cannot be read: {error}",
            fix="build the artifact again",
        ) from error


def _read_log(artifact: Artifact, part: Part) -> dict[str, Any]:
    if "log" not in part.files:
        raise RunnerError(
            f"The engine of {part.name!r} has no build log.",
            fix="build it with edgekit; an engine alone does not report its datatypes",
        )
    path = artifact.path(part, "log")
    try:
        return _read_json(path, _LOG_KEYS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunnerError(
            f"The build log {path.name} cannot be read: {error}",
            fix="build the engine again",
        ) from error


def _read_json(path: pathlib.Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has all ``keys``; else KeyError or TypeError."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in keys:
        content[key]
    return content


def _where(log: Row) -> str:
    gpus = ", ".join(log["compute_capabilities"]) or "its own choice of GPUs"
    return f"{log['module']} {log['version']}, built for {gpus}, not run"


def _is_compute(row: Row) -> bool:
    return str(row["kind"]) in _COMPUTE


def _is_int8(row: Row) -> bool:
    """Whether data and weights are both int8.

    A generated kernel converts to float inside, whatever it reads.
    """
    return bool(row["kind"] != "kernel" and row["dtype"] == INT8)


def _is_float(row: Row) -> bool:
    if not _is_compute(row) or _is_int8(row):
        return False
    return (
        row["kind"] == "kernel"
        or "Float" in row["dtype"]
        or "Half" in row["dtype"]
    )


def _measure_int8_share(rows: Iterable[Row], where: str) -> Measurement:
    """The share (0 to 1) of multiply-accumulates in layers with int8 data and weights.

    Counts layers instead if the multiply-accumulates of one are unknown.
    """
    compute = [row for row in rows if _is_compute(row)]
    if not compute:
        reason = "the build log has no convolution and no matrix product"
        return unmeasured("int8_mac_share", "share", where, reason)
    has_macs = all(row["macs"] for row in compute)
    counted = "layers (the multiply-accumulates of some are unknown)"
    if has_macs:
        counted = "multiply-accumulates at batch 1 (ONNX shapes)"
    by_dtype: Counter[str] = Counter()
    integer = 0
    for row in compute:
        work = row["macs"] if has_macs else 1
        by_dtype[row["dtype"]] += work
        if _is_int8(row):
            integer += work
    return Measurement(
        name="int8_mac_share",
        value=integer / by_dtype.total(),
        unit="share",
        n=len(compute),
        where=where,
        how=(
            f"{counted} in conv, deconv and gemm layers with int8 data and weights, according "
            "to the build log"
        ),
        detail={
            "int8": integer,
            "all": by_dtype.total(),
            "by_dtype": dict(by_dtype),
        },
    )


def _count(
    name: MeasurementName, rows: Sequence[Row], where: str, how: str
) -> Measurement:
    return Measurement(
        name=name,
        value=len(rows),
        unit="layers",
        where=where,
        how=how,
        detail={"layers": [_layer_name(row) for row in rows]},
    )


def _report_row(row: Row) -> dict[str, Any]:
    return {
        "op": row["kind"] or row["type"],
        "name": row["name"],
        "dtype": row["dtype"],
        "macs": row["macs"],
        "module": _layer_name(row),
        "part": row["part"],
    }


def _layer_name(row: Row) -> str:
    """The ONNX nodes that a layer computes, or its own name if none is known."""
    return " + ".join(row["nodes"] or row["origins"]) or str(row["name"])


def _find_warnings(log: Row, limits: Limits) -> Iterator[str]:
    yield from _dtype_warnings(log)
    if log["uncounted"]:
        yield f"{', '.join(log['uncounted'])} are not counted in int8_mac_share"
    gpus = sorted(set(log["compute_capabilities"]))
    numbers = {_digits(name) for name in gpus}
    missing = [
        name
        for name in limits.compute_capabilities
        if _digits(name) not in numbers
    ]
    if gpus and missing:
        yield f"the engine was not built for {', '.join(missing)} (only {', '.join(gpus)})"
    needed = log["memory"].get("weights", 0) + log["memory"].get(
        "activation", 0
    )
    if limits.memory_bytes is not None and needed > limits.memory_bytes:
        yield (
            f"weights and activations need {needed} bytes, the device has "
            f"{limits.memory_bytes}"
        )


def _dtype_warnings(log: Row) -> Iterator[str]:
    """The products that do not run in the precision of the graph."""
    precision = log.get("precision") or (INT8 if log["quantized"] else "")
    if not precision:
        return
    promised = set(log.get("promised", ()))
    for row in log["layers"]:
        # In an int8 graph every product should run in int8; the other schemes quantize only
        # products with stored weights.
        is_expected = precision == INT8 or promised & set(row["nodes"])
        if not _is_compute(row) or not is_expected:
            continue
        if row["kind"] != "kernel" and _has_dtype(row, precision):
            continue
        actual = f"in {row['dtype']}"
        if row["kind"] == "kernel":
            actual = "inside a generated kernel"
        effect = ""
        if precision in _FOUR_BITS:
            effect = "; its weights are dequantized first, which saves no time"
        yield (
            f"{_layer_name(row)} ({row['kind']}) runs {actual} although the graph is "
            f"{DISPLAY_NAMES[precision]}{effect}"
        )


def _has_dtype(row: Row, precision: str) -> bool:
    """Whether data and weights have the datatype; only the weights for 4 bits."""
    if precision in _FOUR_BITS:
        return str(row["dtype"]).endswith(f"x{precision}")
    return bool(row["dtype"] == precision)


def _digits(capability: str) -> str:
    """``86`` for SM86, sm_86 and 8.6."""
    return "".join(character for character in capability if character.isdigit())
