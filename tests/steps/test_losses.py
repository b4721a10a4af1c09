"""The losses of a task."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgekit.errors import TaskError
from edgekit.steps import losses
from edgekit.task import LOSSES


def outputs(*shape: int) -> dict[str, Tensor]:
    """One output that can be trained."""
    return {"output": torch.zeros(*shape, requires_grad=True)}


def test_every_name_of_the_task_is_known() -> None:
    """What a task may name can be computed: ln 10 for ten equal classes, 1 for a distance
    of 1, ln 2 for a coin.
    """
    labels = {
        "cross_entropy": torch.zeros(4, dtype=torch.int32),
        "mse": torch.ones(4),
        "l1": torch.ones(4),
        "bce_with_logits": torch.ones(4),
    }
    shapes = {
        "cross_entropy": (4, 10),
        "mse": (4, 1),
        "l1": (4, 1),
        "bce_with_logits": (4, 1),
    }
    expected = {
        "cross_entropy": math.log(10),
        "mse": 1.0,
        "l1": 1.0,
        "bce_with_logits": math.log(2),
    }
    for name in LOSSES:
        assert losses.resolve(name)(
            outputs(*shapes[name]), labels[name]
        ).item() == pytest.approx(expected[name])


def test_labels_are_not_broadcast() -> None:
    """Labels [n] for an output [n, 1] are lined up, and labels of another size are refused,
    not spread.
    """
    predictions = {"output": torch.tensor([[0.0], [1.0]], requires_grad=True)}
    assert (
        losses.resolve("mse")(predictions, torch.tensor([0.0, 1.0])).item() == 0
    )
    with pytest.raises(
        TaskError, match=r"output \[2, 1\] with labels float32\[2, 3\]"
    ):
        losses.resolve("mse")(predictions, torch.zeros(2, 3))


def test_labels_beyond_the_classes_are_refused() -> None:
    """Class number 10 of 10 classes."""
    with pytest.raises(
        TaskError,
        match=r"\[1, 10\] with labels int64\[1\]: Target 10 is out of bounds",
    ):
        losses.resolve("cross_entropy")(outputs(1, 10), torch.tensor([10]))


def test_a_named_loss_finds_the_logits() -> None:
    """Of several outputs the one called output or logits is taken; without one, the user is
    asked for a function.
    """
    several = {
        "features": torch.zeros(2, 3),
        "logits": torch.zeros(2, 10, requires_grad=True),
    }
    assert losses.resolve("cross_entropy")(
        several, torch.zeros(2)[:].long()
    ).item() == pytest.approx(math.log(10))
    with pytest.raises(TaskError, match="the model returns a, b"):
        losses.resolve("cross_entropy")(
            {"a": torch.zeros(2), "b": torch.zeros(2)}, torch.zeros(2)
        )


def test_a_users_function_gets_a_tensor_or_a_dict() -> None:
    """One output comes bare, several come by name."""
    assert (
        losses.resolve(functional.mse_loss)(
            outputs(2, 1), torch.ones(2, 1)
        ).item()
        == 1
    )
    both = {**outputs(2, 1), "extra": torch.ones(2, 1)}
    assert (
        losses.resolve(
            lambda out, labels: (out["output"] + out["extra"]).sum()
        )(both, torch.ones(2, 1)).item()
        == 2
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda out, labels: out, r"a tensor \[2, 3\]"),
        (lambda out, labels: 1.5, "returned float"),
        (lambda out, labels: out.detach().sum(), "without gradient"),
        (lambda out, labels: out["logits"], "raised IndexError"),
    ],
)
def test_a_users_function_that_cannot_be_used_is_refused(
    function: object, message: str
) -> None:
    """Anything but a scalar that can be differentiated is refused by name."""
    with pytest.raises(TaskError, match=message):
        losses.resolve(function)(outputs(2, 3), torch.zeros(2))  # type: ignore[arg-type]
