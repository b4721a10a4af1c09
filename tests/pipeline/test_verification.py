"""Incremental looks at accuracy: every sample is asked for once, and an early drop needs a
stricter interval.
"""

import numpy
import pytest

from edgekit.measurement import Measurement, judge_at_most
from edgekit.pipeline.verification import (
    EARLY,
    IncrementalOutputs,
    _widen,
    looks,
)
from edgekit.task import Split


class Counted:
    """A runner that notes how many samples it was asked for."""

    where = "here"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *details: object) -> None:
        """Nothing to close."""

    def infer(
        self, feeds: dict[str, numpy.ndarray]
    ) -> dict[str, numpy.ndarray]:
        self.asked.append(len(feeds["input"]))
        return {"output": feeds["input"]}


def test_each_sample_is_asked_for_once() -> None:
    """A larger look only asks for what is new, a smaller one for nothing; the scores are
    those of the samples in their order.
    """
    scores = numpy.eye(4, dtype="float32")[numpy.arange(100) % 4]
    labels = numpy.where(
        numpy.arange(100) < 50,
        numpy.arange(100) % 4,
        (numpy.arange(100) + 1) % 4,
    )
    runner = Counted()
    growing = IncrementalOutputs(
        lambda: runner, Split({"input": scores}, labels)
    )  # type: ignore[arg-type, return-value]
    assert growing.answers(20, "top1").scores.mean() == 1
    assert growing.answers(100, "top1").scores.mean() == 0.5
    assert len(growing.answers(30, "top1").scores) == 30
    assert runner.asked == [20, 80]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(6, [6]), (256, [256]), (257, [128, 257]), (5000, [128, 512, 2048, 5000])],
)
def test_looks_grow_by_four_and_end_with_all(
    samples: int, expected: list[int]
) -> None:
    """A look at nearly all samples is not worth its time."""
    assert looks(samples) == expected


def test_an_early_drop_needs_a_wider_interval() -> None:
    """A loss that is clear at 95 %, but not at 99.5 %, is not yet a reason to drop a
    candidate.
    """
    drop = Measurement(
        name="accuracy_drop",
        value=0.05,
        low=0.022,
        high=0.078,
        unit="top1",
        n=128,
        where="here",
        how="made up",
    )
    wider = _widen(drop)
    assert wider.low == pytest.approx(0.05 - EARLY * 0.028)
    assert judge_at_most(drop, 0.02) == "fail"
    assert judge_at_most(wider, 0.02) == "inconclusive"
