"""The inputs of every peer: the float file, its network, and calibration samples.

Its output is a file.
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

#: Calibration samples; NNCF's documentation recommends 300, and edgekit's default is 256.
SAMPLES = 256


class NotApplicableError(Exception):
    """The recipe has nothing to do on this network."""


@dataclasses.dataclass(frozen=True)
class PeerInputs:
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


Recipe = Callable[[PeerInputs, pathlib.Path], None]
