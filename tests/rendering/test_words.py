"""Numbers, intervals and verdicts in words."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.rendering import words
from edgekit.report import CandidateReport, GateReport, Report

SHARE, SCORE = words.Wording(share=True), words.Wording(share=False)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9844, "98.4 %"),
        ("accuracy_drop", 0.0022, "0.22 pt"),
        ("accuracy_drop", -0.00001, "0.00 pt"),
        ("accuracy_drop", -0.006, "-0.60 pt"),
        ("speedup", 2.314, "2.31x"),
        ("latency_ms", 0.04123, "0.0412 ms"),
        ("latency_ms", 12.345, "12.3 ms"),
        ("latency_ms", 1234.5, "1234 ms"),
        ("size_bytes", 999, "999 B"),
        ("size_bytes", 31244, "31.2 kB"),
        ("size_bytes", 999_600, "1.00 MB"),
        ("size_bytes", 4_903_311, "4.90 MB"),
        ("int8_mac_share", 1, "100 %"),
        ("int8_mac_share", 0.9999, "99.9 %"),
        ("int8_mac_share", 0.0001, "0.1 %"),
        ("int8_mac_share", 0, "0 %"),
        ("float_ops", 3, "3"),
        ("parameters", 77850, "77,850"),
        ("macs", 12_098_048, "12.1 M"),
        ("loss", 0.12345, "0.1235"),
        ("npu_time_ms", 0.013344, "0.0133 ms"),
        ("sram_bytes", 12_288, "12.3 kB"),
        ("cpu_ops", 4, "4"),
    ],
)
def test_a_number_is_told_with_its_unit(
    name: MeasurementName, value: float, text: str
) -> None:
    """Each kind of number has its unit and its digits; a share short of the whole never
    reads 100 %.
    """
    assert SHARE.number(name, value) == text


def test_a_score_that_is_no_share_keeps_its_own_scale() -> None:
    """A negative squared error is not told in percent."""
    assert SCORE.number("accuracy", -0.034567) == "-0.03457"
    assert SCORE.number("accuracy_drop", 0.5) == "0.5"


def test_the_metric_decides_whether_accuracy_is_a_share(
    sample: Callable[..., Report],
) -> None:
    """top1 is told in percent, an error as it is; a metric of the user's by whether its
    scores are all 0 or 1.
    """
    assert words.wording(sample()).share
    assert words.wording(sample(task={"metric": "my_metric"})).share
    assert not words.wording(sample(task={"metric": "negative_mse"})).share
    assert not words.wording(
        sample(task={"metric": "my_metric"}).model_copy(update={"targets": ()})
    ).share


def test_what_was_not_measured_is_never_a_number() -> None:
    """None is unmeasured; no measurement at all is a dash; neither has an interval."""
    missing = unmeasured("speedup", "x", "gpu", "no GPU")
    assert SHARE.bracketed(missing) == words.UNMEASURED
    assert SHARE.bracketed(None) == words.NOT_TAKEN
    assert SHARE.interval(missing) is None


def test_an_interval_has_no_units() -> None:
    """The ends stand in brackets behind the value."""
    found = Measurement(
        name="speedup", value=2.31, low=2.27, high=2.36, unit="x", where="here", how="so"
    )
    assert SHARE.bracketed(found) == "2.31x [2.27, 2.36]"
    latency = Measurement(
        name="latency_ms",
        value=0.0412,
        low=0.0409,
        high=0.0416,
        unit="ms",
        where="here",
        how="so",
    )
    assert SHARE.bracketed(latency) == "0.0412 ms [0.0409, 0.0416]"


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [
        ("accuracy_drop", 0.02, "at most 2.00 pt"),
        ("speedup", 1, "at least 1.00x"),
        ("size_bytes", 8000, "at most 8.00 kB"),
        ("agreement", 0.99, "at least 99.0 %"),
        ("npu_time_ms", 2, "at most 2.00 ms"),
        ("cpu_ops", 0, "at most 0"),
        ("sram_bytes", 65536, "at most 65.5 kB"),
    ],
)
def test_a_gate_says_in_which_direction(
    name: MeasurementName, limit: float, text: str
) -> None:
    """Upper and lower limits are told apart."""
    assert (
        SHARE.limit(
            GateReport(
                name=name, limit=limit, value=None, unit="", where="", verdict="unmeasured"
            )
        )
        == text
    )


def test_the_summary_names_every_target_once(sample: Callable[..., Report]) -> None:
    """Failing, undecided, passing, and passing with something unmeasured are told apart."""
    assert (
        words.summary(sample())
        == "Fails: coral-edgetpu. Inconclusive: mobile-tflite. Passes, with a measurement missing: rtx-tensorrt. Passes: cpu-onnx."
    )
    assert words.summary(sample(targets=())) == "No target was run."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12, "12 s"), (187.4, "3 min 07 s"), (7800, "2 h 10 min")],
)
def test_a_duration_is_told_shortly(seconds: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert words.duration(seconds) == text


def test_a_moment_is_told_or_left_as_it_is() -> None:
    """ISO times lose their T; anything else stays."""
    assert words.moment("2026-11-20T16:40:12+00:00") == "2026-11-20 16:40 UTC"
    assert words.moment("yesterday") == "yesterday"
    assert words.moment("") == ""


def test_the_winner_comes_first_and_the_failed_last(sample: Callable[..., Report]) -> None:
    """Candidates stand in the order winner, raced, dropped, failed."""
    assert [row.scheme for row in words.rows(sample().targets[1])] == [
        "w8a8-static",
        "w8-dynamic",
        "fp16",
    ]


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_latency_keeps_three_digits(value: float) -> None:
    """Whatever the size, the told number is within half a percent of the value, and has no
    exponent.
    """
    text = SHARE.number("latency_ms", value).removesuffix(" ms")
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.0051)


@given(st.floats(min_value=0, max_value=1e15))
def test_sizes_keep_their_value(value: float) -> None:
    """The told size, unit included, is the size to within a percent (and half a byte)."""
    number, unit = words.size(value).split()
    assert float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[
        unit
    ] == pytest.approx(value, rel=0.0051, abs=0.51)


def test_an_estimate_stands_in_for_an_unmeasured_latency_and_says_so() -> None:
    """In a table's cell only; where latency was measured it is what is shown."""
    missing = unmeasured("latency_ms", "ms", "board", "it is not here")
    estimate = Measurement(
        name="latency_estimate_ms",
        value=1.25,
        low=1.0,
        high=1.5,
        unit="ms",
        where="estimate, from board",
        how="estimate",
    )
    taken = Measurement(
        name="latency_ms", value=2.0, unit="ms", where="board", how="median"
    )
    says = words.Wording(share=False)
    cells = {
        name: says.bracketed(
            words.shown(
                CandidateReport(scheme="float", status="raced", measurements=rows),
                "latency_ms",
            )
        )
        for name, rows in (
            ("both", (missing, estimate)),
            ("none", (missing,)),
            ("taken", (taken, estimate)),
        )
    }
    assert cells == {
        "both": "1.25 ms est. [1.00, 1.50]",
        "none": "unmeasured",
        "taken": "2.00 ms",
    }


def test_what_is_foretold_is_told_as_such_and_of_the_winner_alone(
    sample: Callable[..., Report],
) -> None:
    """One line for each source; what it could not foretell is left out."""
    estimate = Measurement(
        name="npu_time_ms", value=0.6, unit="ms", where="Vela's estimate", how=""
    )
    rows = (
        estimate,
        Measurement(
            name="cpu_ops", value=0, unit="operators", where="Vela's estimate", how=""
        ),
        unmeasured("sram_bytes", "bytes", "x", ""),
    )
    target = sample().targets[0]
    told = tuple(
        row.model_copy(
            update={"measurements": rows if row.scheme == target.winner else (estimate,)}
        )
        for row in target.candidates
    )
    found = words.predicted(target.model_copy(update={"candidates": told}), SHARE)
    assert found == [
        "Foretold, not measured (Vela's estimate): NPU time (estimate) 0.600 ms, Ops on the CPU 0."
    ]
    assert words.predicted(target.model_copy(update={"winner": None}), SHARE) == []
