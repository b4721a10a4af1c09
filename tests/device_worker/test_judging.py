"""What two machines may differ by, and what that is worth."""

from typing import Any

import numpy
import pytest

from edgekit.checks import metrics
from edgekit.device_worker import judging

REFERENCE = {"output": numpy.array([[1.0, 2.0], [3.0, 0.0]], "float32")}
EXPECTED = {"output": numpy.array([[1.0, 2.5], [3.0, 0.5]], "float32")}
FACTS: dict[str, Any] = {
    "steps": {"output": 0.5},
    "parity_steps": 2.0,
    "where": "there",
    "metric": "top1",
    "gates": {"accuracy_drop": 0.02, "speedup": 1.0},
}


def moved(by: float) -> dict[str, Any]:
    """The expected outputs with one number moved."""
    array = EXPECTED["output"].copy()
    array[0, 1] += by
    return {"output": array}


def named(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by name."""
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize(
    ("by", "verdict", "equal"),
    [(0.0, "pass", 1.0), (1.0, "pass", 0.75), (1.5, "fail", 0.75)],
)
def test_parity_is_counted_in_steps(
    by: float, verdict: str, equal: float
) -> None:
    """Two steps pass, three do not; the share of equal numbers is another row."""
    rows = named(
        judging.compare_outputs(moved(by), EXPECTED, REFERENCE, FACTS, "here")
    )
    assert (
        rows["parity"]["verdict"],
        rows["parity"]["value"],
        rows["bit_equal"]["value"],
    ) == (verdict, by / 0.5, equal)


def test_less_than_quantization_itself_moves_is_the_same_network() -> None:
    """A difference of three steps passes where the file is four steps away from float
    anyway, and the row explains it.
    """
    far = {"output": REFERENCE["output"] - 2.0}
    row = judging.compare_outputs(moved(1.5), EXPECTED, far, FACTS, "here")[0]
    assert row["verdict"] == "pass" and "quantization error" in row["how"]


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ({}, "output 'output' is missing"),
        ({"output": numpy.ones((2, 3))}, "has shape"),
        ({"output": numpy.full((2, 2), numpy.nan)}, "is not finite"),
    ],
)
def test_other_outputs_fail(ours: dict[str, Any], message: str) -> None:
    """A missing output, another shape and NaN fail with the reason."""
    rows = judging.compare_outputs(ours, EXPECTED, REFERENCE, FACTS, "here")
    assert [row["verdict"] for row in rows] == ["fail"] and message in rows[0][
        "how"
    ]


@pytest.mark.parametrize("metric", sorted(judging.SCORES))
def test_scores_are_those_of_the_full_check(metric: str) -> None:
    """The metrics here give the same scores as edgekit's own, ties and NaN included."""
    random = numpy.random.default_rng(0)
    outputs, labels = (
        random.integers(0, 4, (300, 9)).astype("float32"),
        random.integers(0, 9, 300),
    )
    outputs[5, 3] = numpy.nan
    assert numpy.array_equal(
        judging.SCORES[metric](outputs, labels),
        metrics.METRICS[metric](outputs, labels),
    )


def test_a_drop_is_judged_by_its_entire_interval() -> None:
    """Chance against a perfect reference fails, an equal one passes, few samples stay open;
    an unknown metric produces no row.
    """
    labels = numpy.arange(400) % 10
    right = {"output": numpy.eye(10, dtype="float32")[labels]}
    wrong = {"output": numpy.roll(right["output"], 1, axis=1)}
    assert (
        named(judging.compare_accuracy(wrong, right, labels, FACTS, "here"))[
            "accuracy_drop"
        ]["verdict"]
        == "fail"
    )
    assert (
        named(judging.compare_accuracy(right, right, labels, FACTS, "here"))[
            "accuracy_drop"
        ]["verdict"]
        == "pass"
    )
    few = {"output": right["output"][:20]}
    assert (
        named(judging.compare_accuracy(few, few, labels[:20], FACTS, "here"))[
            "accuracy_drop"
        ]["verdict"]
        == "inconclusive"
    )
    assert (
        judging.compare_accuracy(
            right, right, labels, {**FACTS, "metric": "cosine"}, "here"
        )
        == []
    )


def test_speed_is_judged_by_the_paired_ratio() -> None:
    """Twice as fast passes a gate of 1; half as fast fails; the verdict of all is the
    worst.
    """
    quick, slow = [1e6 + k for k in range(40)], [2e6 + k for k in range(40)]
    assert (
        named(judging.summarize_times(quick, slow, FACTS, "here"))["speedup"][
            "verdict"
        ]
        == "pass"
    )
    rows = [
        *judging.compare_outputs(EXPECTED, EXPECTED, REFERENCE, FACTS, "here"),
        *judging.summarize_times(slow, quick, FACTS, "here"),
    ]
    assert judging.combine_verdicts(rows) == "fail"
    assert judging.combine_verdicts([]) == "unmeasured"


def test_an_open_accuracy_does_not_undo_equal_outputs() -> None:
    """A file that computes the same keeps the accuracy it was judged with; one that is
    further apart must show it.
    """
    same = {
        "name": "parity",
        "verdict": "pass",
        "value": 1.0,
        "detail": {"tolerance": 2.0},
    }
    further = {**same, "value": 40.0}
    assert (
        judging.combine_verdicts(
            [same, {"name": "accuracy_drop", "verdict": "inconclusive"}]
        )
        == "pass"
    )
    assert (
        judging.combine_verdicts(
            [further, {"name": "accuracy_drop", "verdict": "inconclusive"}]
        )
        == "inconclusive"
    )
    assert (
        judging.combine_verdicts(
            [further, {"name": "accuracy_drop", "verdict": "pass"}]
        )
        == judging.combine_verdicts([further])
        == "pass"
    )
    assert (
        judging.combine_verdicts(
            [same, {"name": "accuracy_drop", "verdict": "fail"}]
        )
        == "fail"
    )


@pytest.mark.parametrize("verdict", ["unmeasured", "inconclusive", None])
def test_nothing_passes_where_nothing_was_compared(verdict: str | None) -> None:
    """A parity that was not taken is no pass, whatever else holds."""
    rows = [
        {"name": "parity", "verdict": verdict, "value": None, "detail": {}},
        {"name": "speedup", "verdict": "pass", "value": 2.0, "detail": {}},
    ]
    assert judging.combine_verdicts(rows) == "unmeasured"
    assert (
        judging.combine_verdicts(
            [
                *rows,
                {
                    "name": "accuracy_drop",
                    "verdict": "fail",
                    "value": 0.5,
                    "detail": {},
                },
            ]
        )
        == "fail"
    )


@pytest.mark.parametrize("labels", [[5, 0], [-1, 0], [0.0, 1.0], [0]])
def test_labels_that_are_no_classes_give_no_accuracy(
    labels: list[float],
) -> None:
    """Out of range, negative, not integers, too few: parity alone is judged."""
    assert (
        judging.compare_accuracy(
            EXPECTED, REFERENCE, numpy.array(labels), FACTS, "here"
        )
        == []
    )


def test_a_stand_in_is_not_timed_but_the_device_is() -> None:
    """Times count for a file of a processor, and for any on its own device."""
    assert judging.can_time({"stands_in": ""}, on_device=False)
    assert judging.can_time(
        {"stands_in": "engine not executed"}, on_device=True
    )
    assert not judging.can_time(
        {"stands_in": "engine not executed"}, on_device=False
    )
