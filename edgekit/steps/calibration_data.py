"""Calibration samples for every part of a model, in batches."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy
import torch

from edgekit.artifact import Part
from edgekit.steps import torch_chain
from edgekit.task import Split

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: Samples that are calibrated at once. Memory does not grow with the number of samples.
BATCH_SIZE = 32


def draw_samples(split: Split, count: int, seed: int) -> "Array":
    """The indices of ``count`` samples in random order: data are often sorted by class."""
    return numpy.random.default_rng(seed).permutation(len(split))[:count]


def iterate_inputs(
    split: Split,
    samples: "Array",
    parts: tuple[Part, ...],
    networks: Mapping[str, torch.nn.Module],
) -> Iterator[tuple[torch.Tensor, ...]]:
    """The inputs of the last of ``parts``, batch after batch, in its signature's order.

    The parts before it are run again for each batch, so that no activations are kept.
    """
    *earlier_parts, last_part = parts
    for start in range(0, len(samples), BATCH_SIZE):
        rows = split.rows(samples[start : start + BATCH_SIZE])
        tensors = torch_chain.input_tensors(rows)
        with torch.no_grad():
            for part in earlier_parts:
                network = networks[part.name].eval()
                tensors |= torch_chain.call(network, part.signature, tensors)
        yield tuple(tensors[spec.name] for spec in last_part.signature.inputs)
