"""Train the network on the task's data."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from edgekit.artifact import Artifact, FormatName
from edgekit.contracts import Context
from edgekit.steps import losses, torch_storage, training
from edgekit.steps.torch_chain import Chain
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class Train:
    """Train with the task's own loss. Also what follows pruning."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.003
    shift: int = 0

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ("train",)

    def requires(self, artifact: Artifact) -> None:
        """A float PyTorch network."""
        training.refuse_quantized(artifact, "Training")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train all parts together, end to end."""
        split = context.task.need("train", "training")
        networks = torch_storage.load(artifact, context.networks())
        loss = losses.resolve(context.task.loss)

        def objective(
            feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor], labels: Tensor
        ) -> Tensor:
            return loss(outputs, labels)

        context.progress.expect(self.epochs)
        history = training.fit(
            Chain(networks, artifact.parts), split, objective, self, context
        )
        signatures = {part.name: part.signature for part in artifact.parts}
        return torch_storage.save(
            networks, signatures, context.folder, {"samples": len(split), "loss": history}
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Inputs and outputs are what they were."""
        training.refuse_other_signature(before, after, "Training")
