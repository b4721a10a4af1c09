"""Runs any number of samples through a file with a fixed or a free batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy

from .frames import WorkerError

if TYPE_CHECKING:
    from .tensors import Array

#: A file with a free batch size is run on at most this many samples at once.
LARGEST_SLICE = 256


def plan_slices(count: int, batch: int | None) -> list[tuple[int, int, int]]:
    """Split ``count`` samples into slices: (start, stop, number of padding samples).

    Padding fills a fixed batch; with a free batch size (None) there is none.
    """
    width = LARGEST_SLICE if batch is None else batch
    slices = []
    for start in range(0, count, width):
        stop = min(start + width, count)
        padding = 0 if batch is None else batch - (stop - start)
        slices.append((start, stop, padding))
    return slices


def run_in_slices(
    arrays: dict[str, Array],
    batch: int | None,
    call: Callable[[dict[str, Array]], dict[str, Array]],
) -> dict[str, Array]:
    """Run ``call`` on slices of the samples and concatenate the outputs.

    The first axis of every array is the sample. An incomplete fixed batch is padded with
    copies of the last sample, whose outputs are dropped. Raises WorkerError if the inputs
    differ in their number of samples, or an output's first axis is not the sample.
    """
    blocks: dict[str, list[Array]] = {}
    for start, stop, padding in plan_slices(_count_samples(arrays), batch):
        feeds = {
            name: _pad(array[start:stop], padding)
            for name, array in arrays.items()
        }
        for name, output in call(feeds).items():
            expected = stop - start + padding
            if output.ndim == 0 or len(output) != expected:
                raise WorkerError(
                    "infer",
                    f"output {name} has shape {list(output.shape)} for {expected} samples;"
                    " its first axis is not the sample",
                )
            blocks.setdefault(name, []).append(output[: stop - start])
    return {name: numpy.concatenate(parts) for name, parts in blocks.items()}


def _count_samples(arrays: dict[str, Array]) -> int:
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    counts = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(counts) != 1 or 0 in counts:
        raise WorkerError(
            "request",
            "all inputs must have the same number of samples, at least one;"
            f" the shapes are {shapes}",
        )
    return counts.pop()


def _pad(array: Array, count: int) -> Array:
    if count == 0:
        return array
    return numpy.concatenate([array, numpy.repeat(array[-1:], count, axis=0)])
