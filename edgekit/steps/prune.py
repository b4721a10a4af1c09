"""Structured pruning: remove complete channels, those with the smallest weights first."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from edgekit.artifact import MAIN, Artifact, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import ModelError, StepError, suggest
from edgekit.steps import (
    channels,
    torch_chain,
    torch_counting,
    torch_storage,
    training,
)
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class Prune:
    """Remove a share ``ratio`` of the channels of every layer that can lose some.

    The number of channels stays a multiple of ``multiple``. Each part is pruned alone and
    keeps its inputs and outputs. ``skip`` names modules by path (``part.path`` if there are
    several parts) that keep all their output channels.
    """

    ratio: float = 0.5
    multiple: int = 1
    skip: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = (
        "torch",
        "torch-pruning",
        "safetensors",
    )
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A float PyTorch network."""
        training.require_float(artifact, "Pruning")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Prune every part; the notes contain parameters, MACs and channels before and after.

        Raises StepError for recurrent layers, an unknown path in ``skip``, and a network
        that torch-pruning cannot follow.
        """
        networks = torch_storage.load(artifact, context.networks())
        _check_no_recurrent_layers(networks)
        self._check_skip(networks)
        context.progress.expect(len(networks))
        changes = {}
        for part in artifact.parts:
            changes[part.name] = self._prune(networks[part.name], part)
            context.progress.advance(note=part.name)
        signatures = {part.name: part.signature for part in artifact.parts}
        notes = {
            "ratio": self.ratio,
            "multiple": self.multiple,
            "parts": changes,
        }
        return torch_storage.save(networks, signatures, context.folder, notes)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Something was removed, and inputs and outputs are unchanged."""
        training.require_same_signatures(before, after, "Pruning")
        changes: Mapping[str, Any] = after.notes["parts"]
        parameters = [part["parameters"] for part in changes.values()]
        if all(new >= old for old, new in parameters):
            raise StepError(
                f"Pruning by {self.ratio:g} in multiples of {self.multiple} "
                "removed nothing.",
                fix="raise ratio, lower multiple, shorten skip, "
                "or remove prune from the recipe",
            )
        for part in before.parts:
            expected = {
                spec.name: list(spec.dims[1:])
                for spec in part.signature.outputs
            }
            outputs = changes[part.name]["outputs"]
            if outputs != expected:
                raise StepError(
                    f"Pruning changed the outputs of {part.name}: "
                    f"expected {expected}, got {outputs}.",
                    fix="name the last layers under skip",
                )

    def _prune(self, network: nn.Module, part: Part) -> dict[str, Any]:
        """Prune one part in place; returns sizes [before, after] and output shapes."""
        trainable = {
            name
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        before = _measure(network, part)
        channels.remove_channels(
            network,
            torch_counting.draw_inputs(part.signature, 2),
            self.ratio,
            self.multiple,
            self._skipped_modules(network, part.name),
        )
        network.eval()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trainable)
        outputs = _output_shapes(network, part)
        after = _measure(network, part)
        return {
            "parameters": [before.parameters, after.parameters],
            "macs": [before.macs, after.macs],
            "channels": {
                path: [width, after.channels[path]]
                for path, width in before.channels.items()
            },
            "outputs": outputs,
        }

    def _skipped_modules(self, network: nn.Module, part: str) -> set[nn.Module]:
        paths = set(self.skip)
        if part != MAIN:
            prefix = f"{part}."
            own = [name for name in self.skip if name.startswith(prefix)]
            paths = {name.removeprefix(prefix) for name in own}
        skipped: set[nn.Module] = set()
        for path, module in network.named_modules():
            if path in paths:
                skipped.update(module.modules())
        return skipped

    def _check_skip(self, networks: Mapping[str, nn.Module]) -> None:
        """Raise StepError if ``skip`` contains a path that is not a module."""
        is_single = list(networks) == [MAIN]
        existing: set[str] = set()
        for part, network in networks.items():
            paths = [path for path, _ in network.named_modules() if path]
            existing.update(
                paths if is_single else [f"{part}.{path}" for path in paths]
            )
        missing = [name for name in self.skip if name not in existing]
        if missing:
            hints = "; ".join(
                f"{name!r}: {suggest(name, existing)}" for name in missing
            )
            raise StepError(
                f"skip contains unknown modules: {hints}",
                fix="name modules as network.named_modules() does",
            )


@dataclasses.dataclass(frozen=True)
class _Size:
    """The size of a network; multiply-accumulates for one sample, channels by path."""

    parameters: int
    macs: int
    channels: Mapping[str, int]


def _measure(network: nn.Module, part: Part) -> _Size:
    sample = torch_counting.draw_inputs(part.signature, 1)
    return _Size(
        parameters=torch_counting.count_parameters(network),
        macs=torch_counting.count_macs(network, sample),
        channels=channels.output_widths(network),
    )


def _check_no_recurrent_layers(networks: Mapping[str, nn.Module]) -> None:
    """Raise StepError for a network with a recurrent layer."""
    for part, network in networks.items():
        recurrent = [
            path or part
            for path, module in network.named_modules()
            if isinstance(module, nn.RNNBase | nn.RNNCellBase)
        ]
        if recurrent:
            raise StepError(
                f"Recurrent layers cannot be pruned ({part}: {', '.join(recurrent)}): "
                "torch-pruning breaks LSTM and leaves GRU unchanged without an error.",
                fix="remove prune from the recipe, "
                "or build the network with a smaller hidden size",
            )


def _output_shapes(network: nn.Module, part: Part) -> dict[str, list[int]]:
    """Run the pruned network: the shape of each output, without the sample axis."""
    names = [spec.name for spec in part.signature.inputs]
    inputs = torch_counting.draw_inputs(part.signature, 2)
    feeds = dict(zip(names, inputs, strict=True))
    where = f"The part {part.name}"
    try:
        with torch.no_grad():
            outputs = torch_chain.call(network, part.signature, feeds, where)
    except ModelError:
        raise
    except Exception as problem:  # the boundary to the user's network
        raise StepError(
            f"{part.name} cannot be run after pruning: {type(problem).__name__}: {problem}",
            fix="name the layers around a fixed reshape or a plain tensor under skip, "
            "or remove prune from the recipe",
        ) from problem
    return {name: list(tensor.shape[1:]) for name, tensor in outputs.items()}
