"""Remove whole channels, those with the smallest weights first."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from edgekit.artifact import MAIN, Artifact, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import ModelError, StepError, suggest
from edgekit.steps import channels, torch_chain, torch_counting, torch_storage, training
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class Prune:
    """Remove a share ``ratio`` of the channels of every layer that can lose some; channels
    stay in multiples of ``multiple``.

    Each part is pruned alone and keeps its inputs and outputs. ``skip`` names modules by
    path (``part.path`` where there are several parts) that keep all their output channels.
    """

    ratio: float = 0.5
    multiple: int = 1
    skip: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A float PyTorch network."""
        training.refuse_quantized(artifact, "Pruning")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Prune every part; the notes tell parameters, MACs and channels before and after."""
        networks = torch_storage.load(artifact, context.networks())
        self._refuse_unknown(networks)
        context.progress.expect(len(networks))
        told = {}
        for part in artifact.parts:
            told[part.name] = self._prune(networks[part.name], part)
            context.progress.advance(note=part.name)
        signatures = {part.name: part.signature for part in artifact.parts}
        notes = {"ratio": self.ratio, "multiple": self.multiple, "parts": told}
        return torch_storage.save(networks, signatures, context.folder, notes)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Something was removed, and inputs and outputs are what they were."""
        training.refuse_other_signature(before, after, "Pruning")
        told: Mapping[str, Any] = after.notes["parts"]
        if all(part["parameters"][1] >= part["parameters"][0] for part in told.values()):
            raise StepError(
                f"Pruning by {self.ratio:g} in multiples of {self.multiple} removed nothing.",
                fix="raise ratio, lower multiple, shorten skip, or take prune out of the recipe",
            )
        for part in before.parts:
            wanted = {spec.name: list(spec.dims[1:]) for spec in part.signature.outputs}
            if told[part.name]["outputs"] != wanted:
                now = told[part.name]["outputs"]
                raise StepError(
                    f"Pruning changed the outputs of {part.name}: {now} instead of {wanted}.",
                    fix="name the last layers under skip",
                )

    def _prune(self, network: nn.Module, part: Part) -> dict[str, Any]:
        """Prune one part in place, and tell what was done."""
        trained = {
            name
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        sample = torch_counting.drawn(part.signature, 1)
        before = (
            torch_counting.parameters(network),
            torch_counting.macs(network, sample),
            channels.widths(network),
        )
        channels.remove(
            network,
            torch_counting.drawn(part.signature, 2),
            self.ratio,
            self.multiple,
            self._skipped(network, part.name),
        )
        network.eval()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        outputs = _outputs(network, part)
        after = (
            torch_counting.parameters(network),
            torch_counting.macs(network, sample),
            channels.widths(network),
        )
        return {
            "parameters": [before[0], after[0]],
            "macs": [before[1], after[1]],
            "channels": {
                path: [width, after[2][path]] for path, width in before[2].items()
            },
            "outputs": outputs,
        }

    def _skipped(self, network: nn.Module, part: str) -> set[nn.Module]:
        wanted = {
            name if part == MAIN else name.removeprefix(f"{part}.")
            for name in self.skip
            if part == MAIN or name.startswith(f"{part}.")
        }
        return {
            inner
            for path, module in network.named_modules()
            if path in wanted
            for inner in module.modules()
        }

    def _refuse_unknown(self, networks: Mapping[str, nn.Module]) -> None:
        """Raise StepError for a recurrent layer, and for a skip that names no module."""
        for part, network in networks.items():
            recurrent = [
                path or part
                for path, module in network.named_modules()
                if isinstance(module, nn.RNNBase | nn.RNNCellBase)
            ]
            if recurrent:
                raise StepError(
                    f"Recurrent layers cannot be pruned ({part}: {', '.join(recurrent)}): torch-pruning breaks LSTM and leaves GRU as it is, without a word.",
                    fix="take prune out of the recipe, or build the network with a smaller hidden size",
                )
        single = list(networks) == [MAIN]
        known = {
            path if single else f"{part}.{path}"
            for part, network in networks.items()
            for path, _ in network.named_modules()
            if path
        }
        wrong = [name for name in self.skip if name not in known]
        if wrong:
            lines = "; ".join(f"{name!r}: {suggest(name, known)}" for name in wrong)
            raise StepError(
                f"skip names no module of the network: {lines}",
                fix="name modules as network.named_modules() does",
            )


def _outputs(network: nn.Module, part: Part) -> dict[str, list[int]]:
    """Run the pruned network: the shape of each output, without the sample axis."""
    feeds = dict(
        zip(
            (spec.name for spec in part.signature.inputs),
            torch_counting.drawn(part.signature, 2),
            strict=True,
        )
    )
    try:
        with torch.no_grad():
            outputs = torch_chain.call(
                network, part.signature, feeds, f"The part {part.name}"
            )
    except ModelError:
        raise
    except Exception as problem:  # the boundary to the user's network
        raise StepError(
            f"After pruning, {part.name} does not run any more: {type(problem).__name__}: {problem}",
            fix="name the layers around a fixed reshape or a plain tensor under skip, or take prune out of the recipe",
        ) from problem
    return {name: list(tensor.shape[1:]) for name, tensor in outputs.items()}
