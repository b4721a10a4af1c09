"""``edgekit report``: show the report of a finished run."""

import pathlib

import click

from edgekit import report as reports
from edgekit.cli import output
from edgekit.rendering.html import html
from edgekit.rendering.markdown import markdown
from edgekit.rendering.table import table


@click.command()
@click.argument(
    "folder", metavar="DIR", type=click.Path(path_type=pathlib.Path)
)
@click.option(
    "--format",
    "-f",
    "kind",
    type=click.Choice(["table", "md", "html", "json"]),
    default="table",
    show_default=True,
    help="The format of the output.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="The same as --format json."
)
def report(folder: pathlib.Path, kind: str, *, as_json: bool) -> None:
    """Show the report of the finished run in DIR. Nothing is measured."""
    loaded = reports.load(folder)
    if as_json or kind == "json":
        output.write(loaded.to_json().rstrip("\n"))
    elif kind == "table":
        output.show(table(loaded))
    else:
        draw = markdown if kind == "md" else html
        output.write(draw(loaded).rstrip("\n"))
