"""Train the network to give a teacher's answers (Hinton, Vinyals and Dean 2015, "Distilling
the Knowledge in a Neural Network").
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.steps import losses, torch_storage, training
from edgekit.steps.torch_chain import Chain
from edgekit.steps.train import Train

Outputs = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Distill(Train):
    """Train on a mixture: ``alpha`` of the teacher's answer, the rest of the labels'.

    For class logits (the loss cross_entropy) the teacher's part is the divergence of
    softened probabilities; for every other loss it is the mean squared difference of all
    outputs.
    """

    temperature: float = 4.0
    alpha: float = 0.7

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train all parts together; the teacher is asked about the same (shifted) samples."""
        if context.teacher is None or context.teacher_networks is None:
            raise StepError(
                "Distillation has no teacher.",
                fix="name one in the recipe: distill: {teacher: zoo:resnet20}",
            )
        split = context.task.need("train", "distillation")
        networks = torch_storage.load(artifact, context.networks())
        teacher = Chain(
            torch_storage.load(context.teacher, context.teacher_networks()),
            context.teacher.parts,
        ).eval()
        loss = losses.resolve(context.task.loss)
        probabilities = context.task.loss == "cross_entropy"

        def objective(
            feeds: Mapping[str, Tensor], outputs: Outputs, labels: Tensor
        ) -> Tensor:
            with torch.no_grad():
                answers = teacher(feeds)
            taught = (
                softened(outputs, answers, self.temperature)
                if probabilities
                else squared(outputs, answers)
            )
            return (1 - self.alpha) * loss(outputs, labels) + self.alpha * taught

        context.progress.expect(self.epochs)
        history = training.fit(
            Chain(networks, artifact.parts), split, objective, self, context
        )
        signatures = {part.name: part.signature for part in artifact.parts}
        notes = {"samples": len(split), "loss": history, "teacher": context.teacher.key}
        return torch_storage.save(networks, signatures, context.folder, notes)


def softened(outputs: Outputs, answers: Outputs, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the probabilities at temperature T, the mean over
    samples (and positions); classes on axis 1.

    The factor T^2 keeps the gradients as large as the labels' (Hinton et al. 2015, section
    2).
    """
    student, teacher = losses.main_output(outputs), losses.main_output(answers)
    _refuse_shapes({"output": student}, {"output": teacher})
    cold, warm = (
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
    )
    return (
        functional.kl_div(cold, warm, reduction="none", log_target=True).sum(1).mean()
        * temperature**2
    )


def squared(outputs: Outputs, answers: Outputs) -> Tensor:
    """The mean squared difference to the teacher, the mean over all float outputs."""
    _refuse_shapes(outputs, answers)
    return torch.stack(
        [
            functional.mse_loss(output, answers[name])
            for name, output in outputs.items()
            if output.is_floating_point()
        ]
    ).mean()


def _refuse_shapes(outputs: Outputs, answers: Outputs) -> None:
    student, teacher = (
        {name: list(tensor.shape) for name, tensor in each.items()}
        for each in (outputs, answers)
    )
    if student != teacher:
        raise StepError(
            f"Student and teacher give different outputs: {student} and {teacher}.",
            fix="take a teacher with the student's outputs",
        )
