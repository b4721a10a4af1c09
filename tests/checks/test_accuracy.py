"""Accuracy, its loss and the agreement: right numbers, paired, and a loss that is there is
seen.
"""

from typing import Any

import numpy
import pytest

from edgekit.checks.accuracy import (
    ScoredOutputs,
    accuracy,
    check,
    measure,
    predictions,
    score_runner,
)
from edgekit.errors import RunnerError, TaskError
from edgekit.measurement import Measurement, judge_at_least, judge_at_most
from edgekit.task import Split, Task
from edgekit.testing import CLASSES, FakeRunner, tiny_task

N = 1000


def scored(right: Any, where: str = "here") -> ScoredOutputs:
    """Outputs for samples of class 0 that are right where ``right`` is 1."""
    values = numpy.asarray(right, dtype="float64")
    return ScoredOutputs(
        {
            "output": numpy.stack(
                [values, 0.5 * numpy.ones(len(values))], axis=1
            )
        },
        values,
        where,
    )


def right(wrong: int, start: int = 0) -> Any:
    """N times right but for ``wrong`` in a row."""
    marks = numpy.ones(N)
    marks[start : start + wrong] = 0
    return marks


def by_name(measured: list[Measurement]) -> dict[str, Measurement]:
    """The measurements by name."""
    return {measurement.name: measurement for measurement in measured}


def nearest(shift: float = 0.0, **change: Any) -> FakeRunner:
    """A runner that classifies ``tiny_task`` by its first three features; ``shift`` spoils
    the first class.
    """

    def call(feeds: Any) -> Any:
        scores = feeds["input"][:, :CLASSES].copy()
        scores[:, 0] += shift
        return {"output": scores, **change}

    return FakeRunner(call, "fake: nearest")


def test_the_three_numbers_of_a_real_task() -> None:
    """accuracy, accuracy_drop and agreement come with value, interval, unit, n, where and
    how.
    """
    measured = by_name(check(nearest(-3), nearest(), tiny_task()))
    assert list(measured) == ["accuracy", "accuracy_drop", "agreement"]
    for measurement in measured.values():
        assert (
            measurement.low is not None
            and measurement.high is not None
            and measurement.value is not None
        )
        assert measurement.low <= measurement.value <= measurement.high
        assert measurement.n == 100 and measurement.where == "fake: nearest"
    assert (
        measured["accuracy"].unit,
        measured["accuracy_drop"].unit,
        measured["agreement"].unit,
    ) == ("top1", "top1", "share")
    assert (
        measured["accuracy_drop"].detail["worse"]
        > 0
        == measured["accuracy_drop"].detail["better"]
    )


def test_a_loss_of_two_points_is_seen_at_a_thousand_samples() -> None:
    """20 more of 1,000 wrong: the drop is 0.02, the interval leaves out 0, and a gate of
    half a point fails.
    """
    measured = by_name(measure(scored(right(60)), scored(right(40)), "top1"))
    drop = measured["accuracy_drop"]
    assert (
        drop.value == pytest.approx(0.02)
        and drop.low is not None
        and drop.low > 0.01
    )
    assert (
        judge_at_most(drop, 0.005) == "fail"
        and judge_at_most(drop, 0.03) == "pass"
        and judge_at_most(drop, 0.02) == "inconclusive"
    )
    assert judge_at_least(measured["agreement"], 0.99) == "fail"


def test_a_loss_among_exchanged_samples_is_seen_too() -> None:
    """40 lost and 20 won of 1,000: still a drop of 2 points whose interval leaves out 0."""
    reference, candidate = right(20, start=100), right(40)
    drop = by_name(measure(scored(candidate), scored(reference), "top1"))[
        "accuracy_drop"
    ]
    assert (
        drop.value == pytest.approx(0.02)
        and drop.low is not None
        and drop.low > 0
    )
    assert (drop.detail["worse"], drop.detail["better"]) == (40, 20)


def test_pairing_sees_what_two_intervals_hide() -> None:
    """The same loss of 2 points is inside the overlap of the two accuracies' own
    intervals.
    """
    worse, better = (
        accuracy(scored(right(60)), "top1"),
        accuracy(scored(right(40)), "top1"),
    )
    assert (
        worse.high is not None
        and better.low is not None
        and worse.high > better.low
    )


def test_a_file_against_itself_loses_nothing() -> None:
    """The drop is 0 with an interval around 0 that is not empty, and all agree."""
    measured = by_name(measure(scored(right(40)), scored(right(40)), "top1"))
    drop = measured["accuracy_drop"]
    assert (
        drop.value == 0
        and drop.low is not None
        and drop.high is not None
        and drop.low < 0 < drop.high < 0.003
    )
    assert measured["agreement"].value == 1 and measured[
        "agreement"
    ].detail == {"different": 0}


def test_equal_accuracy_with_other_predictions_is_seen_in_the_agreement() -> (
    None
):
    """Two that are wrong on different samples have the same accuracy, and an agreement of
    90 %.
    """
    measured = by_name(
        measure(scored(right(50)), scored(right(50, start=500)), "top1")
    )
    assert measured["accuracy_drop"].value == 0 and measured[
        "agreement"
    ].value == pytest.approx(0.9)


