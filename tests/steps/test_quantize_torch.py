"""Calibration writes plain numbers next to unchanged weights, part after part."""

import json
import pathlib

import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError, TaskError
from edgekit.quantization.calibration import read
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.quantize_torch import QuantizeTorch
from edgekit.task import Task


def spec(name: str, *dims: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", dims=("batch", *dims))


SIGNATURES = {
    "encoder": Signature(
        inputs=(spec("input", 12),), outputs=(spec("code", 6),)
    ),
    "decoder": Signature(
        inputs=(spec("code", 6),), outputs=(spec("output", 3),)
    ),
}


class Scaled(nn.Module):
    """Multiplies by a large number, so that the second part's input range shows where it
    was calibrated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 1000.0


def networks() -> dict[str, nn.Module]:
    return {"encoder": Scaled(), "decoder": nn.Sequential(nn.Linear(6, 3))}


def setting(
    folder: pathlib.Path, task: Task | None = None
) -> tuple[Artifact, Context]:
    (folder / "before").mkdir()
    (folder / "after").mkdir()
    data, labels = torch.rand(300, 12), torch.arange(300) % 3
    used_task = task or Task(
        name="random",
        train=(data, labels),
        test=(torch.rand(20, 12), labels[:20]),
    )
    artifact = torch_storage.save(networks(), SIGNATURES, folder / "before", {})
    return artifact, Context(
        folder=folder / "after", networks=networks, task=used_task
    )


def test_parts_are_calibrated_in_order_on_what_the_part_before_gives(
    tmp_path: pathlib.Path,
) -> None:
    """The decoder's input range is that of the encoder's outputs, not of the data."""
    artifact, context = setting(tmp_path)
    step = QuantizeTorch(samples=200)
    step.requires(artifact)
    quantized = step.run(artifact, context)
    step.ensures(artifact, quantized)
    decoder = read(quantized.path(quantized.parts[1], "quantization"))
    entering = next(
        tensor
        for name, tensor in decoder.tensors.items()
        if name.startswith("inputs_0")
    )
    assert entering.scale[0] > 1
    assert (
        quantized.notes["samples"] == 200
        and quantized.notes["parts"]["decoder"]["quantized_ops"] == 1
    )
    assert quantized.notes["parts"]["encoder"]["left_float"] == [], (
        "the number 1,000 is a constant of the int8 product"
    )
    json.dumps(quantized.notes)


def test_the_same_data_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    """Calibration is deterministic, so the cache can trust its key."""
    artifact, context = setting(tmp_path)
    first = [
        path.read_bytes()
        for path in sorted(_quantize(artifact, context).folder.iterdir())
    ]
    second = [
        path.read_bytes()
        for path in sorted(_quantize(artifact, context).folder.iterdir())
    ]
    assert first == second


def test_what_cannot_be_quantized_is_refused_before_any_work(
    tmp_path: pathlib.Path,
) -> None:
    """A scheme of another step, no samples, a network that is quantized already."""
    artifact, context = setting(tmp_path)
    for step, message in (
        (QuantizeTorch(scheme="fp16"), "not available on the PyTorch graph"),
        (QuantizeTorch(samples=0), "0 samples"),
    ):
        with pytest.raises(StepError, match=message):
            step.requires(artifact)
    with pytest.raises(StepError, match="quantized already"):
        QuantizeTorch().requires(_quantize(artifact, context))


def test_changed_weights_are_noticed(tmp_path: pathlib.Path) -> None:
    """The promise is checked on the files."""
    artifact, context = setting(tmp_path)
    quantized = _quantize(artifact, context)
    quantized.path(quantized.parts[0], "weights").write_bytes(b"other")
    with pytest.raises(StepError, match="changed the weights"):
        QuantizeTorch().ensures(artifact, quantized)


def test_a_task_without_data_to_calibrate_on_is_an_error(
    tmp_path: pathlib.Path,
) -> None:
    """The test data are never used for calibration."""
    artifact, context = setting(
        tmp_path,
        Task(name="only test", test=(torch.rand(20, 12), torch.arange(20))),
    )
    with pytest.raises(TaskError, match="calibration"):
        QuantizeTorch().run(artifact, context)


def _quantize(artifact: Artifact, context: Context) -> Artifact:
    return QuantizeTorch(samples=100).run(artifact, context)
