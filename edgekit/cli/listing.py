"""The shape that ``targets``, ``recipes``, ``models`` and ``schemes`` share: a table of
all, and ``show NAME`` for one.
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
    """What is listed: its word, its names, one as JSON values, and the columns of the
    table.
    """

    word: str
    about: str
    names: Callable[[], Sequence[str]]
    find: Callable[[str], dict[str, Any]]
    #: Heading -> how a row's cell is told from the JSON values.
    columns: dict[str, Callable[[dict[str, Any]], str]]
    #: A line under the table.
    below: str = ""
    #: One as a line of the table, where that differs from ``find``.
    row: Callable[[str], dict[str, Any]] | None = None


def listing(of: Listing) -> click.Group:
    """The command group of one listing."""

    def every(*, as_json: bool) -> None:
        if click.get_current_context().invoked_subcommand is not None:
            return
        found = [(of.row or of.find)(name) for name in of.names()]
        if as_json:
            output.show_json(found)
            return
        drawn = output.grid(*of.columns)
        for row in found:
            drawn.add_row(*(Text(cell(row)) for cell in of.columns.values()))
        output.show(drawn, *([Text(), Text(of.below, "dim")] if of.below else []))

    def show(name: str, *, as_json: bool) -> None:
        found = of.find(name)
        if as_json:
            output.show_json(found)
        else:
            output.show(
                output.facts(
                    [
                        (key, value)
                        for key, value in flatten(found)
                        if value not in ("none", "")
                    ]
                )
            )

    group = _Listed(
        of.word,
        callback=every,
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


class _Listed(click.Group):
    """``targets NAME`` is a slip for ``targets show NAME``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find ``show``, or say how one name is shown."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(
                f"'edgekit {self.name}' has no command {args[0]!r}; to see one in full: edgekit {self.name} show {args[0]}"
            )
        return super().resolve_command(ctx, args)


def _json() -> click.Option:
    return click.Option(
        ["--json", "as_json"], is_flag=True, help="Print JSON instead of a table."
    )
