"""Measurements and verdicts: an interval decides, a missing number never passes."""

from hypothesis import given
from hypothesis import strategies as st

from edgekit.measurement import (
    Measurement,
    judge_at_least,
    judge_at_most,
    unmeasured,
    worst,
)

number = st.floats(-1e6, 1e6)
verdicts = st.sampled_from(("pass", "fail", "inconclusive", "unmeasured"))


def measured(low: float, value: float, high: float) -> Measurement:
    """A measurement with an interval."""
    return Measurement(
        name="accuracy_drop",
        value=value,
        low=low,
        high=high,
        unit="top1",
        where="here",
        how="test",
    )


@given(st.tuples(number, number, number).map(sorted), number)
def test_a_limit_is_judged_by_the_whole_interval(
    interval: list[float], limit: float
) -> None:
    """pass, fail and inconclusive exclude each other, and say exactly where the interval
    lies.
    """
    low, value, high = interval
    row = measured(low, value, high)
    at_most, at_least = judge_at_most(row, limit), judge_at_least(row, limit)
    assert (at_most == "pass") == (high <= limit)
    assert (at_most == "fail") == (low > limit)
    assert (at_least == "pass") == (low >= limit)
    assert (at_least == "fail") == (high < limit)
    assert (at_most == "inconclusive") == (low <= limit < high)
    assert "unmeasured" not in (at_most, at_least)


@given(st.tuples(number, number, number).map(sorted), number, st.floats(0, 1e6))
def test_a_looser_limit_never_turns_a_pass_into_something_else(
    interval: list[float], limit: float, more: float
) -> None:
    """Judging is monotone in the limit."""
    row = measured(*interval)
    if judge_at_most(row, limit) == "pass":
        assert judge_at_most(row, limit + more) == "pass"
    if judge_at_least(row, limit) == "pass":
        assert judge_at_least(row, limit - more) == "pass"


@given(number, number)
def test_a_number_without_an_interval_is_its_own(
    value: float, limit: float
) -> None:
    """A count such as float_ops is judged as it is: pass or fail."""
    row = Measurement(
        name="float_ops", value=value, unit="count", where="file", how="audit"
    )
    assert judge_at_most(row, limit) == ("pass" if value <= limit else "fail")
    assert judge_at_least(row, limit) == ("pass" if value >= limit else "fail")


@given(number)
def test_what_was_not_measured_never_passes(limit: float) -> None:
    """No limit is so loose that a missing number holds it."""
    row = unmeasured("latency_ms", "ms", "rtx-tensorrt", "no GPU")
    assert (
        judge_at_most(row, limit)
        == judge_at_least(row, limit)
        == row.verdict
        == "unmeasured"
    )
    assert (row.value, row.how) == (None, "no GPU")


@given(st.lists(verdicts))
def test_one_verdict_for_several_is_the_worst(found: list[str]) -> None:
    """A fail beats unmeasured beats inconclusive beats pass; the order in which they come
    does not matter; nothing is no pass.
    """
    order = ("fail", "unmeasured", "inconclusive", "pass")
    assert (
        worst(found)
        == worst(reversed(found))
        == (min(found, key=order.index) if found else "unmeasured")
    )
