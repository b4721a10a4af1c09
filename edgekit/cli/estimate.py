"""``edgekit estimate``: estimate a file's latency on a device that is not available."""

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

#: The estimator for files of each format.
ESTIMATORS = Registry(
    "kind of file",
    {
        "onnx": Implementation(
            "edgekit.estimates.estimate:of_file",
            ("onnx", "onnxruntime", "scipy"),
            "onnx",
        ),
        "tflite": Implementation(
            "edgekit.estimates.estimate:of_file",
            ("ai_edge_litert", "scipy"),
            "tflite",
        ),
    },
)
SUFFIX_FORMATS: Mapping[str, FormatName] = {
    ".onnx": "onnx",
    ".tflite": "tflite",
}
#: The number of operators that are listed, the slowest first, without --rows.
_SLOWEST = 20


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
@click.option(
    "--rows", is_flag=True, help="List every operator, in the file's order."
)
@output.as_json_option
def estimate(
    file: pathlib.Path, device: str, *, rows: bool, as_json: bool
) -> None:
    """Estimate the latency of FILE (.onnx or .tflite) on a device, from a table recorded
    there. An estimate is not a measurement.
    """
    format = SUFFIX_FORMATS.get(file.suffix.lower())
    if format is None:
        raise EdgekitError(
            f"{file} is not a supported file: expected {' or '.join(SUFFIX_FORMATS)}.",
            fix="give the path of a model file with one of these suffixes",
        )
    table = latency_table.load(latency_table.find(device))
    of_file: Callable[..., Estimate] = ESTIMATORS.load(format)
    result = of_file(file, format, table)
    if as_json:
        output.show_json(_data(file, table, result))
        return
    fmt = formatting.NumberFormat(share=False)
    bound = "at least " if result.unknown else ""
    total = f"{bound}{fmt.bracketed(result.measurement())}"
    call = fmt.number("latency_ms", result.call_ms)
    output.show(
        Text.assemble(
            (file.name, "bold"), f"  {total}, of which the call itself {call}"
        ),
        Text(result.provenance),
        Text(f"{table.where}; {table.machine} {table.system}".rstrip(), "dim"),
        Text(),
        _lines(result, fmt, rows=rows),
    )
    if result.unknown:
        kinds = ", ".join(
            f"{kind} {count}" for kind, count in result.unknown.items()
        )
        warning = (
            f"The table has no rows for: {kinds}. They count as 0 ms here, "
            "so the estimate is a lower bound."
        )
        output.show(Text(), Text(warning, "yellow"))


def _lines(
    result: "Estimate", fmt: formatting.NumberFormat, *, rows: bool
) -> Drawn:
    """The operators with their shares of the time."""
    drawn = output.grid("operator", "computes in")
    for heading in ("MACs", "time", "share"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("module")
    lines = list(result.lines)
    if not rows:
        lines = sorted(lines, key=lambda line: -line.share)[:_SLOWEST]
    for line in lines:
        cost = line.operator.cost
        time = (
            "unknown" if line.ms is None else fmt.number("latency_ms", line.ms)
        )
        drawn.add_row(
            cost.kind,
            cost.dtype,
            f"{cost.macs:,}" if cost.macs else "",
            time,
            f"{100 * line.share:.1f} %",
            line.operator.module or "",
        )
    left = len(result.lines) - len(lines)
    if left:
        shown = sum(line.share for line in lines)
        share = sum(line.share for line in result.lines) - shown
        drawn.add_row(f"{left} more", "", "", "", f"{100 * share:.1f} %", "")
    return drawn


def _data(
    file: pathlib.Path, table: latency_table.Table, result: "Estimate"
) -> dict[str, Any]:
    return {
        "file": str(file),
        "table": table.name,
        "estimate": result.measurement().model_dump(mode="json"),
        "call_ms": result.call_ms,
        "unknown": result.unknown,
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
            for line in result.lines
        ],
    }
