"""Validates a worker's replies: the device may be broken, or another program may answer."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import RunnerError
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    from edgekit.arrays import Array, Feeds

_TENSOR_KEYS = frozenset(("name", "dtype", "shape", "quantization"))
#: The longest text in a worker's description of itself.
_LONGEST = 200


def to_printable(text: str, longest: int = _LONGEST) -> str:
    """Replace what a terminal would act on in a foreign text, and shorten it."""
    lines = text.replace("\r\n", "\n").replace("\t", " ")
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else "?"
        for letter in lines
    )
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def parse_hello(host: str, reply: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to ``hello``: texts, versions by package, and devices."""
    texts = [reply.get(key) for key in ("python", "machine", "system")]
    versions = reply.get("versions")
    if not all(map(_is_text, texts)) or not isinstance(versions, dict):
        raise _invalid(host, "hello", reply)
    if not all(map(_is_text, [*versions, *versions.values()])):
        raise _invalid(host, "hello", reply)
    devices = reply.get("devices", {})
    edge_tpus = (
        devices.get("edgetpu", []) if isinstance(devices, dict) else None
    )
    if not isinstance(edge_tpus, list) or not all(map(_is_text, edge_tpus)):
        raise _invalid(host, "hello", reply)
    return dict(reply)


def parse_stored(host: str, reply: Mapping[str, Any]) -> tuple[int, bool]:
    """The reply to ``have`` and ``put``: stored bytes, and whether the file is complete."""
    count = reply.get("bytes")
    complete = reply.get("complete")
    if type(count) is not int or count < 0 or not isinstance(complete, bool):
        raise _invalid(host, "have or put", reply)
    return count, complete


def parse_cleaned(host: str, reply: Mapping[str, Any]) -> tuple[int, int]:
    """The reply to ``clean``: the number of removed files, and their bytes."""
    files = reply.get("files")
    count = reply.get("bytes")
    if (
        type(files) is not int
        or type(count) is not int
        or min(files, count) < 0
    ):
        raise _invalid(host, "clean", reply)
    return files, count


def parse_loaded(
    host: str, reply: Mapping[str, Any]
) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """The reply to ``load``: the runtime, and the descriptions of inputs and outputs."""
    runtime = reply.get("runtime")
    inputs = reply.get("inputs")
    outputs = reply.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise _invalid(host, "load", reply)
    if not _is_text(runtime) or not all(map(_is_tensor, [*inputs, *outputs])):
        raise _invalid(host, "load", reply)
    return str(runtime), inputs, outputs


def parse_warm_up(host: str, reply: Mapping[str, Any]) -> float:
    """The reply to ``warm``: the expected duration of a round, in seconds."""
    expected = reply.get("round_ns")
    if not _is_time(expected):
        raise _invalid(host, "warm", reply)
    return float(expected) / 1e9  # type: ignore[arg-type]


def parse_times(
    host: str, reply: Mapping[str, Any], names: Sequence[str], rounds: int
) -> dict[str, tuple[float, ...]]:
    """The reply to ``bench``: nanoseconds, one number per round for every name."""
    times = reply.get("nanoseconds")
    if not isinstance(times, dict) or set(times) != set(names):
        raise _invalid(host, "bench", reply)
    for row in times.values():
        if (
            not isinstance(row, list)
            or len(row) != rounds
            or not all(map(_is_time, row))
        ):
            raise _invalid(host, "bench", reply)
    return {name: tuple(map(float, times[name])) for name in names}


def match_outputs(
    source: str, arrays: "Feeds", specs: Sequence[TensorSpec], samples: int
) -> "list[Array]":
    """The reply to ``infer``: one array per output, in the signature's order.

    Matched by name if the names are those of the signature, else by order. Raises
    RunnerError unless dtypes and shapes are those of the signature, for ``samples``
    samples.
    """
    names = [spec.name for spec in specs]
    if set(arrays) == set(names):
        ordered = [arrays[name] for name in names]
    else:
        ordered = list(arrays.values())
    if len(ordered) != len(specs):
        raise RunnerError(
            f"{source} returned {len(ordered)} outputs, expected {len(specs)}.",
            fix="build the artifact again",
        )
    for spec, array in zip(specs, ordered, strict=True):
        if not _fits(array, spec, samples):
            raise RunnerError(
                f"{source} returned {spec.name} as {array.dtype.name} {list(array.shape)}"
                f" for {samples} samples, expected {spec.dtype} {list(spec.dims)}.",
                fix="build the artifact again",
            )
    return ordered


def _fits(array: "Array", spec: TensorSpec, samples: int) -> bool:
    if array.ndim != len(spec.dims) or array.dtype != spec.dtype:
        return False
    if len(array) != samples:
        return False
    return all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(spec.dims[1:], array.shape[1:], strict=True)
    )


def largest_payload(
    specs: Sequence[TensorSpec], samples: int, default: int
) -> int:
    """The most bytes that the outputs for some samples can have, at 8 bytes per number.

    ``default`` if an output has a dimension that is not known in advance.
    """
    numbers = 0
    for spec in specs:
        sizes = [dim for dim in spec.dims[1:] if isinstance(dim, int)]
        if len(sizes) < len(spec.dims) - 1:
            return default
        numbers += math.prod(sizes)
    return 8 * samples * numbers


def _is_tensor(row: Any) -> bool:
    """Whether a value describes a tensor as ``runtimes.LoadedModel`` does."""
    if not isinstance(row, dict) or set(row) != _TENSOR_KEYS:
        return False
    if not isinstance(row["name"], str) or not isinstance(row["dtype"], str):
        return False
    return _is_shape(row["shape"]) and _is_quantization(row["quantization"])


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(dim is None or type(dim) is int for dim in value)


def _is_quantization(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, list) or len(value) != 2:
        return False
    return isinstance(value[0], float) and type(value[1]) is int


def _is_text(value: Any) -> bool:
    return (
        isinstance(value, str)
        and value.isprintable()
        and len(value) <= _LONGEST
    )


def _is_time(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, float | int):
        return False
    return math.isfinite(value) and value >= 0


def _invalid(host: str, command: str, reply: Mapping[str, Any]) -> RunnerError:
    return RunnerError(
        f"Invalid reply to {command!r} from {host}: {to_printable(repr(dict(reply)))}.",
        fix=f"check which program replies there: edgekit hosts check {host}",
    )
