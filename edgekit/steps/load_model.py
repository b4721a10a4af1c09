"""The first step: make the network, load its weights, find its inputs and outputs."""

import dataclasses
import pathlib
from typing import ClassVar

import torch

from edgekit.artifact import Artifact, FormatName
from edgekit.cache import file_digest
from edgekit.contracts import Context
from edgekit.errors import ModelError, StepError
from edgekit.steps import checkpoint, torch_counting, torch_signatures, torch_storage
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class LoadModel:
    """Read the network and its weights. Takes no artifact.

    ``fingerprint`` is the hash of the network's source code; with it and ``weights_sha256``
    the cache sees every change.
    """

    model: str
    weights: str | None = None
    weights_sha256: str | None = None
    fingerprint: str = ""

    takes: ClassVar[tuple[FormatName, ...]] = ()
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ("test",)

    def requires(self, artifact: Artifact | None) -> None:
        """Nothing: this step has no input."""

    def run(self, artifact: Artifact | None, context: Context) -> Artifact:
        """Make the networks (seeded, so that fresh ones are the same each time), load the
        checkpoint, run two samples.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            networks = dict(context.networks())
        if self.weights is not None:
            path = pathlib.Path(self.weights).expanduser()
            tensors = checkpoint.read(path)
            if self.weights_sha256 is not None and file_digest(path) != self.weights_sha256:
                raise ModelError(
                    f"{path} has changed since the run began.", fix="run again"
                )
            checkpoint.fit(networks, tensors, path)
        signatures = torch_signatures.find(
            networks, context.task.need("test", "loading the model")
        )
        notes = {
            "model": self.model,
            "weights": self.weights,
            "parameters": {
                name: torch_counting.parameters(network)
                for name, network in networks.items()
            },
            "macs": {
                name: torch_counting.macs(
                    network, torch_counting.drawn(signatures[name], 1)
                )
                for name, network in networks.items()
            },
        }
        return torch_storage.save(networks, signatures, context.folder, notes)

    def ensures(self, before: Artifact | None, after: Artifact) -> None:
        """Every part has its weights on disk."""
        missing = [
            part.name for part in after.parts if not after.path(part, "weights").is_file()
        ]
        if missing:
            raise StepError(
                f"load_model wrote no weights for {', '.join(missing)}.",
                fix="report this as a bug of edgekit",
            )
