"""The first step: build the network, load its weights, find its inputs and outputs."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from edgekit.artifact import Artifact, FormatName
from edgekit.cache import file_digest
from edgekit.contracts import Context
from edgekit.errors import ModelError, StepError
from edgekit.signature import Signature
from edgekit.steps import (
    checkpoint,
    torch_counting,
    torch_signatures,
    torch_storage,
)
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class LoadModel:
    """Read the network and its weights. It has no input artifact.

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
        """Build the networks, load the checkpoint, and run two samples.

        The seed is fixed, so that new networks are the same each time. Raises ModelError if
        the checkpoint or the data do not fit the network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            networks = dict(context.networks())
        if self.weights is not None:
            self._load_weights(
                networks, pathlib.Path(self.weights).expanduser()
            )
        split = context.task.need("test", "loading the model")
        signatures = torch_signatures.find_signatures(networks, split)
        notes = self._notes(networks, signatures)
        return torch_storage.save(networks, signatures, context.folder, notes)

    def ensures(self, before: Artifact | None, after: Artifact) -> None:
        """Every part has its weights on disk."""
        missing = [
            part.name
            for part in after.parts
            if not after.path(part, "weights").is_file()
        ]
        if missing:
            raise StepError(
                f"load_model wrote no weights for {', '.join(missing)}.",
                fix="report this as a bug of edgekit",
            )

    def _load_weights(
        self, networks: Mapping[str, nn.Module], path: pathlib.Path
    ) -> None:
        tensors = checkpoint.read(path)
        if (
            self.weights_sha256 is not None
            and file_digest(path) != self.weights_sha256
        ):
            raise ModelError(
                f"{path} has changed since the run began.", fix="run again"
            )
        checkpoint.fit(networks, tensors, path)

    def _notes(
        self,
        networks: Mapping[str, nn.Module],
        signatures: Mapping[str, Signature],
    ) -> dict[str, Any]:
        parameters = {}
        macs = {}
        for name, network in networks.items():
            sample = torch_counting.draw_inputs(signatures[name], 1)
            parameters[name] = torch_counting.count_parameters(network)
            macs[name] = torch_counting.count_macs(network, sample)
        return {
            "model": self.model,
            "weights": self.weights,
            "parameters": parameters,
            "macs": macs,
        }
