"""Quantization-aware training: a network that int8 hurts recovers, and every backend gets
the trained weights.
"""

import dataclasses
import pathlib

import numpy
import onnxruntime
import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx.export import TorchToOnnx
from edgekit.formats.onnx.lowering.lower import LowerOnnx
from edgekit.quantization.calibration import read, read_constants
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.quantize_torch import QuantizeTorch
from edgekit.steps.torch_reference import load_simulated
from edgekit.steps.train_quantized import TrainQuantized
from edgekit.task import Task
from edgekit.testing import tiny_images

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 3)),),
)


class Uneven(nn.Module):
    """A batch normalization that is folded, and a channel that dwarfs the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        with torch.no_grad():
            self.norm.weight[2] = 3000
            self.second.weight[:, 2] /= 3000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.conv(x)))))
        return self.head(x.mean((2, 3)))


def network() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {"main": Uneven().eval()}


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Artifact, Artifact, Artifact, Context]:
    """The float, the calibrated and the trained artifact."""
    folder = tmp_path_factory.mktemp("qat")
    images = tiny_images()
    test = images.need("test", "labels")
    task = Task(
        name="own",
        train=(
            images.need("train", "x").inputs["input"],
            images.need("train", "x").labels,
        ),
        test=(test.inputs["input"], test.labels),
    )

    def context(name: str) -> Context:
        (folder / name).mkdir()
        return Context(folder=folder / name, networks=network, task=task)

    plain = torch_storage.save(
        network(), {"main": SIGNATURE}, context("plain").folder, {}
    )
    calibrated = QuantizeTorch(samples=64).run(plain, context("calibrated"))
    step = TrainQuantized(epochs=8, learning_rate=0.002, alpha=1.0)
    step.requires(calibrated)
    last = context("trained")
    trained = step.run(calibrated, last)
    step.ensures(calibrated, trained)
    return plain, calibrated, trained, last


def outputs(
    artifact: Artifact, images: torch.Tensor, *, quantized: bool = True
) -> torch.Tensor:
    networks = (
        load_simulated(artifact, network())
        if quantized
        else torch_storage.load(artifact, network())
    )
    with torch.no_grad():
        result: torch.Tensor = networks["main"](images)
    return result


def test_training_brings_the_outputs_back_to_the_float_networks(
    done: tuple[Artifact, Artifact, Artifact, Context],
) -> None:
    """The squared error against float is less than half of the error after calibration alone, on
    data that were not trained on.
    """
    plain, calibrated, trained, context = done
    images = torch.from_numpy(context.task.need("test", "x").inputs["input"])
    expected = outputs(plain, images, quantized=False)
    before, after = (
        float((outputs(result, images) - expected).square().mean())
        for result in (calibrated, trained)
    )
    assert after < before / 2


def test_activations_keep_their_scales_and_weights_get_new_ones(
    done: tuple[Artifact, Artifact, Artifact, Context],
) -> None:
    """The folded weights were trained, and the stored calibration records it."""
    _, calibrated, trained, _ = done
    before, after = (
        read(result.path(result.parts[0], "quantization"))
        for result in (calibrated, trained)
    )
    activations = [
        key for key, tensor in before.tensors.items() if tensor.axis is None
    ]
    assert activations
    assert all(before.tensors[key] == after.tensors[key] for key in activations)
    assert any(
        before.tensors[key] != after.tensors[key] for key in before.tensors
    )
    assert (
        len(read_constants(trained.path(trained.parts[0], "quantization"))) == 6
    )
    assert after.changes == ("trained: 6 tensors",)
    assert "constants" in trained.parts[0].files


def test_the_exported_file_has_the_trained_weights(
    done: tuple[Artifact, Artifact, Artifact, Context], tmp_path: pathlib.Path
) -> None:
    """ONNX Runtime computes what the simulation computes, within two output steps."""
    _, _, trained, context = done
    (tmp_path / "onnx").mkdir()
    (tmp_path / "lowered").mkdir()
    exported = TorchToOnnx().run(
        trained, dataclasses.replace(context, folder=tmp_path / "onnx")
    )
    lowered = LowerOnnx().run(
        exported, dataclasses.replace(context, folder=tmp_path / "lowered")
    )
    images = context.task.need("test", "x").inputs["input"][:32]
    result = onnxruntime.InferenceSession(
        str(lowered.path(lowered.parts[0]))
    ).run(None, {"input": images})[0]
    expected = outputs(trained, torch.from_numpy(images)).numpy()
    step = read(trained.path(trained.parts[0], "quantization")).output_scales[0]
    assert step is not None
    assert numpy.abs(result - expected).max() <= 2.001 * step


def test_the_same_seed_trains_the_same_weights(
    done: tuple[Artifact, Artifact, Artifact, Context], tmp_path: pathlib.Path
) -> None:
    """Twice the same bytes."""
    _, calibrated, _, context = done
    result = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        again = TrainQuantized(epochs=1).run(
            calibrated, dataclasses.replace(context, folder=tmp_path / name)
        )
        result.append(
            [
                again.path(again.parts[0], role).read_bytes()
                for role in ("quantization", "constants")
            ]
        )
    assert result[0] == result[1]


def test_a_network_without_calibration_is_refused(
    done: tuple[Artifact, Artifact, Artifact, Context],
) -> None:
    """It has no ranges to train with."""
    with pytest.raises(
        StepError, match="needs a calibrated network; main has no calibration"
    ):
        TrainQuantized().requires(done[0])
