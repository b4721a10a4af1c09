"""Progress: plain lines in a pipe, bars on a terminal."""

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress as Live
from rich.progress import TextColumn

from edgekit.cli.progress import Bars, Lines, shown


def test_a_pipe_gets_a_line_at_each_start_and_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nested work is told by name, time and note, on stderr only."""
    with shown() as told:
        assert isinstance(told, Lines)
        told.start("train")
        told.expect(3)
        told.start("epochs")
        told.advance(note="loss 0.1")
        told.finish()
        told.say("a damaged entry is rebuilt")
        told.finish("cached")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.sub(r"\d+\.\d s", "T", err).splitlines() == [
        "start: train",
        "start: epochs",
        "done: epochs (T)",
        "a damaged entry is rebuilt",
        "done: train (T) cached",
    ]


def test_a_finish_too_many_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    """Work that was never begun can be finished without a word."""
    told = Lines()
    told.finish("failed")
    told.advance()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars_that_become_lines() -> None:
    """A bar shows name and note while work goes on; when it is done, a line stays.

    Names are not markup.
    """
    page = io.StringIO()
    console = Console(file=page, force_terminal=True, width=80)
    columns = (
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Live(*columns, console=console, transient=True, auto_refresh=False) as live:
        told = Bars(live)
        told.start("train [b]")
        told.expect(2)
        told.start("inner")
        told.advance(note="loss 0.5")
        live.refresh()
        assert "loss 0.5" in page.getvalue()
        told.finish()
        told.finish("cached")
        told.finish()
        told.advance()
        told.say("hello")
        assert live.tasks == []
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", page.getvalue())
    assert re.search(r"  done: inner \(\d+\.\d s\)", text)
    assert re.search(r"done: train \[b\] \(\d+\.\d s\) cached", text)
    assert "hello" in text
