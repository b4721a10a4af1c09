"""The report in a terminal."""

import io
from collections.abc import Callable

from rich.console import Console

from edgekit.rendering.table import table
from edgekit.report import CandidateReport, Report


def drawn(report: Report, *, terminal: bool = False, width: int = 100) -> str:
    page = io.StringIO()
    Console(
        file=page,
        width=width,
        force_terminal=terminal,
        markup=False,
        highlight=False,
        color_system="standard" if terminal else None,
    ).print(table(report))
    return page.getvalue()


def test_it_fits_100_columns_with_nothing_cut_off(
    sample: Callable[..., Report],
) -> None:
    """Every scheme, interval and reason is complete."""
    text = drawn(sample())
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for word in (
        "* w8a8-static",
        "0.22 [-0.60, 1.08]",
        "2.31x [2.27, 2.36]",
        "0.0412 ms",
        "31.2 kB",
        "99.8 %",
        "at most 2.00 pt",
        "failed to prepare node 4",
    ):
        assert word in text


def test_every_candidate_every_gate_and_every_note_is_there(
    sample: Callable[..., Report],
) -> None:
    """Nothing disappears from the report."""
    report, text = sample(), " ".join(drawn(sample()).replace("- ", "").split())
    for target in report.targets:
        assert target.name in text
        assert all(note in text for note in target.notes)
        assert all(row.scheme in text for row in target.candidates)
    assert "not required: no NVIDIA GPU at this host" in text
    assert "measured at local: onnxruntime 1.31.1, optimizations off" in text


def test_unmeasured_is_shown_and_never_green(
    sample: Callable[..., Report],
) -> None:
    """Green is for a passed verdict only."""
    report = sample(
        targets=(
            sample().targets[3].model_copy(update={"verdict": "unmeasured"}),
        ),
        verdict="unmeasured",
    )
    text = drawn(report, terminal=True)
    assert "unmeasured" in text
    assert text.count("\x1b[1;32m") == 1  # the accuracy gate
    assert "\x1b[1;32mpass" in text


def test_a_narrow_window_loses_no_target(sample: Callable[..., Report]) -> None:
    """In 60 columns the table wraps, and does not fail."""
    assert "cpu-onnx" in drawn(sample(), width=60)


def test_a_target_without_anything_is_drawn(
    sample: Callable[..., Report],
) -> None:
    """No reference, no candidate, no gate."""
    bare = (
        sample()
        .targets[2]
        .model_copy(
            update={
                "reference": None,
                "candidates": (CandidateReport(scheme="x", status="failed"),),
                "notes": (),
            }
        )
    )
    assert "ships nothing" in drawn(sample(targets=(bare,)))
