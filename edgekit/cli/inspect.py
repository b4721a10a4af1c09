"""``edgekit inspect``: what a runtime really executes in one file."""

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
    help="Also hold the file against this device's limits.",
)
@click.option("--rows", is_flag=True, help="List every operator.")
@output.as_json_option
def inspect(file: pathlib.Path, target: str | None, *, rows: bool, as_json: bool) -> None:
    """Show what a runtime really executes in FILE: an .onnx, an .ort, a .tflite, or an
    .engine with its .log.json beside it.
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


def _drawn(file: pathlib.Path, format: str, audit: Audit) -> list[RenderableType]:
    fmt = formatting.NumberFormat(share=False)
    head = Text.assemble(
        (file.name, "bold"),
        f"  {format}, {formatting.size(loaded_bytes(file, format))}, {len(audit.rows)} operators",
    )
    numbers = output.grid("number", "value", "how")
    for measured in audit.measurements:
        numbers.add_row(
            QUANTITIES[measured.name].heading.lower(),
            fmt.bracketed(measured),
            Text(measured.how, "dim"),
        )
    places = [
        Text(f"read from {place}", "dim") for place in summary.places(audit.measurements)
    ]
    warnings = [Text(f"warning: {warning}", "yellow") for warning in audit.warnings]
    return [
        head,
        *places,
        Text(),
        numbers,
        Text(),
        _kinds(audit.rows),
        *([Text(), *warnings] if warnings else []),
    ]


def _kinds(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How many operators there are of each kind and dtype, those with the most arithmetic
    first.
    """
    total = sum(row.get("macs") or 0 for row in rows)
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        found.setdefault((str(row.get("op")), str(row.get("dtype"))), []).append(
            row.get("macs") or 0
        )
    drawn = output.grid("operator", "computes in")
    for heading in ("count", "MACs", "share"):
        drawn.add_column(heading, justify="right")
    for (op, dtype), macs in sorted(
        found.items(), key=lambda item: (-sum(item[1]), -len(item[1]), item[0])
    ):
        share = f"{100 * sum(macs) / total:.1f} %" if total and sum(macs) else ""
        drawn.add_row(
            op, dtype, str(len(macs)), f"{sum(macs):,}" if sum(macs) else "", share
        )
    return drawn


def _operators(rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    drawn = output.grid(*keys)
    for row in rows:
        drawn.add_row(
            *(Text("" if row.get(key) is None else formatting.plain(row[key])) for key in keys)
        )
    return drawn
