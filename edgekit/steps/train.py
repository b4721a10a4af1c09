"""Training the network on the task's data."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from edgekit.artifact import Artifact, FormatName
from edgekit.contracts import Context, Read
from edgekit.steps import losses, torch_storage, training
from edgekit.steps.torch_chain import Chain


@dataclasses.dataclass(frozen=True)
class Train:
    """Train with the task's own loss. Also used for fine-tuning after pruning."""

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.003
    #: Each image is moved by up to this many pixels in each direction.
    shift: int = 0

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    reads: ClassVar[tuple[Read, ...]] = ("train",)

    def requires(self, artifact: Artifact) -> None:
        """A float PyTorch network."""
        training.require_float(artifact, "Training")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train all parts together, end to end."""
        split = context.task.need("train", "training")
        networks = torch_storage.load(artifact, context.networks())
        loss = losses.resolve(context.task.loss)

        def objective(
            feeds: training.Feeds, outputs: losses.Outputs, labels: Tensor
        ) -> Tensor:
            return loss(outputs, labels)

        context.progress.expect(self.epochs)
        network = Chain(networks, artifact.parts)
        history = training.fit(network, split, objective, self, context)
        signatures = {part.name: part.signature for part in artifact.parts}
        notes = {"samples": len(split), "loss": history}
        return torch_storage.save(networks, signatures, context.folder, notes)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Inputs and outputs are unchanged."""
        training.require_same_signatures(before, after, "Training")
