"""Write results to stdout: tables that fit the terminal, plain text in a pipe, JSON."""

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

#: The exit code of a command whose reader has exited: 128 + SIGPIPE.
READER_GONE = 141
#: The width of tables in a pipe, and the largest width on a terminal, in columns.
_PIPE_WIDTH = 120
_MAX_WIDTH = 140

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table."
)


def show(*drawn: RenderableType) -> None:
    """Print tables and text to stdout, with colours on a terminal only."""
    terminal = is_terminal(sys.stdout)
    width = _PIPE_WIDTH
    if terminal:
        width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
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

    If the reader has exited (``| head``), the command ends without a message. Characters that
    the encoding of stdout lacks become ``?``.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        click.echo(text.encode(encoding, "replace").decode(encoding))
    except OSError as problem:
        # Python flushes stdout when it exits, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(problem, BrokenPipeError):
            raise click.exceptions.Exit(READER_GONE) from None
        raise EdgekitError(
            f"Cannot print the result: {problem.strerror}.",
            fix="redirect it to another file",
        ) from problem


def is_terminal(stream: Any) -> bool:
    """True for a terminal; a stream that the shell has closed (``>&-``) is None."""
    return stream is not None and bool(stream.isatty())


def grid(*headings: str) -> Table:
    """Return an empty table without borders."""
    drawn = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim"
    )
    for heading in headings:
        drawn.add_column(heading)
    return drawn


def facts(rows: list[tuple[str, str]]) -> Table:
    """Return a table of keys and values."""
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for key, value in rows:
        drawn.add_row(Text(key, "dim"), Text(value))
    return drawn


def title(text: str) -> Text:
    """Return a heading for a table."""
    return Text(text, "bold")