def test_an_output_of_nan_is_wrong_and_agrees_with_nothing() -> None:
    """A candidate that outputs NaN has accuracy 0 and agreement 0, even against itself."""
    task = tiny_task()
    broken = FakeRunner(
        lambda feeds: {
            "output": numpy.full((len(feeds["input"]), CLASSES), numpy.nan)
        }
    )
    measured = by_name(check(broken, broken, task))
    assert measured["accuracy"].value == 0 and measured["agreement"].value == 0


def test_real_scores_are_paired_by_bootstrap() -> None:
    """A regression has a drop with a bootstrap interval, Student's for the mean, and no
    agreement.
    """
    random = numpy.random.default_rng(0)
    values = random.standard_normal((200, 4)).astype("float32")
    task = Task("sums", test=(values, values.sum(axis=1)), metric="negative_l1")
    exact = FakeRunner(lambda feeds: {"output": feeds["input"].sum(axis=1)})
    off = FakeRunner(
        lambda feeds: {
            "output": feeds["input"].sum(axis=1) + 0.1 * feeds["input"][:, 0]
        }
    )
    measured = by_name(check(off, exact, task))
    assert list(measured) == ["accuracy", "accuracy_drop"]
    drop = measured["accuracy_drop"]
    assert "bootstrap" in drop.how and drop.low is not None and drop.low > 0.05
    assert "Student" in measured["accuracy"].how


def test_one_real_score_is_unmeasured() -> None:
    """One sample with a real score has no interval, so no gate can pass; one with a 0/1
    score has a wide one.
    """
    one = ScoredOutputs(
        {"output": numpy.ones((1, 1))}, numpy.array([0.3]), "here"
    )
    assert [m.verdict for m in measure(one, one, "negative_l1")] == [
        "unmeasured",
        "unmeasured",
    ]
    measured = by_name(measure(scored([1.0]), scored([1.0]), "top1"))
    assert (
        measured["accuracy"].low is not None and measured["accuracy"].low < 0.25
    )
    assert judge_at_most(measured["accuracy_drop"], 0.02) == "inconclusive"


def test_a_users_metric_names_the_unit() -> None:
    """A function of the user's is the metric; its name is the unit; there is no agreement
    to speak of.
    """

    def generous(outputs: Any, labels: Any) -> Any:
        return numpy.ones(len(labels))

    source = tiny_task().need("test", "the test")
    measured = check(
        nearest(),
        nearest(),
        Task(
            "t", test=(source.inputs["input"], source.labels), metric=generous
        ),
    )
    assert [(m.name, m.value, m.unit) for m in measured] == [
        ("accuracy", 1, "generous"),
        ("accuracy_drop", 0, "generous"),
    ]


def test_a_growing_subset_needs_no_second_run() -> None:
    """The outputs for the first samples are the first of all outputs."""
    split = tiny_task().need("test", "the test")
    all_of_them, few = (
        score_runner(nearest(), split, "top1"),
        score_runner(nearest(), split.take(30), "top1"),
    )
    assert numpy.array_equal(all_of_them.take(30).scores, few.scores)
    assert numpy.array_equal(
        all_of_them.take(30).outputs["output"], few.outputs["output"]
    )


def test_agreement_of_pixels_and_signs() -> None:
    """Several predictions per sample count with their share; a binary output predicts by its
    sign.
    """
    left, right_ = numpy.zeros((1, 2, 2, 2)), numpy.zeros((1, 2, 2, 2))
    left[:, 1], right_[:, 1] = 1, 1
    right_[0, 1, 0, 0] = -1
    pair = [
        ScoredOutputs({"output": array}, numpy.ones(1), "here")
        for array in (left, right_)
    ]
    shown = [predictions(each, "top1") for each in pair]
    assert (
        shown[0] is not None
        and shown[1] is not None
        and (shown[0] == shown[1]).mean() == 0.75
    )
    signs = predictions(
        ScoredOutputs(
            {"output": numpy.array([-1.0, 0, 2, numpy.nan])},
            numpy.ones(4),
            "here",
        ),
        "binary_accuracy",
    )
    assert signs is not None and signs.tolist() == [0, 0, 1, -1]


def test_what_cannot_be_scored_is_refused() -> None:
    """No labels, outputs without one row per sample, and different numbers of samples are
    errors.
    """
    split = tiny_task().need("test", "the test")
    with pytest.raises(TaskError, match="without labels"):
        score_runner(nearest(), Split(split.inputs, None), "top1")
    with pytest.raises(
        RunnerError,
        match="expected outputs with one row for each of 100 samples",
    ):
        score_runner(nearest(extra=numpy.ones(3)), split, "top1")
    with pytest.raises(RunnerError, match="Cannot pair 1000 samples with 1"):
        measure(scored(right(0)), scored([1.0]), "top1")
