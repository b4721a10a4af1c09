"""Numbers, intervals and verdicts as text; what a report shows of a run."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.rendering import formatting, summary
from edgekit.report import CandidateReport, GateReport, Report

SHARE, SCORE = (
    formatting.NumberFormat(share=True),
    formatting.NumberFormat(share=False),
)


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
def test_a_number_has_its_unit(
    name: MeasurementName, value: float, text: str
) -> None:
    """Each kind has its unit and its digits; a share below 1 is never shown as 100 %."""
    assert SHARE.number(name, value) == text


def test_a_score_that_is_not_a_share_keeps_its_scale() -> None:
    """A negative squared error is not shown in percent."""
    assert SCORE.number("accuracy", -0.034567) == "-0.03457"
    assert SCORE.number("accuracy_drop", 0.5) == "0.5"


def test_the_metric_decides_whether_accuracy_is_a_share(
    sample: Callable[..., Report],
) -> None:
    """top1 is a share, an error is not; a user's metric is one if its scores are 0 or 1."""
    assert summary.number_format(sample()).share
    assert summary.number_format(sample(task={"metric": "my_metric"})).share
    assert not summary.number_format(
        sample(task={"metric": "negative_mse"})
    ).share
    assert not summary.number_format(
        sample(task={"metric": "my_metric"}).model_copy(update={"targets": ()})
    ).share


def test_an_unmeasured_value_is_never_a_number() -> None:
    """None is unmeasured; no measurement at all is a dash; neither has an interval."""
    missing = unmeasured("speedup", "x", "gpu", "no GPU")
    assert SHARE.bracketed(missing) == formatting.UNMEASURED
    assert SHARE.bracketed(None) == formatting.NOT_TAKEN
    assert SHARE.interval(missing) is None


def test_an_interval_has_no_units() -> None:
    """The ends follow the value in brackets."""
    speedup = Measurement(
        name="speedup",
        value=2.31,
        low=2.27,
        high=2.36,
        unit="x",
        where="here",
        how="so",
    )
    assert SHARE.bracketed(speedup) == "2.31x [2.27, 2.36]"
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
def test_a_gate_has_a_direction(
    name: MeasurementName, limit: float, text: str
) -> None:
    """Upper and lower limits are distinguished."""
    assert (
        SHARE.limit(
            GateReport(
                name=name,
                limit=limit,
                value=None,
                unit="",
                where="",
                verdict="unmeasured",
            )
        )
        == text
    )


def test_the_summary_names_every_target_once(
    sample: Callable[..., Report],
) -> None:
    """Failing, inconclusive, passing and incompletely passing targets are distinguished."""
    assert summary.summarize(sample()) == (
        "Fails: coral-edgetpu. Inconclusive: mobile-tflite. "
        "Passes, with a measurement missing: rtx-tensorrt. Passes: cpu-onnx."
    )
    assert summary.summarize(sample(targets=())) == "No target was run."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (12, "12 s"),
        (187.4, "3 min 07 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert formatting.duration(seconds) == text


def test_a_moment_is_formatted_or_unchanged() -> None:
    """ISO 8601 times lose their T; other text is unchanged."""
    assert (
        formatting.moment("2026-11-20T16:40:12+00:00") == "2026-11-20 16:40 UTC"
    )
    assert formatting.moment("yesterday") == "yesterday"
    assert formatting.moment("") == ""


def test_the_winner_comes_first_and_the_failed_last(
    sample: Callable[..., Report],
) -> None:
    """The order is winner, raced, dropped, failed."""
    assert [
        row.scheme for row in summary.sort_candidates(sample().targets[1])
    ] == [
        "w8a8-static",
        "w8-dynamic",
        "fp16",
    ]


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_latency_keeps_three_digits(value: float) -> None:
    """The text is within half a percent of the value, and has no exponent."""
    text = SHARE.number("latency_ms", value).removesuffix(" ms")
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.0051)


@given(st.floats(min_value=0, max_value=1e15))
def test_sizes_keep_their_value(value: float) -> None:
    """The text, unit included, is within half a percent of the size (and half a byte)."""
    number, unit = formatting.size(value).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * factor == pytest.approx(value, rel=0.0051, abs=0.51)


def test_a_labelled_estimate_replaces_an_unmeasured_latency() -> None:
    """In a table's cell only, and only if latency was not measured."""
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
    fmt = formatting.NumberFormat(share=False)
    cells = {
        name: fmt.bracketed(
            summary.shown(
                CandidateReport(
                    scheme="float", status="raced", measurements=rows
                ),
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


def test_predictions_are_labelled_and_only_of_the_winner(
    sample: Callable[..., Report],
) -> None:
    """One line per source; values that it could not predict are left out."""
    estimate = Measurement(
        name="npu_time_ms",
        value=0.6,
        unit="ms",
        where="Vela's estimate",
        how="",
    )
    rows = (
        estimate,
        Measurement(
            name="cpu_ops",
            value=0,
            unit="operators",
            where="Vela's estimate",
            how="",
        ),
        unmeasured("sram_bytes", "bytes", "x", ""),
    )
    target = sample().targets[0]
    candidates = tuple(
        row.model_copy(
            update={
                "measurements": rows
                if row.scheme == target.winner
                else (estimate,)
            }
        )
        for row in target.candidates
    )
    lines = summary.predictions(
        target.model_copy(update={"candidates": candidates}), SHARE
    )
    assert lines == [
        "Predicted, not measured (Vela's estimate): "
        "NPU time (estimate) 0.600 ms, Ops on the CPU 0."
    ]
    assert (
        summary.predictions(target.model_copy(update={"winner": None}), SHARE)
        == []
    )
