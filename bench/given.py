"""What every peer is given: the float file, the network behind it, and calibration samples.

What it makes is a file.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from edgekit.task import Split

if TYPE_CHECKING:
    import numpy

    Feeds = dict[str, numpy.ndarray[Any, Any]]

#: Calibration samples; NNCF's documentation advises 300, and edgekit takes 256 where
#: nothing is said.
SAMPLES = 256


class NotApplicableError(Exception):
    """The recipe has nothing to do on this network."""


@dataclasses.dataclass(frozen=True)
class Given:
    """One network's float file and its calibration data, for one runtime."""

    float_file: pathlib.Path
    network: torch.nn.Module
    calibration: Split
    folder: pathlib.Path
    attention: tuple[int, int] | None = None
    images: bool = False

    def rows(self) -> "Iterator[Feeds]":
        """Calibration samples, one by one, as the network's own inputs."""
        for index in range(len(self.calibration)):
            yield {
                name: array[index : index + 1]
                for name, array in self.calibration.inputs.items()
            }


Recipe = Callable[[Given, pathlib.Path], None]
