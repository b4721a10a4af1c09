"""The named metrics and what is asked of a user's own."""

from typing import Any

import hypothesis
import numpy
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays_of

from edgekit.checks import metrics
from edgekit.errors import TaskError
from edgekit.task import METRICS

SCORES = arrays_of.arrays(
    "float32",
    strategies.tuples(strategies.integers(1, 20), strategies.integers(2, 9)),
    elements=strategies.integers(-4, 4),
)
REALS = arrays_of.arrays(
    "float64",
    arrays_of.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=strategies.floats(-100, 100),
)


def test_every_name_that_a_task_takes_is_there() -> None:
    """The table holds exactly the names that task.py knows."""
    assert set(metrics.METRICS) == set(METRICS)


@hypothesis.given(SCORES, strategies.randoms(use_true_random=False))
def test_top1_is_argmax_and_top5_is_never_less(
    outputs: Any, random: Any
) -> None:
    """top1 equals a comparison with argmax, ties included; top5 equals the five first of a
    stable sort.
    """
    labels = numpy.array([random.randrange(outputs.shape[1]) for _ in outputs])
    first = metrics.top1(outputs, labels)
    assert numpy.array_equal(first, outputs.argmax(axis=1) == labels)
    five = numpy.argsort(-outputs, axis=1, kind="stable")[:, :5]
    assert numpy.array_equal(
        metrics.top5(outputs, labels), (five == labels[:, None]).any(axis=1)
    )
    assert (metrics.top5(outputs, labels) >= first).all()


def test_top1_of_an_image_is_the_share_of_right_pixels() -> None:
    """Outputs (n, classes, h, w) give for each sample the share of its places that are
    right.
    """
    outputs = numpy.zeros((2, 3, 2, 2), "float32")
    outputs[:, 1] = 1
    labels = numpy.array([[[1, 1], [1, 0]], [[2, 2], [2, 2]]])
    assert metrics.top1(outputs, labels).tolist() == [0.75, 0.0]


def test_nan_is_never_right() -> None:
    """A broken file whose outputs are NaN scores 0, in classes and in labels."""
    outputs = numpy.full((3, 4), numpy.nan, "float32")
    assert metrics.top1(outputs, numpy.array([0, 1, 2])).tolist() == [0, 0, 0]
    assert metrics.top5(outputs, numpy.array([0, 1, 2])).tolist() == [0, 0, 0]
    assert metrics.binary_accuracy(
        outputs[:, 0], numpy.array([0, 1, 0])
    ).tolist() == [
        0,
        0,
        0,
    ]


@hypothesis.given(REALS)
def test_errors_are_negative_and_zero_only_where_equal(values: Any) -> None:
    """negative_mse and negative_l1 are 0 for equal arrays, and minus 4 and minus 2 where
    all differ by 2.
    """
    for metric, worth in (
        (metrics.negative_mse, -4),
        (metrics.negative_l1, -2),
    ):
        assert (metric(values, values) == 0).all()
        assert numpy.allclose(metric(values + 2, values), worth)


def test_a_column_and_a_row_are_not_broadcast() -> None:
    """Outputs (n, 1) with labels (n,) are paired one by one, not each with all."""
    values = numpy.arange(5.0)
    assert metrics.negative_mse(values[:, None], values).tolist() == [0] * 5


def test_binary_accuracy_is_the_sign_of_a_logit() -> None:
    """Above 0 predicts 1, 0 and below predict 0; several labels have the share that is
    correct."""
    assert metrics.binary_accuracy(
        numpy.array([[2.0, -1.0], [0.0, 0.1]]), numpy.array([[1, 0], [1, 1]])
    ).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "message"),
    [
        (
            "top1",
            numpy.zeros((4, 3)),
            numpy.zeros((4, 3), "int64"),
            "not class scores and class indices",
        ),
        (
            "top1",
            numpy.zeros((4, 3)),
            numpy.zeros(4),
            "not class scores and class indices",
        ),
        (
            "top1",
            numpy.zeros((4, 3)),
            numpy.full(4, 3),
            "range from 3 to 3; the model has 3 classes",
        ),
        ("top1", numpy.zeros((4, 3)), numpy.full(4, -1), "range from -1"),
        ("negative_mse", numpy.zeros((4, 3)), numpy.zeros((4, 2)), "differ"),
        (
            "negative_mse",
            numpy.full((2, 1), numpy.nan),
            numpy.zeros(2),
            "2 of 2 scores that are not finite",
        ),
        ("top7", numpy.zeros((4, 3)), numpy.zeros(4), "Did you mean"),
        (
            lambda o, y: o.sum(),
            numpy.zeros((4, 3)),
            numpy.zeros(4),
            r"returned shape \[\] for 4 samples",
        ),
        (
            lambda o, y: o,
            numpy.zeros((4, 3)),
            numpy.zeros(4),
            r"returned shape \[4, 3\]",
        ),
        (
            lambda o, y: ["a"] * 4,
            numpy.zeros((4, 3)),
            numpy.zeros(4),
            "failed: ValueError",
        ),
        (
            lambda o, y: o.missing,
            numpy.zeros((4, 3)),
            numpy.zeros(4),
            "failed: AttributeError",
        ),
        (
            lambda o, y: numpy.full(4, numpy.inf),
            numpy.zeros((4, 3)),
            numpy.zeros(4),
            "4 of 4 scores that are not finite",
        ),
    ],
)
def test_what_does_not_fit_is_reported(
    metric: Any, outputs: Any, labels: Any, message: str
) -> None:
    """Shapes that do not fit, unknown names and a user's broken function are TaskErrors
    that name what is wrong.
    """
    with pytest.raises(TaskError, match=message):
        metrics.scores({"output": outputs}, labels, metric)


def test_a_users_function_gets_the_array_or_all_outputs() -> None:
    """One output comes as an array, several as a dict; its name is the unit."""

    def close(outputs: Any, labels: Any) -> Any:
        return numpy.abs(outputs - labels) < 1

    ones = numpy.ones(3)
    assert metrics.scores({"output": ones}, ones, close).tolist() == [1, 1, 1]
    assert metrics.scores(
        {"a": ones, "b": 2 * ones}, ones, lambda o, y: o["b"] - o["a"]
    ).tolist() == [1, 1, 1]
    assert (
        metrics.metric_name(close) == "close"
        and metrics.metric_name("top1") == "top1"
    )


def test_a_named_metric_needs_one_output_to_read() -> None:
    """Of several outputs the one named ``logits`` is read; without such a name the fix
    is a function.
    """
    eye = numpy.eye(3)
    assert metrics.scores(
        {"boxes": numpy.zeros(3), "logits": eye}, numpy.arange(3), "top1"
    ).tolist() == [1, 1, 1]
    with pytest.raises(
        TaskError, match="outputs a, b; a named metric reads one"
    ):
        metrics.scores({"a": eye, "b": eye}, numpy.arange(3), "top1")
