"""Progress on stderr: bars on a terminal and in a notebook, plain lines in a pipe."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Live
from rich.text import Text

from edgekit.progress import Progress


class Lines:
    """One line per start and end of a task: ``start: NAME``, ``done: NAME (12.3 s) NOTE``."""

    def __init__(self) -> None:
        self._running: list[tuple[str, float]] = []

    def start(self, name: str) -> None:
        """Print a line and start the clock."""
        self._running.append((name, time.monotonic()))
        self.say(f"start: {name}")

    def expect(self, total: int) -> None:
        """Do nothing: only bars show a total."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Do nothing: only bars show progress within a task."""

    def finish(self, note: str = "") -> None:
        """Print a line with the duration of the task that was started last."""
        if self._running:
            name, started = self._running.pop()
            self.say(_format_done(name, started, note))

    def say(self, text: str) -> None:
        """Print a line, flushed; nothing if stderr is closed."""
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


class Bars:
    """A bar per running task, and a line above the bars per finished one."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._running: list[tuple[str, float, TaskID]] = []

    def start(self, name: str) -> None:
        """Add a bar, indented below the bars of the enclosing tasks."""
        indented = "  " * len(self._running) + name
        bar = self._live.add_task(indented, total=None, note="")
        self._running.append((name, time.monotonic(), bar))

    def expect(self, total: int) -> None:
        """Set the total of the bar that was added last; until then it only pulses."""
        if self._running:
            self._live.update(self._running[-1][2], total=total)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Advance the bar that was added last."""
        if self._running:
            self._live.update(self._running[-1][2], advance=amount, note=note)

    def finish(self, note: str = "") -> None:
        """Replace the bar that was added last by a line with its duration."""
        if self._running:
            name, started, bar = self._running.pop()
            self._live.remove_task(bar)
            self.say(
                "  " * len(self._running) + _format_done(name, started, note)
            )

    def say(self, text: str) -> None:
        """Print a line above the bars; ``text`` is not interpreted as markup."""
        self._live.console.print(Text(text))


@contextlib.contextmanager
def show_progress() -> Iterator[Progress]:
    """Show progress on stderr until the block is left.

    Bars on a terminal, and in Jupyter if ipywidgets is installed; plain lines otherwise.
    """
    console = Console(stderr=True)
    if not _can_draw(console):
        yield Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Live(*columns, console=console, transient=True) as live:
        yield Bars(live)


def _can_draw(console: Console) -> bool:
    """True if bars can be redrawn in place."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.file.isatty() and not console.is_dumb_terminal


def _format_done(name: str, started: float, note: str) -> str:
    return f"done: {name} ({time.monotonic() - started:.1f} s) {note}".rstrip()
