"""The losses that a task can name, checks of a user's own, and losses for distillation."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.errors import StepError, TaskError, unknown
from edgekit.task import LOSSES

Outputs = Mapping[str, Tensor]
#: Outputs by name and the labels, to a scalar.
Loss = Callable[[Outputs, Tensor], Tensor]
#: The names of the output that a named loss uses, if there are several; the first that
#: exists.
MAIN_OUTPUTS = ("output", "logits")


def resolve(loss: str | Callable[..., Any]) -> Loss:
    """The loss of a task.

    It raises TaskError at each call if output and labels do not fit. A user's function gets
    one tensor if the model has one output, else a dict of tensors.
    """
    return _wrap_function(loss) if callable(loss) else _find_named(loss)


def main_output(outputs: Outputs) -> Tensor:
    """The tensor that a named loss uses: the only one, or ``output``, or ``logits``.

    Raises TaskError if there are several, with other names.
    """
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    for name in MAIN_OUTPUTS:
        if name in outputs:
            return outputs[name]
    raise TaskError(
        f"A named loss needs one output; the model returns {', '.join(outputs)}.",
        fix="name one of them logits, or give loss=f(outputs, labels)",
    )


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    targets = labels if labels.is_floating_point() else labels.long()
    return functional.cross_entropy(output, targets)


def _mse(output: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(output, _reshape_labels(labels, output))


def _l1(output: Tensor, labels: Tensor) -> Tensor:
    return functional.l1_loss(output, _reshape_labels(labels, output))


def _bce_with_logits(output: Tensor, labels: Tensor) -> Tensor:
    targets = _reshape_labels(labels, output)
    return functional.binary_cross_entropy_with_logits(output, targets)


_NAMED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "l1": _l1,
    "bce_with_logits": _bce_with_logits,
}


def _reshape_labels(labels: Tensor, output: Tensor) -> Tensor:
    """Labels in the output's shape ([n] for [n, 1]) and dtype.

    Raises TaskError for other shapes, which PyTorch would broadcast.
    """
    if labels.numel() != output.numel() or len(labels) != len(output):
        raise TaskError(
            f"the labels are {list(labels.shape)}, the output is {list(output.shape)}",
            fix="give labels of the output's shape",
        )
    return labels.reshape(output.shape).to(output.dtype)


def _find_named(name: str) -> Loss:
    if name not in _NAMED:
        raise TaskError(
            unknown("loss", name, LOSSES),
            fix="give a known name or a function as loss",
        )
    compute = _NAMED[name]

    def loss(outputs: Outputs, labels: Tensor) -> Tensor:
        output = main_output(outputs)
        try:
            return compute(output, labels)
        except (TaskError, RuntimeError, ValueError, IndexError) as problem:
            why = (
                problem.message
                if isinstance(problem, TaskError)
                else str(problem)
            )
            dtype = str(labels.dtype).removeprefix("torch.")
            raise TaskError(
                f"The loss {name} does not accept output {list(output.shape)} "
                f"with labels {dtype}{list(labels.shape)}: {why.rstrip('.')}.",
                fix="check the labels, or give the task another loss",
            ) from problem

    return loss


def _wrap_function(function: Callable[..., Any]) -> Loss:
    name = getattr(function, "__name__", type(function).__name__)

    def loss(outputs: Outputs, labels: Tensor) -> Tensor:
        argument: Any = dict(outputs)
        if len(outputs) == 1:
            argument = next(iter(outputs.values()))
        try:
            value = function(argument, labels)
        except Exception as problem:  # the boundary to the user's function
            raise TaskError(
                f"The task's loss {name} raised {type(problem).__name__}: {problem}",
                fix="f(outputs, labels) gets torch tensors and returns a scalar tensor",
            ) from problem
        if not _is_trainable_scalar(value):
            raise TaskError(
                f"The task's loss {name} returned {_describe(value)}.",
                fix="return one scalar tensor that is computed from the outputs with torch",
            )
        scalar: Tensor = value.reshape(())
        return scalar

    return loss


def _is_trainable_scalar(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.numel() != 1:
        return False
    return value.requires_grad or not torch.is_grad_enabled()


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    gradient = "" if value.requires_grad else " without gradient"
    return f"a tensor {list(value.shape)}{gradient}"


def softened_divergence(
    outputs: Outputs, teacher: Outputs, temperature: float
) -> Tensor:
    """T^2 KL(teacher || student) of the probabilities at temperature T.

    The mean over samples (and positions); classes are on axis 1. The factor T^2 keeps the
    gradients as large as those of the labels (Hinton et al. 2015, section 2). Raises
    StepError if the shapes differ.
    """
    student_logits = main_output(outputs)
    teacher_logits = main_output(teacher)
    _check_shapes({"output": student_logits}, {"output": teacher_logits})
    student = functional.log_softmax(student_logits / temperature, 1)
    target = functional.log_softmax(teacher_logits / temperature, 1)
    divergence = functional.kl_div(
        student, target, reduction="none", log_target=True
    )
    return divergence.sum(1).mean() * temperature**2


def mean_squared_difference(outputs: Outputs, teacher: Outputs) -> Tensor:
    """The mean squared difference to the teacher, averaged over all float outputs.

    Raises StepError if the shapes differ.
    """
    _check_shapes(outputs, teacher)
    differences = [
        functional.mse_loss(output, teacher[name])
        for name, output in outputs.items()
        if output.is_floating_point()
    ]
    return torch.stack(differences).mean()


def distillation(
    loss: str | Callable[..., Any], temperature: float
) -> Callable[[Outputs, Outputs], Tensor]:
    """The loss of outputs against a teacher's, for a task with the loss ``loss``.

    For class logits (cross_entropy) it is ``softened_divergence``; for any other loss
    ``mean_squared_difference``.
    """
    if loss != "cross_entropy":
        return mean_squared_difference

    def divergence(outputs: Outputs, teacher: Outputs) -> Tensor:
        return softened_divergence(outputs, teacher, temperature)

    return divergence


def _check_shapes(outputs: Outputs, teacher: Outputs) -> None:
    student_shapes = {
        name: list(tensor.shape) for name, tensor in outputs.items()
    }
    teacher_shapes = {
        name: list(tensor.shape) for name, tensor in teacher.items()
    }
    if student_shapes != teacher_shapes:
        raise StepError(
            "Student and teacher return different outputs: "
            f"{student_shapes} and {teacher_shapes}.",
            fix="use a teacher with the student's outputs",
        )
