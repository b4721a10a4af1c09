"""Progress: plain lines in a pipe, bars on a terminal and in a notebook."""

import importlib.util
import io
import re
import sys

import pytest
from rich.console import Console
from rich.progress import Progress as Live
from rich.progress import TextColumn

from edgekit.rendering import progress
from edgekit.rendering.progress import Bars, Lines, show_progress


def test_a_pipe_gets_a_line_at_each_start_and_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nested tasks are shown by name, duration and note, on stderr only."""
    with show_progress() as shown:
        assert isinstance(shown, Lines)
        shown.start("train")
        shown.expect(3)
        shown.start("epochs")
        shown.advance(note="loss 0.1")
        shown.finish()
        shown.say("a damaged entry is rebuilt")
        shown.finish("cached")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.sub(r"\d+\.\d s", "T", err).splitlines() == [
        "start: train",
        "start: epochs",
        "done: epochs (T)",
        "a damaged entry is rebuilt",
        "done: train (T) cached",
    ]


def test_an_extra_finish_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    """Finishing a task that was never started prints nothing."""
    lines = Lines()
    lines.finish("failed")
    lines.advance()
    assert capsys.readouterr().err == ""


def test_a_closed_stderr_gets_no_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell may close stderr (``2>&-``); then nothing goes to stdout instead."""
    monkeypatch.setattr(sys, "stderr", None)
    with show_progress() as shown:
        assert isinstance(shown, Lines)
        shown.start("train")
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_bars_that_become_lines() -> None:
    """A bar shows name and note of a running task; a line remains when it is done.

    Names are not markup.
    """
    page = io.StringIO()
    console = Console(file=page, force_terminal=True, width=80)
    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Live(
        *columns, console=console, transient=True, auto_refresh=False
    ) as live:
        shown = Bars(live)
        shown.start("train [b]")
        shown.expect(2)
        shown.start("inner")
        shown.advance(note="loss 0.5")
        live.refresh()
        assert "loss 0.5" in page.getvalue()
        shown.finish()
        shown.finish("cached")
        shown.finish()
        shown.advance()
        shown.say("hello")
        assert live.tasks == []
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", page.getvalue())
    assert re.search(r"  done: inner \(\d+\.\d s\)", text)
    assert re.search(r"done: train \[b\] \(\d+\.\d s\) cached", text)
    assert "hello" in text


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_gets_bars_if_it_can_draw_them(
    monkeypatch: pytest.MonkeyPatch, *, has_widgets: bool
) -> None:
    """rich redraws in Jupyter through ipywidgets; without it there are plain lines."""
    spec = importlib.util.spec_from_loader("ipywidgets", loader=None)
    monkeypatch.setattr(
        progress.importlib.util,
        "find_spec",
        lambda name: spec if has_widgets else None,
    )
    notebook = Console(stderr=True, force_jupyter=True)
    assert progress._can_draw(notebook) is has_widgets
