"""The named metrics: outputs and labels to one score per sample, higher is better."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.device_worker.judging import SCORED, score_top_k
from edgekit.errors import TaskError, unknown

if TYPE_CHECKING:
    from edgekit.arrays import Array

    Outputs = Mapping[str, Array]
    #: A name of ``METRICS``, or a function of the user.
    Metric = str | Callable[..., Any]


def top1(outputs: "Array", labels: "Array") -> "Array":
    """Return 1 if the largest output is the label's, else 0. Outputs (n, classes), labels (n,).

    With more axes, such as (n, classes, height, width) and (n, height, width), the share of
    correct positions. Of equal outputs the first ranks first, as in argmax. NaN is not
    correct. Raises TaskError if shapes or labels do not fit.
    """
    _check_classes(outputs, labels)
    return score_top_k(outputs, labels, 1)


def top5(outputs: "Array", labels: "Array") -> "Array":
    """Return 1 if the label is among the five largest outputs, else 0; shapes, ties and errors
    as in ``top1``.
    """
    _check_classes(outputs, labels)
    return score_top_k(outputs, labels, 5)


def negative_mse(outputs: "Array", labels: "Array") -> "Array":
    """Return minus the mean squared difference of each sample; outputs and labels have one
    shape (or (n, 1) and (n,)).
    """
    outputs, labels = _same_shape(outputs, labels)
    return -_sample_mean((outputs - labels) ** 2)


def negative_l1(outputs: "Array", labels: "Array") -> "Array":
    """Return minus the mean absolute difference of each sample; outputs and labels have one
    shape (or (n, 1) and (n,)).
    """
    outputs, labels = _same_shape(outputs, labels)
    return -_sample_mean(numpy.abs(outputs - labels))


def binary_accuracy(outputs: "Array", labels: "Array") -> "Array":
    """Return the share of a sample's labels (0 or 1) that are predicted.

    An output above 0, a logit, predicts 1. NaN is not correct.
    """
    outputs, labels = _same_shape(outputs, labels)
    return _sample_mean(
        ((outputs > 0) == (labels > 0.5)) & ~numpy.isnan(outputs)
    )


METRICS: Mapping[str, Callable[["Array", "Array"], "Array"]] = {
    "top1": top1,
    "top5": top5,
    "negative_mse": negative_mse,
    "negative_l1": negative_l1,
    "binary_accuracy": binary_accuracy,
}


def metric_name(metric: "Metric") -> str:
    """Return a metric's name in reports."""
    if isinstance(metric, str):
        return metric
    name: str = getattr(metric, "__name__", type(metric).__name__)
    return name


def scores(outputs: "Outputs", labels: "Array", metric: "Metric") -> "Array":
    """Return one score per sample, as float64.

    A user's function gets the output's array, or the dict of all if there are several. Raises
    TaskError if a metric does not fit the data, fails, or returns anything but one finite
    number per sample.
    """
    name = metric_name(metric)
    n = len(labels)
    try:
        values = numpy.asarray(_apply(metric, outputs, labels), dtype="float64")
    except TaskError:
        raise
    except Exception as error:  # A user's function may raise anything.
        raise TaskError(
            f"The metric {name} failed: {type(error).__name__}: {error}.",
            fix="correct the metric",
        ) from error
    if values.shape != (n,):
        raise TaskError(
            f"The metric {name} returned shape {list(values.shape)} for {n} samples.",
            fix=f"return one score per sample, shape [{n}]",
        )
    invalid = int((~numpy.isfinite(values)).sum())
    if invalid:
        raise TaskError(
            f"The metric {name} returned {invalid} of {n} scores that are not finite.",
            fix="look for NaN in the outputs, or correct the metric",
        )
    return values


def single(outputs: "Outputs") -> "Array":
    """Return the output that a named metric reads: the only one, or the one named ``output``
    or ``logits``.

    Raises TaskError if there are several and none has such a name.
    """
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    for name in SCORED:
        if name in outputs:
            return outputs[name]
    raise TaskError(
        f"The model has the outputs {', '.join(outputs)}; a named metric reads one.",
        fix="return a dict and name one of them logits, or give the task a function as metric",
    )


def _apply(metric: "Metric", outputs: "Outputs", labels: "Array") -> Any:
    if not isinstance(metric, str):
        only = len(outputs) == 1
        return metric(
            next(iter(outputs.values())) if only else dict(outputs), labels
        )
    if metric not in METRICS:
        raise TaskError(
            unknown("metric", metric, METRICS),
            fix="use one of these names, or a function as metric",
        )
    return METRICS[metric](single(outputs), labels)


def _check_classes(outputs: "Array", labels: "Array") -> None:
    is_integer = numpy.issubdtype(labels.dtype, numpy.integer)
    expected = outputs.shape[:1] + outputs.shape[2:]
    if outputs.ndim < 2 or labels.shape != expected or not is_integer:
        raise TaskError(
            f"Outputs of shape {list(outputs.shape)} and labels of shape"
            f" {list(labels.shape)} ({labels.dtype}) are not class scores and class indices.",
            fix="labels of shape [n] need outputs [n, classes]",
        )
    classes = outputs.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise TaskError(
            f"The labels range from {labels.min()} to {labels.max()}; the model has {classes}"
            " classes.",
            fix="number the classes from 0",
        )


def _same_shape(outputs: "Array", labels: "Array") -> "tuple[Array, Array]":
    """Return both as float64 in the outputs' shape.

    Shapes that only differ in axes of length 1 are the same; nothing else is.
    """
    output_dims = [dim for dim in outputs.shape[1:] if dim != 1]
    label_dims = [dim for dim in labels.shape[1:] if dim != 1]
    if output_dims != label_dims or len(outputs) != len(labels):
        raise TaskError(
            f"Outputs of shape {list(outputs.shape)} and labels of shape"
            f" {list(labels.shape)} ({labels.dtype}) differ.",
            fix="give labels in the outputs' shape, or, if they are classes, integers (int64)"
            " and the metric top1",
        )
    return outputs.astype("float64"), labels.reshape(outputs.shape).astype(
        "float64"
    )


def _sample_mean(values: "Array") -> "Array":
    mean: Array = values.reshape(len(values), -1).astype("float64").mean(axis=1)
    return mean
