"""Writes results to stdout: tables that fit the window, plain text in a pipe, JSON."""

import io
import json
import os
import shutil
import sys
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.errors import EdgekitError

#: What a shell says of a command whose reader has gone (128 + SIGPIPE).
READER_GONE = 141
#: The width in a pipe, and the widest that is still good to read.
_PIPE_WIDTH, _MOST_WIDTH = 120, 140

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table."
)


def show(*drawn: RenderableType) -> None:
    """Draw tables and texts on stdout; colours on a terminal only."""
    terminal = is_terminal(sys.stdout)
    width = (
        min(shutil.get_terminal_size().columns, _MOST_WIDTH) if terminal else _PIPE_WIDTH
    )
    page = io.StringIO()
    console = Console(
        file=page,
        width=width,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    console.print(*drawn, sep="\n")
    write("\n".join(line.rstrip() for line in page.getvalue().splitlines()))


def show_json(value: Any) -> None:
    """Print a JSON value."""
    write(json.dumps(value, indent=1, ensure_ascii=False))


def write(text: str) -> None:
    """Print text.

    A reader that has gone (``| head``) ends the command without a word; what stdout cannot
    spell becomes ``?``.
    """
    spelling = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        click.echo(text.encode(spelling, "replace").decode(spelling))
    except OSError as problem:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that Python can flush at its end
        if isinstance(problem, BrokenPipeError):
            raise click.exceptions.Exit(READER_GONE) from None
        raise EdgekitError(
            f"The result cannot be printed: {problem.strerror}.",
            fix="send it to another file",
        ) from problem


def is_terminal(stream: Any) -> bool:
    """Whether someone watches; a stream that the shell has closed (``>&-``) is None."""
    return stream is not None and bool(stream.isatty())


def grid(*headings: str) -> Table:
    """An empty table without lines."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        drawn.add_column(heading)
    return drawn


def facts(rows: list[tuple[str, str]]) -> Table:
    """Keys and values in two columns."""
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for key, value in rows:
        drawn.add_row(Text(key, "dim"), Text(value))
    return drawn


def title(text: str) -> Text:
    """A heading over a table."""
    return Text(text, "bold")
