"""The metrics that have a name: outputs and labels to one score a sample, higher is better."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.errors import TaskError, unknown

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Outputs = Mapping[str, Array]

#: Where a model has several outputs, a named metric reads the one with one of these names.
SCORED = ("output", "logits")


def top1(outputs: "Array", labels: "Array") -> "Array":
    """1 where the largest score is the label's, else 0. Outputs (n, classes), labels (n,).

    With more axes, such as (n, classes, height, width) and (n, height, width), the share of
    right places a sample. Of equal scores the first counts, as in argmax. A place with NaN
    is wrong.
    """
    return _among_first(outputs, labels, 1)


def top5(outputs: "Array", labels: "Array") -> "Array":
    """1 where the label is among the five largest scores, else 0; shapes and ties as in
    ``top1``.
    """
    return _among_first(outputs, labels, 5)


def negative_mse(outputs: "Array", labels: "Array") -> "Array":
    """Minus the mean squared difference of a sample; outputs and labels of one shape (or
    (n, 1) and (n,)).
    """
    outputs, labels = _same_shape(outputs, labels)
    return -_sample_mean((outputs - labels) ** 2)


def negative_l1(outputs: "Array", labels: "Array") -> "Array":
    """Minus the mean absolute difference of a sample; outputs and labels of one shape (or
    (n, 1) and (n,)).
    """
    outputs, labels = _same_shape(outputs, labels)
    return -_sample_mean(numpy.abs(outputs - labels))


def binary_accuracy(outputs: "Array", labels: "Array") -> "Array":
    """The share of a sample's labels (0 or 1) that are right; an output above 0, a logit,
    says 1. NaN is wrong.
    """
    outputs, labels = _same_shape(outputs, labels)
    return _sample_mean(((outputs > 0) == (labels > 0.5)) & ~numpy.isnan(outputs))


METRICS: Mapping[str, Callable[["Array", "Array"], "Array"]] = {
    "top1": top1,
    "top5": top5,
    "negative_mse": negative_mse,
    "negative_l1": negative_l1,
    "binary_accuracy": binary_accuracy,
}


def metric_name(metric: str | Callable[..., Any]) -> str:
    """What the report calls a metric."""
    return (
        metric
        if isinstance(metric, str)
        else getattr(metric, "__name__", type(metric).__name__)
    )


def scores(
    outputs: "Outputs", labels: "Array", metric: str | Callable[..., Any]
) -> "Array":
    """One score a sample, as float64.

    A user's function gets the output's array, or the dict of all where there are several.
    Raises TaskError where a metric does not fit the data, fails, or gives anything but one
    finite number a sample.
    """
    name, n = metric_name(metric), len(labels)
    try:
        found = (
            _function(metric)(single(outputs), labels)
            if isinstance(metric, str)
            else metric(_bare(outputs), labels)
        )
        found = numpy.asarray(found, dtype="float64")
    except TaskError:
        raise
    except Exception as error:  # A user's function may raise anything.
        raise TaskError(
            f"The metric {name} failed: {type(error).__name__}: {error}.",
            fix="correct the metric",
        ) from error
    if found.shape != (n,):
        raise TaskError(
            f"The metric {name} gives shape {list(found.shape)} for {n} samples.",
            fix=f"return one score a sample, shape [{n}]",
        )
    if not numpy.isfinite(found).all():
        count = int((~numpy.isfinite(found)).sum())
        raise TaskError(
            f"The metric {name} gives {count} of {n} scores that are not finite.",
            fix="look for NaN in the outputs, or correct the metric",
        )
    return found


def single(outputs: "Outputs") -> "Array":
    """The output that a named metric reads: the only one, or the one called ``output`` or
    ``logits``.
    """
    names = (
        list(outputs) if len(outputs) == 1 else [name for name in SCORED if name in outputs]
    )
    if not names:
        raise TaskError(
            f"The model has the outputs {', '.join(outputs)}; a named metric reads one.",
            fix="return a dict and call one of them logits, or give the task a function as metric",
        )
    return outputs[names[0]]


def _function(name: str) -> Callable[["Array", "Array"], "Array"]:
    if name not in METRICS:
        raise TaskError(
            unknown("metric", name, METRICS),
            fix="give a known name or a function as metric",
        )
    return METRICS[name]


def _bare(outputs: "Outputs") -> Any:
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)


def _among_first(outputs: "Array", labels: "Array", k: int) -> "Array":
    if (
        outputs.ndim < 2
        or outputs.shape[:1] + outputs.shape[2:] != labels.shape
        or not numpy.issubdtype(labels.dtype, numpy.integer)
    ):
        shapes = f"{list(outputs.shape)} and {labels.dtype} {list(labels.shape)}"
        raise TaskError(
            f"Outputs and labels of shape {shapes} are not class scores and class numbers.",
            fix="labels of shape [n] need outputs [n, classes]",
        )
    classes = outputs.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise TaskError(
            f"The labels go from {labels.min()} to {labels.max()}; the model has {classes} classes.",
            fix="number the classes from 0",
        )
    own = numpy.expand_dims(labels, 1)
    score = numpy.take_along_axis(outputs, own, axis=1)
    index = numpy.arange(classes).reshape(1, classes, *[1] * (outputs.ndim - 2))
    before = ((outputs > score) | ((outputs == score) & (index < own))).sum(axis=1)
    return _sample_mean((before < k) & ~numpy.isnan(outputs).any(axis=1))


def _same_shape(outputs: "Array", labels: "Array") -> "tuple[Array, Array]":
    """Both as float64 in the outputs' shape.

    Shapes that only differ in axes of length 1 are the same; nothing else is.
    """
    if [d for d in outputs.shape[1:] if d != 1] != [
        d for d in labels.shape[1:] if d != 1
    ] or len(outputs) != len(labels):
        said = f"Outputs of shape {list(outputs.shape)} and labels of shape {list(labels.shape)} ({labels.dtype}) differ."
        raise TaskError(
            said,
            fix="give labels in the outputs' shape, or, where they are classes, whole numbers (int64) and the metric top1",
        )
    return outputs.astype("float64"), labels.reshape(outputs.shape).astype("float64")


def _sample_mean(values: "Array") -> "Array":
    n = len(values)
    mean: Array = values.reshape(n, -1).astype("float64").mean(axis=1)
    return mean
