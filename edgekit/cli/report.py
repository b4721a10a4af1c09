"""``edgekit report``: draw a finished run again."""

import pathlib

import click

from edgekit import report as reports
from edgekit.cli import output
from edgekit.rendering.html import html
from edgekit.rendering.markdown import markdown
from edgekit.rendering.table import table


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--format",
    "-f",
    "kind",
    type=click.Choice(["table", "md", "html", "json"]),
    default="table",
    show_default=True,
    help="How to draw it.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def report(folder: pathlib.Path, kind: str, *, as_json: bool) -> None:
    """Draw the finished run in DIR again. Nothing is measured."""
    found = reports.load(folder)
    if as_json or kind == "json":
        output.write(found.to_json().rstrip("\n"))
    elif kind == "table":
        output.show(table(found))
    else:
        output.write((markdown if kind == "md" else html)(found).rstrip("\n"))
