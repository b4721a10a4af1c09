"""Samples in slices: how any number of samples goes through a file with a fixed or a free
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy

from .frames import WorkerError

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: A file with a free batch is run on at most this many samples at once.
LARGEST_SLICE = 256


def slices(count: int, batch: int | None) -> list[tuple[int, int, int]]:
    """How ``count`` samples are cut: (start, stop, samples to add so that a fixed batch is
    full).
    """
    width = LARGEST_SLICE if batch is None else batch
    cuts = [(start, min(start + width, count)) for start in range(0, count, width)]
    return [
        (start, stop, 0 if batch is None else batch - (stop - start))
        for start, stop in cuts
    ]


def in_slices(
    arrays: dict[str, Array],
    batch: int | None,
    call: Callable[[dict[str, Array]], dict[str, Array]],
) -> dict[str, Array]:
    """Run ``call`` on slices of the samples and join what it gives.

    A fixed batch that is not full is filled with copies of the last sample, whose outputs
    are dropped. Raises WorkerError where an input or output has no row for each sample.
    """
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if (
        len(counts) < len(arrays)
        or len(set(counts.values())) != 1
        or not all(counts.values())
    ):
        raise WorkerError(
            "request",
            f"every input needs one row a sample, at least one; the rows are {counts}",
        )
    parts: dict[str, list[Array]] = {}
    for start, stop, missing in slices(next(iter(counts.values())), batch):
        cut = {name: array[start:stop] for name, array in arrays.items()}
        if missing:
            cut = {
                name: numpy.concatenate([array, numpy.repeat(array[-1:], missing, axis=0)])
                for name, array in cut.items()
            }
        for name, output in call(cut).items():
            given = stop - start + missing
            if output.ndim == 0 or len(output) != given:
                raise WorkerError(
                    "infer",
                    f"output {name} has shape {list(output.shape)} for {given} samples; its first axis is not the sample",
                )
            parts.setdefault(name, []).append(output[: stop - start])
    return {name: numpy.concatenate(blocks) for name, blocks in parts.items()}
