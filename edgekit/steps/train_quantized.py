"""Quantization-aware training: a calibrated network is trained with its quantizers on.

The quantizers are in the forward pass (Jacob et al. 2018). Batch normalizations are folded
already and activation ranges stay as calibrated; weights change, and their scales with
them. The float network is the teacher, whatever the recipe's teacher was: the aim is to
lose no accuracy compared with it.
"""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.quantization.calibration import (
    Calibration,
    Constants,
    read,
    read_constants,
)
from edgekit.quantization.capture import order_outputs
from edgekit.quantization.simulator import Simulator, build_simulator
from edgekit.signature import Signature
from edgekit.steps import losses, torch_storage, training
from edgekit.steps.losses import Outputs
from edgekit.steps.quantized_parts import copy_with_calibration
from edgekit.steps.torch_chain import Chain
from edgekit.steps.torch_reference import QUANTIZATION
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class TrainQuantized:
    """Train a calibrated network.

    ``alpha`` is the share of the loss against the float network's outputs; the rest is the
    loss against the labels.
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
        """0: images are not moved."""
        return 0

    def requires(self, artifact: Artifact) -> None:
        """A calibrated network."""
        missing = [
            part.name
            for part in artifact.parts
            if QUANTIZATION not in part.files
        ]
        if missing:
            raise StepError(
                "Quantization-aware training needs a calibrated network; "
                f"{', '.join(missing)} has no calibration.",
                fix="run quantize_torch first",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train the constants of all parts together.

        They are stored next to the calibrations, with the weight scales that they need.
        """
        split = context.task.need("train", "quantization-aware training")
        networks = torch_storage.load(artifact, context.networks())
        teacher = Chain(networks, artifact.parts).eval()
        students = {
            part.name: _Student(network, artifact, part)
            for part, network in zip(
                artifact.parts, teacher.networks, strict=True
            )
        }
        label_loss = losses.resolve(context.task.loss)
        teacher_loss = losses.distillation(context.task.loss, self.temperature)

        def objective(
            feeds: training.Feeds, outputs: Outputs, labels: Tensor
        ) -> Tensor:
            with torch.no_grad():
                teacher_outputs = teacher(feeds)
            weighted = self.alpha * teacher_loss(outputs, teacher_outputs)
            if self.alpha == 1:
                return weighted
            return (1 - self.alpha) * label_loss(outputs, labels) + weighted

        context.progress.expect(self.epochs)
        student = Chain(students, artifact.parts)
        history = training.fit(student, split, objective, self, context)
        parts = []
        for part in artifact.parts:
            calibration, constants = students[part.name].results()
            parts.append(
                copy_with_calibration(
                    artifact, part, calibration, constants, context
                )
            )
        trained = {"samples": len(split), "loss": history}
        return Artifact(
            format="torch",
            parts=tuple(parts),
            notes={**artifact.notes, "trained": trained},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Settings and tensors are unchanged, and every part has changed constants."""
        for part in after.parts:
            path = after.path(part, QUANTIZATION)
            old = read(before.path(before.part(part.name), QUANTIZATION))
            new = read(path)
            unchanged = (
                old.settings == new.settings
                and old.tensors.keys() == new.tensors.keys()
            )
            if not unchanged or not read_constants(path):
                raise StepError(
                    f"Training did not change {part.name} as expected.",
                    fix="report this as a bug",
                )


class _Student(nn.Module):
    """The simulated network of one part with trainable constants.

    ``train`` and ``eval`` change nothing in the graph, which was traced in eval mode.
    """

    def __init__(
        self, network: nn.Module, artifact: Artifact, part: Part
    ) -> None:
        super().__init__()
        path = artifact.path(part, QUANTIZATION)
        self.calibration = read(path)
        self.constants = dict(read_constants(path))
        self.signature: Signature = part.signature
        self.simulator: Simulator = build_simulator(
            network, part.signature, self.calibration, self.constants
        )
        self.names = _trainable_names(self.simulator)
        # The graph is not a submodule, since it refuses train(). Its trainable constants
        # are held by name instead.
        self.trainable = nn.ParameterList()
        for name in self.names:
            owner, _, attribute = name.rpartition(".")
            module = self.simulator.graph.get_submodule(owner)
            parameter = nn.Parameter(
                getattr(module, attribute).detach().clone()
            )
            setattr(module, attribute, parameter)
            self.trainable.append(parameter)
        for operator in self.simulator.operators:
            operator.weight.tracks_range = True

    def forward(self, *inputs: Tensor) -> Any:
        names = tuple(spec.name for spec in self.signature.outputs)
        return order_outputs(self.simulator.graph(*inputs), names)

    def results(self) -> tuple[Calibration, Constants]:
        """The calibration with the trained weights' scales, and all changed constants."""
        constants = dict(self.constants)
        for name, parameter in zip(self.names, self.trainable, strict=True):
            constants[name] = parameter.detach()
        scales = self._weight_scales(constants)
        tensors = dict(self.calibration.tensors)
        for key, tensor in self.calibration.tensors.items():
            scale = scales.get(id(self.simulator.quantizers[key]))
            if scale is not None:
                tensors[key] = tensor.model_copy(update={"scale": scale})
        changes = (
            *self.calibration.changes,
            f"trained: {len(self.names)} tensors",
        )
        update = {"tensors": tensors, "changes": changes}
        return self.calibration.model_copy(update=update), constants

    def _weight_scales(
        self, constants: Constants
    ) -> dict[int, tuple[float, ...]]:
        """The scales of the trained weights, by the id of their quantizer."""
        scales = {}
        with torch.no_grad():
            for operator in self.simulator.operators:
                # Computes the scale of the weight's present range.
                operator.weight.quantize(constants[operator.weight_name])
                scales[id(operator.weight)] = tuple(
                    operator.weight.scale.tolist()
                )
        return scales


def _trainable_names(simulator: Simulator) -> list[str]:
    names = set()
    for operator in simulator.operators:
        names.add(operator.weight_name)
        if operator.bias_name is not None:
            names.add(operator.bias_name)
    return sorted(names)
