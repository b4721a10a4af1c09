"""The torch networks that a file made from a quantized artifact must agree with: quantization simulated, nothing exported."""

from typing import TYPE_CHECKING

import torch

from edgekit.artifact import Artifact
from edgekit.quantization.graph import read, simulate
from edgekit.steps import torch_storage

if TYPE_CHECKING:
    from collections.abc import Mapping


def simulated(artifact: Artifact, networks: "Mapping[str, torch.nn.Module]") -> dict[str, torch.nn.Module]:
    """The networks by part name, each quantized by its stored calibration."""
    floats = torch_storage.load(artifact, networks)
    return {part.name: simulate(floats[part.name], part.signature, read(artifact.path(part, "quantization")), fold=True) for part in artifact.parts}
