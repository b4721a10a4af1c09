"""Converts a task's real arrays to a file's inputs, and a file's outputs to real arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import numpy
import numpy.typing

Array = numpy.typing.NDArray[Any]
#: One inference on fixed arrays; returns the outputs in the file's order.
Call = Callable[[], list[Array]]
#: The header of a frame and the arrays that follow it.
Reply = tuple[dict[str, Any], dict[str, Array]]
#: Scale and zero point: real = scale * (stored - zero_point)  (Jacob et al. 2018, eq. 1).
Affine = Optional[tuple[float, int]]  # noqa: UP045 (Python 3.9)
Axes = Optional[Sequence[int]]  # noqa: UP045 (Python 3.9)

_ITEMSIZES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int64", "uint64", "float64", "double"), 8),
}


def encode(array: Array, dtype: str, axes: Axes, affine: Affine) -> Array:
    """Transpose and quantize a real array as the file expects it.

    ``axes``: the file's axis k is the task's axis ``axes[k]``; None: the same order.
    ``affine``: scale and zero point of the integers in the file; None: not quantized.
    """
    if axes is not None:
        array = numpy.transpose(array, axes)
    if affine is not None:
        scale, zero_point = affine
        info = numpy.iinfo(dtype)
        array = numpy.clip(
            numpy.rint(array / scale) + zero_point, info.min, info.max
        )
    return numpy.ascontiguousarray(array, dtype=dtype)


def decode(array: Array, axes: Axes, affine: Affine) -> Array:
    """Dequantize a file's output and transpose it to the task's axes; float16 becomes
    float32.
    """
    if affine is not None:
        scale, zero_point = affine
        array = (array.astype("float32") - zero_point) * numpy.float32(scale)
    elif array.dtype == numpy.float16:
        array = array.astype("float32")
    return (
        array if axes is None else numpy.transpose(array, numpy.argsort(axes))
    )


def itemsize(dtype: str) -> int:
    """Return the bytes of one element of a dtype, named as in NumPy, ONNX or TFLite.

    4 for names that are not listed.
    """
    return _ITEMSIZES.get(dtype, 4)


def affine_of(spec: Mapping[str, Any]) -> Affine:
    """The scale and zero point of a tensor of a manifest; None if it is float."""
    quantization = spec["quantization"]
    if quantization is None:
        return None
    return quantization["scale"], quantization["zero_point"]


def decode_outputs(
    raw: dict[str, Array], specs: list[dict[str, Any]]
) -> dict[str, Array]:
    """Match outputs by name if the names are those of the signature, else by order."""
    names = [spec["name"] for spec in specs]
    ordered = (
        [raw[name] for name in names]
        if set(raw) == set(names)
        else raw.values()
    )
    return {
        spec["name"]: decode(array, spec["axes"], affine_of(spec))
        for spec, array in zip(specs, ordered)
    }
