"""``edgekit inspect``: what a runtime executes in one file."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.cli import output
from edgekit.contracts import Audit
from edgekit.formats.inspection import format_of, inspect_file, loaded_bytes
from edgekit.measurement import QUANTITIES
from edgekit.pipeline.request import find_target
from edgekit.rendering import formatting, summary


@click.command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)
)
@click.option(
    "--target",
    "-t",
    metavar="NAME",
    help="Also check the file against this device's limits.",
)
@click.option("--rows", is_flag=True, help="List every operator.")
@output.as_json_option
def inspect(
    file: pathlib.Path, target: str | None, *, rows: bool, as_json: bool
) -> None:
    """Show what a runtime executes in FILE: an .onnx, .ort or .tflite file, or an .engine
    with its .log.json in the same folder.
    """
    device = None if target is None else find_target(target)
    format = format_of(file, device)
    audit = inspect_file(file, device)
    if as_json:
        output.show_json(_data(file, format, audit))
        return
    output.show(*_drawn(file, format, audit))
    if rows:
        output.show(Text(), _operators(audit.rows))


def _data(file: pathlib.Path, format: str, audit: Audit) -> dict[str, Any]:
    return {
        "file": str(file),
        "format": format,
        "bytes": loaded_bytes(file, format),
        "measurements": [
            measured.model_dump(mode="json") for measured in audit.measurements
        ],
        "warnings": list(audit.warnings),
        "rows": [dict(row) for row in audit.rows],
    }


def _drawn(
    file: pathlib.Path, format: str, audit: Audit
) -> list[RenderableType]:
    fmt = formatting.NumberFormat(share=False)
    size = formatting.size(loaded_bytes(file, format))
    facts = f"{format}, {size}, {len(audit.rows)} operators"
    numbers = output.grid("number", "value", "how")
    for measured in audit.measurements:
        heading = QUANTITIES[measured.name].heading.lower()
        numbers.add_row(
            heading, fmt.bracketed(measured), Text(measured.how, "dim")
        )
    drawn: list[RenderableType] = [
        Text.assemble((file.name, "bold"), f"  {facts}")
    ]
    for place in summary.places(audit.measurements):
        drawn.append(Text(f"read from {place}", "dim"))
    drawn += [Text(), numbers, Text(), _kinds(audit.rows)]
    if audit.warnings:
        drawn.append(Text())
        drawn += [
            Text(f"warning: {warning}", "yellow") for warning in audit.warnings
        ]
    return drawn


def _kinds(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The number of operators of each kind and dtype, those with most arithmetic first."""
    macs_of: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        key = (str(row.get("op")), str(row.get("dtype")))
        macs_of.setdefault(key, []).append(row.get("macs") or 0)
    total = sum(sum(macs) for macs in macs_of.values())

    def order(kind: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
        return -sum(macs_of[kind]), -len(macs_of[kind]), kind

    drawn = output.grid("operator", "computes in")
    for heading in ("count", "MACs", "share"):
        drawn.add_column(heading, justify="right")
    for kind in sorted(macs_of, key=order):
        macs = sum(macs_of[kind])
        share = f"{100 * macs / total:.1f} %" if macs else ""
        drawn.add_row(
            *kind, str(len(macs_of[kind])), f"{macs:,}" if macs else "", share
        )
    return drawn


def _operators(rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    drawn = output.grid(*keys)
    for row in rows:
        values = [row.get(key) for key in keys]
        drawn.add_row(
            *(
                Text("" if value is None else formatting.plain(value))
                for value in values
            )
        )
    return drawn
