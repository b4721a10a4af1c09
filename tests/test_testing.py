"""The public fakes keep the contracts that they stand in for."""

import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy
import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context, Runner, Step
from edgekit.errors import StepError
from edgekit.signature import BATCH, Signature, TensorSpec
from edgekit.task import Task
from edgekit.testing import (
    CLASSES,
    FEATURES,
    FakeRunner,
    FakeStep,
    fake_step,
    sealed_artifact,
    step_context,
    tiny_convolution,
    tiny_images,
    tiny_network,
    tiny_task,
)


def artifact(folder: pathlib.Path) -> Artifact:
    """A torch artifact with one file."""
    folder.mkdir()
    (folder / "main.safetensors").write_bytes(b"weights")
    spec = TensorSpec(name="input", dtype="float32", dims=(BATCH, FEATURES))
    part = Part(
        name="main",
        signature=Signature(inputs=(spec,), outputs=(spec,)),
        files={"weights": File(path="main.safetensors")},
    )
    return Artifact(format="torch", parts=(part,), folder=folder)


def context(folder: pathlib.Path) -> Context:
    """A context with an empty folder."""
    folder.mkdir()
    return Context(
        folder=folder,
        networks=lambda: {"main": tiny_network()},
        task=tiny_task(),
    )


def test_the_fake_step_is_a_step(tmp_path: pathlib.Path) -> None:
    """It copies the files into the new folder, leaves the old ones alone, and notes its
    mark.
    """
    step: Step = FakeStep(mark="one")
    before = artifact(tmp_path / "a")
    step.requires(before)
    after = step.run(before, context(tmp_path / "b"))
    step.ensures(before, after)
    assert after.format == "torch" and after.notes == {"mark": "one"}
    assert (tmp_path / "b" / "main.safetensors").read_bytes() == (
        tmp_path / "a" / "main.safetensors"
    ).read_bytes()


def test_the_fake_step_breaks_what_it_is_told_to(
    tmp_path: pathlib.Path,
) -> None:
    """It refuses its input, a wrong format, or its own promise, each as a StepError."""
    before = artifact(tmp_path / "a")
    with pytest.raises(StepError, match="no channels left"):
        FakeStep(refuses="no channels left").requires(before)
    with pytest.raises(StepError, match="cannot take the format torch"):
        fake_step("onnx", "tflite")().requires(before)
    with pytest.raises(StepError, match="it grew"):
        FakeStep(breaks="it grew").ensures(before, before)


def test_a_fake_step_between_other_forms(tmp_path: pathlib.Path) -> None:
    """``fake_step`` makes a class between any two formats without changing FakeStep."""
    made = fake_step("torch", "onnx")
    assert made.__name__ == "FakeTorchToOnnx" and (
        FakeStep.takes,
        FakeStep.gives,
    ) == (
        ("torch",),
        "torch",
    )
    assert (
        made(mark="x")
        .run(artifact(tmp_path / "a"), context(tmp_path / "b"))
        .format
        == "onnx"
    )


def test_the_fake_runner_is_a_runner() -> None:
    """It gives what its function gives and tells that it was closed."""
    fake = FakeRunner(lambda feeds: {"output": 2 * feeds["input"]})
    runner: Runner = fake
    with runner:
        assert numpy.array_equal(
            runner.infer({"input": numpy.ones(3)})["output"], [2, 2, 2]
        )
        assert not fake.closed
    assert fake.closed


@pytest.mark.parametrize("make", [tiny_task, tiny_images])
def test_tiny_tasks_are_separable_and_repeatable(
    make: Callable[[int], Task],
) -> None:
    """The nearest class mean of the training data is right on 95 % of the test data; the
    same seed gives the same data.
    """
    task, same, other = make(1), make(1), make(2)
    train, test = task.need("train", "the test"), task.need("test", "the test")
    known, new = (
        split.inputs["input"].reshape(len(split), -1) for split in (train, test)
    )
    means = numpy.stack(
        [known[train.labels == kind].mean(axis=0) for kind in range(CLASSES)]
    )
    nearest = ((new[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == test.labels).mean() > 0.95
    assert task.describe() == same.describe() != other.describe()
    assert task.classes == CLASSES


def test_tiny_networks_fit_the_tiny_tasks() -> None:
    """Each network takes its task's samples, is the same for the same seed, and leaves
    torch's random state alone.
    """
    import torch

    state = torch.random.get_rng_state()
    for make, task in (
        (tiny_network, tiny_task()),
        (tiny_convolution, tiny_images()),
    ):
        values = torch.from_numpy(
            task.need("test", "the test").inputs["input"][:2]
        )
        assert make()(values).shape == (2, CLASSES)
        assert torch.equal(
            make(3)(values), make(3)(values)
        ) and not torch.equal(make(3)(values), make(4)(values))
    assert torch.equal(state, torch.random.get_rng_state())


def test_importing_the_fakes_imports_no_framework() -> None:
    """``import edgekit.testing`` brings neither torch nor a runtime."""
    program = (
        "import sys, edgekit.testing; print([m for m in ('torch', 'onnxruntime', "
        "'onnx', 'ai_edge_litert', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "[]"


def test_a_step_context_has_a_new_folder(tmp_path: pathlib.Path) -> None:
    """An existing folder is not taken over."""
    context = step_context(tmp_path / "new", tiny_task(), seed=3)
    assert list(context.folder.iterdir()) == []
    assert context.seed == 3
    with pytest.raises(FileExistsError):
        step_context(tmp_path / "new", tiny_task())


def test_a_sealed_artifact_has_its_hash_and_size(
    tmp_path: pathlib.Path,
) -> None:
    """The file of its only part is the one that was given."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"12345")
    spec = TensorSpec(name="input", dtype="float32", dims=("batch", 3))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    artifact = sealed_artifact(path, "onnx", signature)
    assert artifact.size_bytes == 5
    assert artifact.path(artifact.parts[0]) == path
    assert artifact.key == artifact.parts[0].files["model"].sha256
