"""The torch networks that an exported file must agree with: quantization is simulated."""

from typing import TYPE_CHECKING

import torch

from edgekit.artifact import Artifact, Part
from edgekit.quantization.calibration import read, read_constants
from edgekit.quantization.graph import simulate
from edgekit.steps import torch_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The role of a part's calibration among its files.
QUANTIZATION = "quantization"


def load_simulated(
    artifact: Artifact, networks: "Mapping[str, torch.nn.Module]"
) -> dict[str, torch.nn.Module]:
    """The networks by part name, each quantized by its stored calibration."""
    loaded = torch_storage.load(artifact, networks)
    return {
        part.name: rebuild(artifact, part, loaded[part.name], fold=True)
        for part in artifact.parts
    }


def rebuild(
    artifact: Artifact, part: Part, network: torch.nn.Module, *, fold: bool
) -> torch.nn.Module:
    """The quantized graph of one part, from its float network and its stored calibration.

    ``fold``: whether weights are stored as int8 (see ``edgekit.quantization.graph``).
    """
    path = artifact.path(part, QUANTIZATION)
    return simulate(
        network,
        part.signature,
        read(path),
        fold=fold,
        constants=read_constants(path),
    )
