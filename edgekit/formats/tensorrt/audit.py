"""What a TensorRT engine will execute, read from the build log that lies beside it; no GPU
is needed.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.artifact import MAIN, Artifact, File, Part
from edgekit.contracts import Audit
from edgekit.errors import EdgekitError, RunnerError
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits

Row = Mapping[str, Any]

#: The kinds of layers that multiply and add. kernel: a generated kernel that took a product
#: in.
_COMPUTE = ("conv", "deconv", "gemm", "kernel")
INT8 = "Int8"
#: TensorRT's words for what a graph is quantized to, in the user's.
_WORDS = {
    INT8: "int8",
    "FP8": "fp8",
    "Int4": "in 4-bit weights",
    "FP4": "in 4-bit float weights",
}


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """How much of the arithmetic runs in int8, which layers are left in float, and what
    transposes.
    """
    if all("recipe" in part.files for part in artifact.parts):
        return _not_built(artifact)
    logs = {part.name: _log(artifact, part) for part in artifact.parts}
    rows = [{**row, "part": name} for name, log in logs.items() for row in log["layers"]]
    where = "; ".join(dict.fromkeys(_where(log) for log in logs.values()))
    measurements = [
        _int8_share(rows, where),
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
            "layers of the build log that move axes (fused kernels count too)",
        ),
    ]
    return Audit(
        measurements,
        [_row(row) for row in rows],
        [text for name, log in logs.items() for text in _warnings(name, log, limits)],
    )


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """Audit one engine by its build log, ``<name>.log.json`` in the same folder.

    Raises:
        EdgekitError: there is no build log.
    """
    log = path.with_suffix(".log.json")
    if not log.is_file():
        raise EdgekitError(
            f"There is no {log.name} next to {path}.",
            fix="name an engine that edgekit built; an engine alone does not report its datatypes",
        )
    # The audit does not read the signature.
    unknown = TensorSpec(name="unknown", dtype="float32", dims=())
    signature = Signature(inputs=(unknown,), outputs=(unknown,))
    files = {"engine": File(path=path.name), "log": File(path=log.name)}
    part = Part(name=MAIN, signature=signature, files=files)
    return audit(Artifact(format="tensorrt", parts=(part,), folder=path.parent), limits)


def _not_built(artifact: Artifact) -> Audit:
    """The audit of a recipe: which layers run in int8 is known where the engine is built."""
    recipes = [_recipe(artifact, part) for part in artifact.parts]
    names = dict.fromkeys(
        name for recipe in recipes for name in recipe["compute_capabilities"]
    )
    where = f"recipe for {', '.join(names) or 'any GPU'}, built on the device"
    why = "the engine is built on the device, and edgekit reads there which layers run in int8 (edgekit/formats/tensorrt/device_results.py)"
    rows: tuple[tuple[MeasurementName, str], ...] = (
        ("int8_mac_share", "share"),
        ("float_ops", "layers"),
        ("transposes", "layers"),
    )
    warnings = [
        f"{part.name}: {text}"
        for part, recipe in zip(artifact.parts, recipes, strict=True)
        for text in recipe["warnings"]
    ]
    return Audit([unmeasured(name, unit, where, why) for name, unit in rows], [], warnings)


def _recipe(artifact: Artifact, part: Part) -> dict[str, Any]:
    path = artifact.path(part, "recipe")
    try:
        recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("compute_capabilities", "warnings", "promised"):
            recipe[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunnerError(
            f"The recipe {path.name} cannot be read: {error}",
            fix="build the artifact again",
        ) from error
    return recipe


def _log(artifact: Artifact, part: Part) -> dict[str, Any]:
    if "log" not in part.files:
        raise RunnerError(
            f"The engine of {part.name!r} has no build log.",
            fix="build it with edgekit; an engine alone does not tell its datatypes",
        )
    path = artifact.path(part, "log")
    try:
        log: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in (
            "layers",
            "module",
            "version",
            "compute_capabilities",
            "memory",
            "quantized",
            "uncounted",
        ):
            log[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunnerError(
            f"The build log {path.name} cannot be read: {error}",
            fix="build the engine again",
        ) from error
    return log


def _where(log: Row) -> str:
    return f"{log['module']} {log['version']}, built for {', '.join(log['compute_capabilities']) or 'its own choice of GPUs'}, not run"


def _is_compute(row: Row) -> bool:
    return str(row["kind"]) in _COMPUTE


def _is_int8(row: Row) -> bool:
    """True where data and weights are both int8.

    A generated kernel converts to float inside, whatever it reads.
    """
    return bool(row["kind"] != "kernel" and row["dtype"] == INT8)


def _is_float(row: Row) -> bool:
    return (
        _is_compute(row)
        and not _is_int8(row)
        and (
            row["kind"] == "kernel"
            or any(word in row["dtype"] for word in ("Float", "Half"))
        )
    )


def _int8_share(rows: Iterable[Row], where: str) -> Measurement:
    """Share of multiply-accumulates in layers whose data and weights are int8."""
    compute = [row for row in rows if _is_compute(row)]
    if not compute:
        return unmeasured(
            "int8_mac_share",
            "share",
            where,
            "the build log has no convolution and no matrix product",
        )
    counted = all(row["macs"] for row in compute)
    total = sum(row["macs"] if counted else 1 for row in compute)
    integer = sum(row["macs"] if counted else 1 for row in compute if _is_int8(row))
    what = (
        "multiply-accumulates at batch 1 (ONNX shapes)"
        if counted
        else "layers (the multiply-accumulates of some are unknown)"
    )
    by_dtype: dict[str, int] = {}
    for row in compute:
        by_dtype[row["dtype"]] = by_dtype.get(row["dtype"], 0) + (
            row["macs"] if counted else 1
        )
    how = f"{what} in conv, deconv and gemm layers with int8 data and weights, by the build log"
    detail = {"int8": integer, "all": total, "by_dtype": by_dtype}
    return Measurement(
        name="int8_mac_share",
        value=integer / total,
        unit="share",
        n=len(compute),
        where=where,
        how=how,
        detail=detail,
    )


def _count(name: Any, rows: list[dict[str, Any]], where: str, how: str) -> Measurement:
    return Measurement(
        name=name,
        value=len(rows),
        unit="layers",
        where=where,
        how=how,
        detail={"layers": [_module(row) for row in rows]},
    )


def _row(row: Row) -> dict[str, Any]:
    return {
        "op": row["kind"] or row["type"],
        "name": row["name"],
        "dtype": row["dtype"],
        "macs": row["macs"],
        "module": _module(row),
        "part": row["part"],
    }


def _module(row: Row) -> str:
    """The ONNX nodes behind a layer; its own name where none is known."""
    return " + ".join(row["nodes"] or row["origins"]) or str(row["name"])


def _warnings(name: str, log: Row, limits: Limits) -> Iterable[str]:
    wanted, promised = (
        log.get("precision") or (INT8 if log["quantized"] else ""),
        set(log.get("promised", ())),
    )
    for row in log["layers"]:
        # In an int8 graph every product is wanted in int8; the other schemes round the
        # products with stored weights only.
        meant = (
            wanted and _is_compute(row) and (wanted == INT8 or promised & set(row["nodes"]))
        )
        if meant and (row["kind"] == "kernel" or not _has(row, wanted)):
            what = (
                "inside a generated kernel"
                if row["kind"] == "kernel"
                else f"in {row['dtype']}"
            )
            slow = (
                "; its weights are made float first, which saves no time"
                if wanted in ("Int4", "FP4")
                else ""
            )
            yield f"{name}: {_module(row)} ({row['kind']}) runs {what} although the graph is {_WORDS[wanted]}{slow}"
    if log["uncounted"]:
        yield f"{name}: {', '.join(log['uncounted'])} are not counted in int8_mac_share"
    built = set(log["compute_capabilities"])
    missing = [
        wanted
        for wanted in limits.compute_capabilities
        if built and _digits(wanted) not in {_digits(have) for have in built}
    ]
    if missing:
        yield f"{name}: the engine was not built for {', '.join(missing)} (only {', '.join(sorted(built))})"
    needed = log["memory"].get("weights", 0) + log["memory"].get("activation", 0)
    if limits.memory_bytes is not None and needed > limits.memory_bytes:
        yield f"{name}: weights and activations take {needed} bytes, the device has {limits.memory_bytes}"


def _has(row: Row, wanted: str) -> bool:
    """Data and weights of the datatype; of 4 bits the weights alone."""
    return bool(
        row["dtype"].endswith(f"x{wanted}")
        if wanted in ("Int4", "FP4")
        else row["dtype"] == wanted
    )


def _digits(capability: str) -> str:
    """``86`` for SM86, sm_86 and 8.6."""
    return "".join(character for character in capability if character.isdigit())
