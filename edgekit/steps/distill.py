"""Training a network on a teacher's outputs.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network".
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from edgekit.artifact import Artifact
from edgekit.contracts import Context, Read
from edgekit.errors import StepError
from edgekit.steps import losses, torch_storage, training
from edgekit.steps.losses import Outputs
from edgekit.steps.torch_chain import Chain
from edgekit.steps.train import Train


@dataclasses.dataclass(frozen=True)
class Distill(Train):
    """Train on a mixture of two losses: ``alpha`` of the teacher's, the rest of the labels'.

    For class logits (the loss cross_entropy) the teacher's loss is the divergence of
    softened probabilities; for every other loss it is the mean squared difference of all
    outputs.
    """

    temperature: float = 4.0
    alpha: float = 0.7

    reads: ClassVar[tuple[Read, ...]] = ("train", "teacher")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train all parts together.

        Student and teacher see the same (shifted) samples. Raises StepError if the recipe
        names no teacher.
        """
        if context.teacher is None or context.teacher_networks is None:
            raise StepError(
                "Distillation has no teacher.",
                fix="name one in the recipe: distill: {teacher: zoo:resnet20}",
            )
        split = context.task.need("train", "distillation")
        networks = torch_storage.load(artifact, context.networks())
        teacher_networks = torch_storage.load(
            context.teacher, context.teacher_networks()
        )
        teacher = Chain(teacher_networks, context.teacher.parts).eval()
        label_loss = losses.resolve(context.task.loss)
        teacher_loss = losses.distillation(context.task.loss, self.temperature)

        def objective(
            feeds: training.Feeds, outputs: Outputs, labels: Tensor
        ) -> Tensor:
            with torch.no_grad():
                teacher_outputs = teacher(feeds)
            from_teacher = teacher_loss(outputs, teacher_outputs)
            return (1 - self.alpha) * label_loss(
                outputs, labels
            ) + self.alpha * from_teacher

        context.progress.expect(self.epochs)
        student = Chain(networks, artifact.parts)
        history = training.fit(student, split, objective, self, context)
        signatures = {part.name: part.signature for part in artifact.parts}
        notes = {
            "samples": len(split),
            "loss": history,
            "teacher": context.teacher.key,
        }
        return torch_storage.save(networks, signatures, context.folder, notes)
