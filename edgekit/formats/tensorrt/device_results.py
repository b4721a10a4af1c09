"""What trtexec wrote on a device: times, the layers' datatypes, and the outputs for the
bundle's first sample.

The formats are those of a copy of trtexec's open source, of unknown release
(samples/common/sampleReporting.cpp: exportJSONTrace, exportJSONOutput) and of the engine
inspector as NVIDIA documents it for 10.x ("Bindings", "Format/Datatype") and 11.x ("I/O
Tensors", the two split). No file of a device was available: the tests' files are written
after these formats.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy

from edgekit.checks.statistics import median_interval
from edgekit.errors import RunnerError
from edgekit.formats.tensorrt.trtexec import LAYERS, OUTPUTS, TIMES
from edgekit.measurement import Measurement, unmeasured

if TYPE_CHECKING:
    from edgekit.arrays import Array

T = TypeVar("T")

#: Larger files are not read.
_MAX_BYTES = 256 << 20
_FIX = "run the lines of the recipe's 'trtexec' on the device again, and copy the complete files"
#: The layers that multiply and add, by LayerType and by Myelin's layer names.
_COMPUTE_TYPE = re.compile(
    r"conv|gemm|matrixmultiply|matmul|correlation|fullyconnected", re.IGNORECASE
)
_COMPUTE_NAME = re.compile(r"_gemm|__myl_(Fc|Corr|Dot|Gemm|MatMul)")
#: One name for a datatype in any of the formats. The first pattern that matches counts.
_DTYPES = (
    ("Int8", r"\bint8\b"),
    ("FP8", r"\bfp8\b|e4m3"),
    ("Int4", r"\bint4\b"),
    ("BFloat16", r"\bbf16\b|bfloat16"),
    ("Half", r"\bfp16\b|\bhalf\b"),
    ("Float", r"\bfp32\b|\bfloat\b"),
)
#: What C++ writes for such outputs of a network: not valid JSON, and Python's parser accepts
#: other words.
_NOT_FINITE = re.compile(r"(?<=[\s\[,])(-?)(nan|inf)(?=[\s\],])")


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceResults:
    """What a device returned for one part."""

    #: GPU compute time of every query in milliseconds, (queries,).
    times: "Array"
    #: ``name``, ``type``, ``dtype`` and ``metadata`` of every layer that multiplies.
    layers: Sequence[Mapping[str, Any]]
    #: The outputs for the raw inputs of the bundle, in the file's own layout; None if they
    #: were not requested.
    outputs: "Mapping[str, Array] | None"


def read(
    folder: pathlib.Path, parts: Mapping[str, bool]
) -> dict[str, DeviceResults]:
    """Read ``<part>.layers.json`` and ``<part>.times.json`` of every part.

    ``parts``: part -> whether to read its outputs, ``<part>.out.json``, too. Raises one
    RunnerError that lists every file that is missing or cannot be read.
    """
    problems: list[str] = []
    results = {}
    for part, has_outputs in parts.items():
        layers = _read_file(
            folder / f"{part}.{LAYERS}", _parse_layers, problems
        )
        times = _read_file(folder / f"{part}.{TIMES}", _parse_times, problems)
        outputs = None
        if has_outputs:
            outputs = _read_file(
                folder / f"{part}.{OUTPUTS}", _parse_outputs, problems
            )
        if layers is not None and times is not None:
            results[part] = DeviceResults(times, layers, outputs)
    if problems:
        rows = "\n  ".join(problems)
        raise RunnerError(
            f"The device's files cannot be read:\n  {rows}", fix=_FIX
        )
    return results


def measure(
    results: Mapping[str, DeviceResults], where: str
) -> list[Measurement]:
    """``latency_ms`` and ``int8_mac_share`` of all parts together.

    The latency of several parts is unmeasured, because they were timed one by one.
    """
    if len(results) == 1:
        latency = _measure_latency(next(iter(results.values())).times, where)
    else:
        times = ", ".join(
            f"{part} {numpy.median(result.times):.4g} ms"
            for part, result in results.items()
        )
        reason = f"the parts were timed one by one: {times}"
        latency = unmeasured("latency_ms", "ms", where, reason)
    layers = [layer for result in results.values() for layer in result.layers]
    return [latency, _measure_int8_share(layers, where)]


def _read_file(
    path: pathlib.Path, parse: Callable[[Any], T], problems: list[str]
) -> T | None:
    """The parsed content of a JSON file; None, and a line in ``problems``, if invalid."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        content = json.loads(_NOT_FINITE.sub(_to_json, text))
    except FileNotFoundError:
        problems.append(f"{path.name}: there is no such file in {path.parent}")
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: invalid JSON: {error}")
        return None
    try:
        return parse(content)
    except ValueError as error:
        problems.append(f"{path.name}: {error}")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"{type(error).__name__}: {error}"
        problems.append(
            f"{path.name}: it is not what trtexec writes: {message}"
        )
    return None


