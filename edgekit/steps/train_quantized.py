"""Quantization-aware training: the calibrated network is trained with its quantizers in the
forward pass (Jacob et al. 2018).

Batch normalizations are folded already and activation ranges stay as calibrated; weights
move, and their scales with them. The float network is the teacher, whatever the recipe's
teacher was: the aim is to lose nothing against it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.quantization.calibration import (
    Calibration,
    Constants,
    TensorQuantization,
    read,
    read_constants,
)
from edgekit.quantization.capture import order_outputs
from edgekit.quantization.simulator import Simulator, build_simulator
from edgekit.signature import Signature
from edgekit.steps import losses, torch_storage, training
from edgekit.steps.distill import softened, squared
from edgekit.steps.quantize_torch import copied
from edgekit.steps.torch_chain import Chain
from edgekit.steps.torch_reference import QUANTIZATION
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class TrainQuantized:
    """Train a calibrated network.

    ``alpha`` of the loss is the float network's answer, the rest the labels'.
    """

    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 0.0002
    temperature: float = 2.0
    alpha: float = 0.9
    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchao", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ("train",)

    @property
    def shift(self) -> int:
        """Images are not moved."""
        return 0

    def requires(self, artifact: Artifact) -> None:
        """A calibrated network."""
        missing = [part.name for part in artifact.parts if QUANTIZATION not in part.files]
        if missing:
            raise StepError(
                f"Quantization-aware training needs a calibrated network; {', '.join(missing)} has no calibration.",
                fix="run quantize_torch first",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train the constants of every part together and store them beside the
        calibrations, whose weight scales follow.
        """
        split = context.task.need("train", "quantization-aware training")
        teacher = Chain(
            torch_storage.load(artifact, context.networks()), artifact.parts
        ).eval()
        students = {
            part.name: _Student(teacher.networks[index], artifact, part)
            for index, part in enumerate(artifact.parts)
        }
        loss = losses.resolve(context.task.loss)
        probabilities = context.task.loss == "cross_entropy"

        def objective(
            feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor], labels: Tensor
        ) -> Tensor:
            with torch.no_grad():
                answers = teacher(feeds)
            taught = (
                softened(outputs, answers, self.temperature)
                if probabilities
                else squared(outputs, answers)
            )
            return (
                self.alpha * taught
                if self.alpha == 1
                else (1 - self.alpha) * loss(outputs, labels) + self.alpha * taught
            )

        context.progress.expect(self.epochs)
        history = training.fit(
            Chain(students, artifact.parts), split, objective, self, context
        )
        parts = tuple(
            copied(artifact, part, students[part.name].results(), context)
            for part in artifact.parts
        )
        return Artifact(
            format="torch",
            parts=parts,
            notes={**artifact.notes, "trained": {"samples": len(split), "loss": history}},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Activations keep their scales, and some weight changed."""
        for part in after.parts:
            path = after.path(part, QUANTIZATION)
            old, new = read(before.path(before.part(part.name), QUANTIZATION)), read(path)
            if (
                old.settings != new.settings
                or old.tensors.keys() != new.tensors.keys()
                or not read_constants(path)
            ):
                raise StepError(
                    f"Training did not change {part.name} as it promised.",
                    fix="report this as a bug",
                )


class _Student(nn.Module):
    """The simulated network of one part, its constants trainable.

    ``train`` and ``eval`` change nothing in the graph, which was traced in eval mode.
    """

    def __init__(self, network: nn.Module, artifact: Artifact, part: Part) -> None:
        super().__init__()
        path = artifact.path(part, QUANTIZATION)
        self.calibration = read(path)
        self.constants = dict(read_constants(path))
        self.simulated: Simulator = build_simulator(
            network, part.signature, self.calibration, self.constants
        )
        self.signature: Signature = part.signature
        # Not a submodule: the graph refuses train(). Its trainable constants are held by
        # name instead.
        names = sorted(
            {
                name
                for operator in self.simulated.operators
                for name in (operator.weight_name, operator.bias_name)
                if name is not None
            }
        )
        self.names = names
        self.trained = nn.ParameterList()
        for name in names:
            owner, _, attribute = name.rpartition(".")
            parameter = nn.Parameter(
                getattr(self.simulated.graph.get_submodule(owner), attribute)
                .detach()
                .clone()
            )
            setattr(self.simulated.graph.get_submodule(owner), attribute, parameter)
            self.trained.append(parameter)
        for operator in self.simulated.operators:
            operator.weight.tracks_range = True

    def forward(self, *inputs: Tensor) -> Any:
        graph = self.__dict__["simulated"].graph
        return order_outputs(
            graph(*inputs), tuple(spec.name for spec in self.signature.outputs)
        )

    def results(self) -> tuple[Calibration, Constants]:
        """The calibration with the trained weights' scales, and all changed constants."""
        constants = {
            **self.constants,
            **{
                name: parameter.detach()
                for name, parameter in zip(self.names, self.trained, strict=True)
            },
        }
        scales = {}
        with torch.no_grad():
            for operator in self.simulated.operators:
                operator.weight.quantize(constants[operator.weight_name])
                scales[id(operator.weight)] = tuple(
                    float(value) for value in operator.weight.scale
                )
        tensors: dict[str, TensorQuantization] = {
            key: tensor.model_copy(
                update={"scale": scales[id(self.simulated.quantizers[key])]}
            )
            if id(self.simulated.quantizers[key]) in scales
            else tensor
            for key, tensor in self.calibration.tensors.items()
        }
        changes = (*self.calibration.changes, f"trained: {len(self.names)} tensors")
        return self.calibration.model_copy(
            update={"tensors": tensors, "changes": changes}
        ), constants
