"""The commands that ``targets``, ``recipes``, ``models``, ``schemes`` and ``hosts`` share.

A table of all entries, and ``show NAME`` for one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.text import Text

from edgekit.cli import output
from edgekit.rendering.formatting import flatten


@dataclasses.dataclass(frozen=True)
class Listing:
    """What is listed: its word, its names, each entry as JSON values, and the columns."""

    word: str
    about: str
    names: Callable[[], Sequence[str]]
    find: Callable[[str], dict[str, Any]]
    #: Heading -> the function that formats the cell of an entry.
    columns: dict[str, Callable[[dict[str, Any]], str]]
    #: A line below the table.
    below: str = ""
    #: The entry for the table, if it differs from ``find``.
    row: Callable[[str], dict[str, Any]] | None = None


def build_group(of: Listing) -> click.Group:
    """Build the command group of one listing."""

    def show_all(*, as_json: bool) -> None:
        if click.get_current_context().invoked_subcommand is not None:
            return
        entries = [(of.row or of.find)(name) for name in of.names()]
        if as_json:
            output.show_json(entries)
            return
        drawn = output.grid(*of.columns)
        for entry in entries:
            drawn.add_row(*(Text(cell(entry)) for cell in of.columns.values()))
        output.show(
            drawn, *([Text(), Text(of.below, "dim")] if of.below else [])
        )

    def show(name: str, *, as_json: bool) -> None:
        entry = of.find(name)
        if as_json:
            output.show_json(entry)
            return
        pairs = [pair for pair in flatten(entry) if pair[1] not in ("none", "")]
        output.show(output.facts(pairs))

    group = _ListingGroup(
        of.word,
        callback=show_all,
        invoke_without_command=True,
        help=of.about,
        params=[_json()],
    )
    group.add_command(
        click.Command(
            "show",
            callback=show,
            help=f"Show one of the {of.word} in full.",
            params=[click.Argument(["name"]), _json()],
        )
    )
    return group


class _ListingGroup(click.Group):
    """Explains ``show`` to a user who types ``targets NAME``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or explain how to show one entry."""
        if (
            args
            and args[0] not in self.commands
            and not args[0].startswith("-")
        ):
            ctx.fail(
                f"'edgekit {self.name}' has no command {args[0]!r}; "
                f"to show one entry in full: edgekit {self.name} show {args[0]}"
            )
        return super().resolve_command(ctx, args)


def _json() -> click.Option:
    return click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help="Print JSON instead of a table.",
    )
