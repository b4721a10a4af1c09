"""Training with a teacher's outputs."""

import pathlib
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.steps import losses, torch_storage
from edgekit.steps.distill import Distill
from edgekit.steps.load_model import LoadModel
from edgekit.task import Task

RANDOM = numpy.random.default_rng(0)
POINTS = RANDOM.normal(size=(256, 4)).astype("float32")
#: The labels are noise: what the student learns can come from the teacher only.
NOISE = Task(
    "noise",
    train=(POINTS[:192], RANDOM.integers(0, 2, 192)),
    test=(POINTS[192:], RANDOM.integers(0, 2, 64)),
)
CURVE = Task(
    "curve",
    train=(POINTS[:192], POINTS[:192, :1]),
    test=(POINTS[192:], POINTS[192:, :1]),
    loss="mse",
    metric="negative_mse",
)

Make = Callable[[], dict[str, nn.Module]]


def network(width: int, outputs: int) -> Make:
    """A way to make fresh networks."""
    return lambda: {
        "main": nn.Sequential(
            nn.Linear(4, width), nn.ReLU(), nn.Linear(width, outputs)
        )
    }


def loaded(folder: pathlib.Path, make: Make, task: Task, seed: int) -> Artifact:
    """An untrained network as an artifact."""
    folder.mkdir()
    return LoadModel("net").run(
        None, Context(folder=folder, networks=make, task=task, seed=seed)
    )


def distilled(
    folder: pathlib.Path, task: Task, outputs: int, step: Distill
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs on the test data: of the teacher, of the student before and after."""
    teacher, student = (
        loaded(folder / "t", network(16, outputs), task, 1),
        loaded(folder / "s", network(8, outputs), task, 2),
    )
    (folder / "d").mkdir()
    context = Context(
        folder=folder / "d",
        networks=network(8, outputs),
        task=task,
        teacher=teacher,
        teacher_networks=network(16, outputs),
    )
    step.requires(student)
    after = step.run(student, context)
    step.ensures(student, after)
    x = torch.from_numpy(task.need("test", "a test").inputs["input"])
    with torch.no_grad():
        teacher_outputs = torch_storage.load(teacher, network(16, outputs)())[
            "main"
        ](x)
        return teacher_outputs, *(
            torch_storage.load(artifact, network(8, outputs)())["main"](x)
            for artifact in (student, after)
        )


def test_the_student_learns_the_teachers_classes(
    tmp_path: pathlib.Path,
) -> None:
    """With alpha 1 the labels do not matter: trained on noise labels, the student agrees
    with its teacher.
    """
    teacher, before, after = distilled(
        tmp_path,
        NOISE,
        2,
        Distill(epochs=30, batch_size=32, learning_rate=0.03, alpha=1.0),
    )
    assert (
        (after.argmax(1) == teacher.argmax(1)).float().mean()
        > 0.9
        > (before.argmax(1) == teacher.argmax(1)).float().mean()
    )


def test_other_losses_learn_the_teachers_numbers(
    tmp_path: pathlib.Path,
) -> None:
    """For a regression the student comes near the teacher's outputs."""
    teacher, before, after = distilled(
        tmp_path,
        CURVE,
        1,
        Distill(epochs=30, batch_size=32, learning_rate=0.03, alpha=1.0),
    )
    assert (
        functional.mse_loss(after, teacher)
        < functional.mse_loss(before, teacher) / 10
    )


def test_alpha_zero_is_plain_training(tmp_path: pathlib.Path) -> None:
    """Without the teacher's share the labels alone count."""
    teacher, _, after = distilled(
        tmp_path,
        CURVE,
        1,
        Distill(epochs=30, batch_size=32, learning_rate=0.03, alpha=0.0),
    )
    labels = torch.from_numpy(POINTS[192:, :1])
    assert (
        functional.mse_loss(after, labels)
        < 0.05
        < functional.mse_loss(after, teacher)
    )


def test_softened_is_hintons_formula() -> None:
    """T^2 times the divergence of the softened probabilities, the mean over samples; 0 for
    equal logits.
    """
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 3.0]]),
        torch.tensor([[2.0, 0.0], [1.0, 1.0]]),
    )
    p, q = (
        functional.softmax(teacher / 4, 1),
        functional.softmax(student / 4, 1),
    )
    expected = 16 * (p * (p / q).log()).sum(1).mean()
    assert torch.isclose(
        losses.softened_divergence(
            {"output": student}, {"output": teacher}, 4.0
        ),
        expected,
    )
    assert losses.softened_divergence(
        {"output": teacher}, {"output": teacher}, 4.0
    ).item() == pytest.approx(0, abs=1e-6)


def test_softened_takes_a_mean_over_places() -> None:
    """For [n, classes, h, w] every place counts as one sample."""
    flat, teacher = torch.rand(6, 3), torch.rand(6, 3)
    wide = [
        tensor.reshape(2, 3, 3).permute(0, 2, 1) for tensor in (flat, teacher)
    ]
    assert torch.isclose(
        losses.softened_divergence({"o": wide[0]}, {"o": wide[1]}, 2.0),
        losses.softened_divergence({"o": flat}, {"o": teacher}, 2.0),
    )


def test_a_teacher_of_other_outputs_is_refused() -> None:
    """Both shapes are reported."""
    with pytest.raises(StepError, match=r"\[2, 3\].*\[2, 4\]"):
        losses.softened_divergence(
            {"output": torch.zeros(2, 3)}, {"output": torch.zeros(2, 4)}, 4.0
        )
    with pytest.raises(StepError, match="different outputs"):
        losses.mean_squared_difference(
            {"a": torch.zeros(2)}, {"b": torch.zeros(2)}
        )


def test_distillation_needs_a_teacher(tmp_path: pathlib.Path) -> None:
    """Without one the error contains the recipe's line."""
    student = loaded(tmp_path / "s", network(8, 2), NOISE, 0)
    with pytest.raises(StepError, match="no teacher") as caught:
        Distill().run(
            student,
            Context(folder=tmp_path, networks=network(8, 2), task=NOISE),
        )
    assert "distill: {teacher:" in (caught.value.fix or "")
