"""A task's real arrays as a file takes them, and a file's outputs as real numbers again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Axes = Sequence[int] | None
    #: Scale and zero point: real = scale * (stored - zero_point)  (Jacob et al. 2018, eq.
    #: 1).
    Affine = tuple[float, int] | None


def encode(array: Array, dtype: str, axes: Axes, affine: Affine) -> Array:
    """Axes in the file's order (its axis k is the task's axis axes[k]), quantized where the
    file is, in its dtype.
    """
    if axes is not None:
        array = numpy.transpose(array, axes)
    if affine is not None:
        info = numpy.iinfo(dtype)
        array = numpy.clip(numpy.rint(array / affine[0]) + affine[1], info.min, info.max)
    return numpy.ascontiguousarray(array, dtype=dtype)


def decode(array: Array, axes: Axes, affine: Affine) -> Array:
    """A file's output as real numbers, axes in the task's order."""
    if affine is not None:
        array = (array.astype("float32") - affine[1]) * numpy.float32(affine[0])
    elif array.dtype == numpy.float16:
        array = array.astype("float32")
    return array if axes is None else numpy.transpose(array, numpy.argsort(axes))
