"""The report as Markdown."""

import re
from collections.abc import Callable

from edgekit.rendering.markdown import markdown
from edgekit.report import Report


def tables(text: str) -> list[list[str]]:
    """The rows of each table."""
    return [
        block.splitlines()
        for block in text.split("\n\n")
        if block.startswith("|")
    ]


def cells(row: str) -> int:
    """The number of cells: bars that are not escaped."""
    return len(re.findall(r"(?<!\\)\|", row)) - 1


def test_the_report_is_complete(sample: Callable[..., Report]) -> None:
    """Verdict, every target, candidate, gate, note, stage, split and version."""
    text, report = markdown(sample()), sample()
    assert "**Verdict: fail.**" in text
    for target in report.targets:
        assert f"## {target.name}: {target.verdict}" in text
        for row in target.candidates:
            assert row.scheme in text
    for stage in report.stages:
        assert f"| {stage.name} |" in text
    for word in (
        "at most 2.00 pt",
        "not required: no NVIDIA GPU",
        "unmeasured",
        "test | 450",
        "onnxruntime: 1.31.1",
        "74 % less",
    ):
        assert word in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head(
    sample: Callable[..., Report],
) -> None:
    """Also where the text holds bars and line breaks."""
    target = sample().targets[1]
    nasty = target.candidates[2].model_copy(
        update={"status": "failed: a | b\nc || d"}
    )
    report = sample(
        targets=(
            target.model_copy(
                update={"candidates": (*target.candidates[:2], nasty)}
            ),
        )
    )
    drawn = tables(markdown(report))
    assert len(drawn) >= 4
    for rows in drawn:
        assert {cells(row) for row in rows} == {cells(rows[0])}


def test_text_from_outside_is_escaped(sample: Callable[..., Report]) -> None:
    """A title cannot bring HTML, links, pictures or emphasis."""
    text = markdown(
        sample(
            recipe={
                "name": "x",
                "title": "<script>a</script> ![p](http://e.vil) **b** `c`",
            }
        )
    )
    head = text.splitlines()[0]
    assert "<" not in head
    assert "\\!" in head or "!\\[p\\]" in head
    assert "\\*\\*b\\*\\*" in head


def test_numbers_measured_elsewhere_are_labelled(
    sample: Callable[..., Report],
) -> None:
    """Each target lists where its numbers were measured."""
    text = markdown(sample())
    assert (
        "Measured at *local: onnxruntime 1.31.1, optimizations off, on the Q/DQ graph*: "
        "parity, accuracy, accuracy lost" in text
    )
    assert "the engine was not run" in text


def test_an_empty_report_is_drawn(sample: Callable[..., Report]) -> None:
    """No target, no stage, no task, no environment."""
    assert "No target was run." in markdown(
        sample(
            targets=(),
            stages=(),
            task={},
            environment={},
            recipe={},
            started="",
        )
    )
