"""What a worker answers, read with care: a device may be broken, or something else may
answer in its place.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import RunnerError
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

_ROW = frozenset(("name", "dtype", "shape", "quantization"))
#: No text that a worker tells of itself is longer.
_LONGEST = 200


def plain(text: str, longest: int = _LONGEST) -> str:
    """A text from elsewhere without anything that a terminal would act on."""
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else "?"
        for letter in text.replace("\r\n", "\n").replace("\t", " ")
    )
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def greeting(host: str, reply: Mapping[str, Any]) -> dict[str, Any]:
    """``hello``: texts, and the versions by package."""
    texts = {key: reply.get(key) for key in ("python", "machine", "system")}
    versions = reply.get("versions")
    if (
        not all(_text(text) for text in texts.values())
        or not isinstance(versions, dict)
        or not all(map(_text, [*versions, *versions.values()]))
    ):
        raise _wrong(host, "hello", reply)
    devices = reply.get("devices", {})
    sticks = devices.get("edgetpu", []) if isinstance(devices, dict) else None
    if not isinstance(sticks, list) or not all(map(_text, sticks)):
        raise _wrong(host, "hello", reply)
    return dict(reply)


def stored(host: str, reply: Mapping[str, Any]) -> tuple[int, bool]:
    """``have`` and ``put``: how many bytes are there, and whether the file is whole."""
    count, whole = reply.get("bytes"), reply.get("complete")
    if type(count) is not int or count < 0 or not isinstance(whole, bool):
        raise _wrong(host, "have or put", reply)
    return count, whole


def loaded(
    host: str, reply: Mapping[str, Any]
) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """``load``: the runtime, and the rows of the file's inputs and outputs."""
    runtime, inputs, outputs = (reply.get(key) for key in ("runtime", "inputs", "outputs"))
    if (
        not _text(runtime)
        or not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or not all(_row(row) for row in [*inputs, *outputs])
    ):
        raise _wrong(host, "load", reply)
    return str(runtime), inputs, outputs


def warmed(host: str, reply: Mapping[str, Any]) -> float:
    """``warm``: how many seconds a round will take."""
    expected = reply.get("round_ns")
    if not _time(expected):
        raise _wrong(host, "warm", reply)
    return float(expected) / 1e9  # type: ignore[arg-type]


def timed(
    host: str, reply: Mapping[str, Any], names: Sequence[str], rounds: int
) -> dict[str, tuple[float, ...]]:
    """``bench``: one time a round for every name."""
    times = reply.get("nanoseconds")
    if not isinstance(times, dict) or set(times) != set(names):
        raise _wrong(host, "bench", reply)
    if not all(
        isinstance(row, list) and len(row) == rounds and all(map(_time, row))
        for row in times.values()
    ):
        raise _wrong(host, "bench", reply)
    return {name: tuple(map(float, times[name])) for name in names}


def outputs(
    host: str, given: "Feeds", specs: Sequence[TensorSpec], samples: int
) -> "list[Array]":
    """``infer``: one array for each output, in the signature's order, with its dtype, its
    shape and a row a sample.
    """
    wanted = {spec.name for spec in specs}
    ordered = (
        list(given.values())
        if set(given) != wanted
        else [given[spec.name] for spec in specs]
    )
    if len(ordered) != len(specs):
        raise RunnerError(
            f"{host} gave {len(ordered)} outputs where the signature has {len(specs)}.",
            fix="build the artifact again",
        )
    for spec, array in zip(specs, ordered, strict=True):
        dims = spec.dims[1:]
        fits = array.ndim == len(spec.dims) and all(
            isinstance(dim, str) or dim == size
            for dim, size in zip(dims, array.shape[1:], strict=True)
        )
        if not fits or len(array) != samples or array.dtype != spec.dtype:
            told = f"{array.dtype.name} {list(array.shape)} for {samples} samples; its signature says {spec.dtype} {list(spec.dims)}"
            raise RunnerError(
                f"{host} gave {spec.name} as {told}.", fix="build the artifact again"
            )
    return ordered


def largest(specs: Sequence[TensorSpec], samples: int, otherwise: int) -> int:
    """The most bytes that the outputs for some samples can have; ``otherwise`` where a dim
    is not known before.
    """
    if any(isinstance(dim, str) for spec in specs for dim in spec.dims[1:]):
        return otherwise
    return sum(
        8 * samples * math.prod(dim for dim in spec.dims[1:] if isinstance(dim, int))
        for spec in specs
    )


def _row(row: Any) -> bool:
    if (
        not isinstance(row, dict)
        or set(row) != _ROW
        or not isinstance(row["name"], str)
        or not isinstance(row["dtype"], str)
    ):
        return False
    shape, scales = row["shape"], row["quantization"]
    if not isinstance(shape, list) or not all(
        dim is None or type(dim) is int for dim in shape
    ):
        return False
    if scales is None:
        return True
    return (
        isinstance(scales, list)
        and len(scales) == 2
        and isinstance(scales[0], float)
        and type(scales[1]) is int
    )


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST


def _time(value: Any) -> bool:
    return (
        isinstance(value, float | int)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _wrong(host: str, command: str, reply: Mapping[str, Any]) -> RunnerError:
    told = plain(repr(dict(reply)))
    return RunnerError(
        f"{host} gave an answer to {command!r} that does not make sense: {told}.",
        fix=f"check what answers there: edgekit hosts check {host}",
    )
