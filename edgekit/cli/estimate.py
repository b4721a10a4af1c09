"""``edgekit estimate``: how long a file would take on a device that is not here."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table as Drawn
from rich.text import Text

from edgekit.artifact import FormatName
from edgekit.cli import output
from edgekit.errors import EdgekitError
from edgekit.estimates import table as latency_table
from edgekit.formats.record import Implementation
from edgekit.registry import Registry
from edgekit.rendering import formatting

if TYPE_CHECKING:
    from edgekit.estimates.estimate import Estimate

#: Who estimates a file of each format.
ESTIMATORS = Registry(
    "kind of file",
    {
        "onnx": Implementation(
            "edgekit.estimates.estimate:of_file", ("onnx", "onnxruntime", "scipy"), "onnx"
        ),
        "tflite": Implementation(
            "edgekit.estimates.estimate:of_file", ("ai_edge_litert", "scipy"), "tflite"
        ),
    },
)
SUFFIX_FORMATS: Mapping[str, FormatName] = {".onnx": "onnx", ".tflite": "tflite"}
#: So many operators are listed, the longest first, unless all are asked for.
_LONGEST = 20


@click.command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)
)
@click.option(
    "--device",
    "-d",
    "device",
    required=True,
    metavar="NAME",
    help="A table that 'edgekit hosts record' wrote: its name, or a .json file.",
)
@click.option("--rows", is_flag=True, help="List every operator, in the file's order.")
@output.as_json_option
def estimate(file: pathlib.Path, device: str, *, rows: bool, as_json: bool) -> None:
    """Estimate how long FILE (.onnx or .tflite) takes on a device, from a table recorded
    there. An estimate is not a measurement.
    """
    format = SUFFIX_FORMATS.get(file.suffix.lower())
    if format is None:
        raise EdgekitError(
            f"{file} is none of {', '.join(SUFFIX_FORMATS)}.",
            fix="name a model file that ends in one of these",
        )
    table = latency_table.load(latency_table.find(device))
    of_file: Callable[..., Estimate] = ESTIMATORS.load(format)
    found = of_file(file, format, table)
    if as_json:
        output.show_json(_data(file, table, found))
        return
    fmt = formatting.NumberFormat(share=False)
    measured = found.measurement()
    bound = "at least " if found.unknown else ""
    output.show(
        Text.assemble(
            (file.name, "bold"),
            f"  {bound}{fmt.bracketed(measured)}, of which the call itself {fmt.number('latency_ms', found.call_ms)}",
        ),
        Text(found.provenance),
        Text(f"{table.where}; {table.machine} {table.system}".rstrip(), "dim"),
        Text(),
        _lines(found, fmt, rows=rows),
    )
    if found.unknown:
        listed = ", ".join(f"{kind} {count}" for kind, count in found.unknown.items())
        output.show(
            Text(),
            Text(
                f"The table has no rows for: {listed}. They count nothing here, so the estimate is a lower bound.",
                "yellow",
            ),
        )


def _lines(found: "Estimate", fmt: formatting.NumberFormat, *, rows: bool) -> Drawn:
    """The operators with their shares of the time."""
    drawn = output.grid("operator", "computes in")
    for heading in ("MACs", "time", "share"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("module")
    lines = (
        list(found.lines)
        if rows
        else sorted(found.lines, key=lambda line: -line.share)[:_LONGEST]
    )
    for line in lines:
        cost = line.operator.cost
        time = "unknown" if line.ms is None else fmt.number("latency_ms", line.ms)
        drawn.add_row(
            cost.kind,
            cost.dtype,
            f"{cost.macs:,}" if cost.macs else "",
            time,
            f"{100 * line.share:.1f} %",
            line.operator.module or "",
        )
    left = len(found.lines) - len(lines)
    if left:
        drawn.add_row(
            f"{left} more",
            "",
            "",
            "",
            f"{100 * (sum(line.share for line in found.lines) - sum(line.share for line in lines)):.1f} %",
            "",
        )
    return drawn


def _data(
    file: pathlib.Path, table: latency_table.Table, found: "Estimate"
) -> dict[str, Any]:
    return {
        "file": str(file),
        "table": table.name,
        "estimate": found.measurement().model_dump(mode="json"),
        "call_ms": found.call_ms,
        "unknown": found.unknown,
        "rows": [
            {
                "op": line.operator.cost.kind,
                "dtype": line.operator.cost.dtype,
                "macs": line.operator.cost.macs,
                "name": line.operator.name,
                "module": line.operator.module,
                "ms": line.ms,
                "share": line.share,
            }
            for line in found.lines
        ],
    }