def _to_json(match: "re.Match[str]") -> str:
    return "NaN" if match[2] == "nan" else f"{match[1]}Infinity"


def _parse_times(content: Any) -> "Array":
    """GPU compute time of every query in milliseconds."""
    times = numpy.asarray(
        [row["computeMs"] for row in content], dtype="float64"
    )
    if not len(times) or not numpy.isfinite(times).all() or times.min() <= 0:
        raise ValueError("it has no queries, or times that are not above 0")
    return times


def _parse_layers(content: Any) -> list[dict[str, Any]]:
    """name, type, datatype and metadata of every layer that multiplies."""
    rows = content["Layers"]
    if not rows or any(isinstance(row, str) for row in rows):
        raise ValueError(
            "it contains only the layers' names; build with --profilingVerbosity=detailed"
        )
    layers = []
    for row in rows:
        kind = str(row.get("LayerType", ""))
        if not _COMPUTE_TYPE.search(kind) and not _COMPUTE_NAME.match(
            row["Name"]
        ):
            continue
        layers.append(
            {
                "name": row["Name"],
                "type": kind,
                "dtype": _layer_dtype(row),
                "metadata": row.get("Metadata", ""),
            }
        )
    return layers


def _layer_dtype(row: Mapping[str, Any]) -> str:
    """``Int8``, or ``Int8xHalf`` if those of data and weights differ; ``?`` if unknown."""
    tensors = [_tensor_dtype(tensor) for tensor in row.get("Inputs", [])]
    data = tensors[0] if tensors else "?"
    constants = [
        _tensor_dtype(tensor)
        for tensor in row.get("Constants", [])
        if _is_weight(tensor)
    ]
    candidates = [*constants[:1], *tensors[1:2], data]
    if isinstance(row.get("Weights"), Mapping):
        candidates.insert(
            0, _normalize_dtype(str(row["Weights"].get("Type", "")))
        )
    return data if data == candidates[0] else f"{data}x{candidates[0]}"


def _tensor_dtype(tensor: Mapping[str, Any]) -> str:
    keys = ("Datatype", "DataType", "Format/Datatype")
    return _normalize_dtype(" ".join(str(tensor.get(key, "")) for key in keys))


def _is_weight(tensor: Mapping[str, Any]) -> bool:
    """Whether a constant has more than one axis; a bias or a scale has one."""
    return sum(int(dim) > 1 for dim in tensor.get("Dimensions", [])) > 1


def _normalize_dtype(text: str) -> str:
    for name, pattern in _DTYPES:
        if re.search(pattern, text, re.IGNORECASE):
            return name
    return "?"


def _parse_outputs(content: Any) -> "dict[str, Array]":
    """The outputs by name, in the file's own layout."""
    outputs = {}
    for row in content:
        name, dimensions = row["name"], row["dimensions"]
        shape = [int(dim) for dim in str(dimensions).split("x") if dim]
        values = numpy.asarray(row["values"], dtype="float64")
        if values.size != math.prod(shape):
            raise ValueError(
                f"{name} has {values.size} values for dimensions {dimensions}"
            )
        outputs[name] = values.reshape(shape)
    return outputs


def _measure_latency(times: "Array", where: str) -> Measurement:
    interval = median_interval(times)
    if interval is None:
        reason = "an interval of the median requires 6 queries or more"
        return unmeasured("latency_ms", "ms", where, reason)
    return Measurement(
        name="latency_ms",
        value=float(numpy.median(times)),
        low=interval[0],
        high=interval[1],
        unit="ms",
        n=len(times),
        where=where,
        how=(
            "median over queries of the GPU compute time between two CUDA events (trtexec "
            "--exportTimes), batch 1; order-statistic interval"
        ),
    )


def _measure_int8_share(
    layers: Sequence[Mapping[str, Any]], where: str
) -> Measurement:
    unknown = [row["name"] for row in layers if "?" in row["dtype"]]
    reason = ""
    if unknown:
        reason = f"the datatypes of {', '.join(unknown)} are not reported"
    elif not layers:
        reason = "the engine's layers have no convolution and no matrix product"
    if reason:
        return unmeasured("int8_mac_share", "share", where, reason)
    by_dtype = Counter(row["dtype"] for row in layers)
    return Measurement(
        name="int8_mac_share",
        value=by_dtype["Int8"] / len(layers),
        unit="share",
        n=len(layers),
        where=where,
        how=(
            "layers (not multiply-accumulates) with int8 data and weights among those that "
            "multiply, according to the engine inspector (trtexec --exportLayerInfo)"
        ),
        detail={
            "int8": by_dtype["Int8"],
            "all": len(layers),
            "by_dtype": dict(by_dtype),
            "not_int8": [
                row["name"] for row in layers if row["dtype"] != "Int8"
            ],
        },
    )
