"""Tells on stderr that work goes on: bars on a terminal, one plain line at each start and
end in a pipe.
"""

import contextlib
import sys
import time
from collections.abc import Iterator

import click
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

from edgekit.cli import output
from edgekit.progress import Progress


class Lines:
    """``start: NAME``, ``done: NAME (12.3 s) note``. Every line is flushed at once."""

    def __init__(self) -> None:
        self._open: list[tuple[str, float]] = []

    def start(self, name: str) -> None:
        """A piece of work begins."""
        self._open.append((name, time.monotonic()))
        click.echo(f"start: {name}", err=True)

    def expect(self, total: int) -> None:
        """Said only where someone watches."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Said only where someone watches."""

    def finish(self, note: str = "") -> None:
        """The work that began last is done."""
        if self._open:
            name, began = self._open.pop()
            click.echo(_done(name, began, note), err=True)

    def say(self, text: str) -> None:
        """One line for the user."""
        click.echo(text, err=True)


class Bars:
    """A bar for each piece of work that goes on, a line above for each that is done."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._open: list[tuple[str, float, TaskID]] = []

    def start(self, name: str) -> None:
        """A bar appears; until a total is expected it only moves."""
        self._open.append(
            (
                name,
                time.monotonic(),
                self._live.add_task("  " * len(self._open) + name, total=None, note=""),
            )
        )

    def expect(self, total: int) -> None:
        """The youngest bar has an end."""
        if self._open:
            self._live.update(self._open[-1][2], total=total)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """The youngest bar grows."""
        if self._open:
            self._live.update(self._open[-1][2], advance=amount, note=note)

    def finish(self, note: str = "") -> None:
        """The youngest bar becomes a line."""
        if self._open:
            name, began, task = self._open.pop()
            self._live.remove_task(task)
            self.say("  " * len(self._open) + _done(name, began, note))

    def say(self, text: str) -> None:
        """One line above the bars."""
        self._live.console.print(Text(text))


@contextlib.contextmanager
def shown() -> Iterator[Progress]:
    """Progress on stderr, for as long as the block lasts."""
    console = Console(stderr=True)
    if not output.is_terminal(sys.stderr) or console.is_dumb_terminal:
        yield Lines()
        return
    note = TextColumn("{task.fields[note]}", markup=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        note,
    )
    with Live(*columns, console=console, transient=True) as live:
        yield Bars(live)


def _done(name: str, began: float, note: str) -> str:
    return f"done: {name} ({time.monotonic() - began:.1f} s) {note}".rstrip()
