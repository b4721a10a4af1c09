"""The losses that a task can name, and the check of a user's own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.errors import TaskError, unknown
from edgekit.task import LOSSES

#: Outputs by name and the labels, to a scalar.
Loss = Callable[[Mapping[str, Tensor], Tensor], Tensor]
#: Which of several outputs a named loss looks at, in this order.
MAIN_OUTPUTS = ("output", "logits")


def resolve(loss: str | Callable[..., Any]) -> Loss:
    """The loss of a task, checked at each call: a TaskError says what does not fit.

    A user's function gets one tensor where the model has one output, else a dict of them.
    """
    return _user(loss) if callable(loss) else _named(loss)


def main_output(outputs: Mapping[str, Tensor]) -> Tensor:
    """The tensor that a named loss looks at: the only one, or the one called ``output`` or
    ``logits``.
    """
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    for name in MAIN_OUTPUTS:
        if name in outputs:
            return outputs[name]
    raise TaskError(
        f"A named loss needs one output; the model gives {', '.join(outputs)}.",
        fix="call one of them logits, or give loss=f(outputs, labels)",
    )


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(
        output, labels if labels.is_floating_point() else labels.long()
    )


def _mse(output: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(output, _like(labels, output))


def _l1(output: Tensor, labels: Tensor) -> Tensor:
    return functional.l1_loss(output, _like(labels, output))


def _bce_with_logits(output: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output, _like(labels, output))


_NAMED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "l1": _l1,
    "bce_with_logits": _bce_with_logits,
}


def _like(labels: Tensor, output: Tensor) -> Tensor:
    """Labels in the output's shape ([n] for [n, 1]); other shapes are refused, since
    PyTorch would broadcast them.
    """
    if labels.numel() != output.numel() or len(labels) != len(output):
        raise TaskError(
            f"the labels are {list(labels.shape)}, the output is {list(output.shape)}",
            fix="give labels of the output's shape",
        )
    return labels.reshape(output.shape).to(output.dtype)


def _named(name: str) -> Loss:
    if name not in _NAMED:
        raise TaskError(
            unknown("loss", name, LOSSES),
            fix="give a known name or a function as loss",
        )
    compute = _NAMED[name]

    def loss(outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        output = main_output(outputs)
        try:
            return compute(output, labels)
        except (TaskError, RuntimeError, ValueError, IndexError) as problem:
            why = problem.message if isinstance(problem, TaskError) else str(problem)
            dtype = str(labels.dtype).removeprefix("torch.")
            fix = "check the labels, or give the task another loss"
            raise TaskError(
                f"The loss {name} refuses output {list(output.shape)} with labels {dtype}{list(labels.shape)}: {why.rstrip('.')}.",
                fix=fix,
            ) from problem

    return loss


def _user(function: Callable[..., Any]) -> Loss:
    name = getattr(function, "__name__", type(function).__name__)

    def loss(outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        given: Any = next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
        try:
            value = function(given, labels)
        except Exception as problem:  # the boundary to the user's function
            fix = "f(outputs, labels) gets torch tensors and gives a scalar tensor"
            raise TaskError(
                f"The task's loss {name} raised {type(problem).__name__}: {problem}",
                fix=fix,
            ) from problem
        if (
            not isinstance(value, Tensor)
            or value.numel() != 1
            or (torch.is_grad_enabled() and not value.requires_grad)
        ):
            what = type(value).__name__
            if isinstance(value, Tensor):
                what = f"a tensor {list(value.shape)}" + (
                    "" if value.requires_grad else " without gradient"
                )
            raise TaskError(
                f"The task's loss {name} gave {what}.",
                fix="give one scalar tensor that is computed from the outputs with torch",
            )
        return value.reshape(())

    return loss
