"""What trtexec wrote on a device, read back: times, the layers' datatypes, and the outputs
for the bundle's first sample.

The formats are those of a copy of trtexec's open source, of unknown release
(samples/common/sampleReporting.cpp: exportJSONTrace, exportJSONOutput) and of the engine
inspector as NVIDIA documents it for 10.x ("Bindings", "Format/Datatype") and 11.x ("I/O
Tensors", the two split). No file of a device was at hand: the tests' files are written
after these formats.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.checks.statistics import median_interval
from edgekit.errors import RunnerError
from edgekit.formats.tensorrt.trtexec import LAYERS, OUTPUTS, TIMES
from edgekit.measurement import Measurement, unmeasured

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: The longest file that is read.
_LARGEST = 256 << 20
_FIX = (
    "run the lines of the recipe's 'trtexec' on the device again, and copy the files whole"
)
#: The layers that multiply and add, by the words of LayerType and of Myelin's layer names.
_COMPUTE = re.compile(
    r"conv|gemm|matrixmultiply|matmul|correlation|fullyconnected", re.IGNORECASE
)
#: Words of a datatype in any of the formats -> one word. The first that is found counts.
_WORDS = (
    ("Int8", r"\bint8\b"),
    ("FP8", r"\bfp8\b|e4m3"),
    ("Int4", r"\bint4\b"),
    ("BFloat16", r"\bbf16\b|bfloat16"),
    ("Half", r"\bfp16\b|\bhalf\b"),
    ("Float", r"\bfp32\b|\bfloat\b"),
)
#: C++ writes these where a network gives them; they are no JSON, and Python's reader takes
#: other words.
_NOT_FINITE = re.compile(r"(?<=[\s\[,])(-?)(nan|inf)(?=[\s\],])")


@dataclasses.dataclass(frozen=True, eq=False)
class Returned:
    """What a device brought back of one part."""

    #: GPU compute time of every query in milliseconds.
    times: "Array"
    #: ``name``, ``type``, ``dtype`` and ``metadata`` of every layer that multiplies.
    layers: Sequence[Mapping[str, Any]]
    #: The outputs for the raw inputs of the bundle, in the file's own layout; None where
    #: they were not asked for.
    outputs: "Mapping[str, Array] | None"


def read(folder: pathlib.Path, parts: Mapping[str, bool]) -> dict[str, Returned]:
    """What ``<part>.layers.json``, ``<part>.times.json`` and, for a part that is True,
    ``<part>.out.json`` tell, by part.

    Raises one RunnerError that lists every file that is missing or cannot be read.
    """
    problems: list[str] = []
    found = {}
    for part, answers in parts.items():
        layers = _checked(
            _loaded(folder / f"{part}.{LAYERS}", problems),
            _layers,
            f"{part}.{LAYERS}",
            problems,
        )
        times = _checked(
            _loaded(folder / f"{part}.{TIMES}", problems),
            _times,
            f"{part}.{TIMES}",
            problems,
        )
        outputs = (
            _checked(
                _loaded(folder / f"{part}.{OUTPUTS}", problems),
                _outputs,
                f"{part}.{OUTPUTS}",
                problems,
            )
            if answers
            else None
        )
        found[part] = Returned(times, layers, outputs)
    if problems:
        raise RunnerError(
            "The device's files cannot be read:\n  " + "\n  ".join(problems), fix=_FIX
        )
    return found


def measured(found: Mapping[str, Returned], where: str) -> list[Measurement]:
    """``latency_ms`` and ``int8_mac_share`` of all parts together; parts that were timed
    one by one make no latency of the whole.
    """
    if len(found) == 1:
        (alone,) = found.values()
        latency = _latency(alone.times, where)
    else:
        each = ", ".join(
            f"{part} {numpy.median(row.times):.4g} ms" for part, row in found.items()
        )
        latency = unmeasured(
            "latency_ms", "ms", where, f"the parts were timed one by one: {each}"
        )
    return [
        latency,
        _int8_share([layer for row in found.values() for layer in row.layers], where),
    ]


def _loaded(path: pathlib.Path, problems: list[str]) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        return json.loads(_NOT_FINITE.sub(_as_json, path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        problems.append(f"{path.name}: there is no such file in {path.parent}")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: it is no JSON: {error}")
    return None


def _as_json(found: "re.Match[str]") -> str:
    return "NaN" if found[2] == "nan" else f"{found[1]}Infinity"


def _checked(content: Any, reader: Any, name: str, problems: list[str]) -> Any:
    if content is None:
        return None
    try:
        return reader(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        problems.append(
            f"{name}: {error if isinstance(error, ValueError) else f'it is not what trtexec writes: {type(error).__name__}: {error}'}"
        )
    return None


def _times(content: Any) -> "Array":
    """GPU compute time of every query in milliseconds."""
    values = numpy.asarray([row["computeMs"] for row in content], dtype="float64")
    if not len(values) or not numpy.isfinite(values).all() or values.min() <= 0:
        raise ValueError("it has no queries, or times that are not above 0")
    return values


def _layers(content: Any) -> list[dict[str, Any]]:
    """name, type and datatype of every layer that multiplies."""
    rows = content["Layers"]
    if not rows or any(isinstance(row, str) for row in rows):
        raise ValueError(
            "it holds the layers' names alone; build with --profilingVerbosity=detailed"
        )
    found = []
    for row in rows:
        kind = str(row.get("LayerType", ""))
        if _COMPUTE.search(kind) or re.match(
            r"_gemm|__myl_(Fc|Corr|Dot|Gemm|MatMul)", row["Name"]
        ):
            found.append(
                {
                    "name": row["Name"],
                    "type": kind,
                    "dtype": _datatype(row),
                    "metadata": row.get("Metadata", ""),
                }
            )
    return found


def _datatype(row: Mapping[str, Any]) -> str:
    """``Int8``, or ``Int8xHalf`` where data and weights differ; ``?`` where the file does
    not say.
    """
    tensors = [
        _word(
            " ".join(
                str(tensor.get(key, ""))
                for key in ("Datatype", "DataType", "Format/Datatype")
            )
        )
        for tensor in row.get("Inputs", [])
    ]
    weights = (
        _word(str(row["Weights"].get("Type", "")))
        if isinstance(row.get("Weights"), Mapping)
        else None
    )
    constants = [
        _word(str(tensor.get("Datatype", tensor.get("DataType", ""))))
        for tensor in row.get("Constants", [])
        if _is_weight(tensor)
    ]
    data = tensors[0] if tensors else "?"
    other = weights or (constants[:1] or tensors[1:2] or [data])[0]
    return data if data == other else f"{data}x{other}"


def _is_weight(tensor: Mapping[str, Any]) -> bool:
    return sum(int(dim) > 1 for dim in tensor.get("Dimensions", [])) > 1


def _word(text: str) -> str:
    return next(
        (word for word, pattern in _WORDS if re.search(pattern, text, re.IGNORECASE)), "?"
    )


def _outputs(content: Any) -> "dict[str, Array]":
    found = {}
    for row in content:
        shape = [int(dim) for dim in str(row["dimensions"]).split("x") if dim]
        values = numpy.asarray(row["values"], dtype="float64")
        if values.size != math.prod(shape):
            raise ValueError(
                f"{row['name']} has {values.size} values for the dimensions {row['dimensions']}"
            )
        found[row["name"]] = values.reshape(shape)
    return found


def _latency(values: "Array", where: str) -> Measurement:
    interval = median_interval(values)
    if interval is None:
        return unmeasured(
            "latency_ms", "ms", where, "an interval of the median needs 6 queries or more"
        )
    how = "median over queries of the GPU compute time between two CUDA events (trtexec --exportTimes), batch 1; order-statistic interval"
    return Measurement(
        name="latency_ms",
        value=float(numpy.median(values)),
        low=interval[0],
        high=interval[1],
        unit="ms",
        n=len(values),
        where=where,
        how=how,
    )


def _int8_share(rows: Sequence[Mapping[str, Any]], where: str) -> Measurement:
    unknown = [row["name"] for row in rows if "?" in row["dtype"]]
    if not rows or unknown:
        why = (
            f"the datatypes of {', '.join(unknown)} are not told"
            if unknown
            else "the engine's layers hold no convolution and no matrix product"
        )
        return unmeasured("int8_mac_share", "share", where, why)
    integer = sum(row["dtype"] == "Int8" for row in rows)
    by_dtype: dict[str, int] = {}
    for row in rows:
        by_dtype[row["dtype"]] = by_dtype.get(row["dtype"], 0) + 1
    how = "layers (not multiply-accumulates) with int8 data and weights among those that multiply, by the engine inspector (trtexec --exportLayerInfo)"
    detail = {
        "int8": integer,
        "all": len(rows),
        "by_dtype": by_dtype,
        "not_int8": [row["name"] for row in rows if row["dtype"] != "Int8"],
    }
    return Measurement(
        name="int8_mac_share",
        value=integer / len(rows),
        unit="share",
        n=len(rows),
        where=where,
        how=how,
        detail=detail,
    )
