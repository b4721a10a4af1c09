"""``edgekit hosts record``: record a latency table on a device, for ``edgekit estimate``."""

import os
import pathlib
from typing import TYPE_CHECKING

import click
from rich.text import Text

from edgekit import cache as caches
from edgekit.cli import output
from edgekit.errors import HostError
from edgekit.estimates import table as latency_table
from edgekit.formats.record import Implementation
from edgekit.hosts import lookup
from edgekit.registry import Registry
from edgekit.rendering import formatting
from edgekit.rendering.progress import show_progress

if TYPE_CHECKING:
    from edgekit.estimates.table import Table

#: The recorder for files of each format.
RECORDERS = Registry(
    "format",
    {
        "onnx": Implementation(
            "edgekit.estimates.recording:record",
            ("onnx", "onnxruntime", "torch", "scipy"),
            "onnx",
        ),
        "tflite": Implementation(
            "edgekit.estimates.recording:record",
            ("ai_edge_litert", "litert_torch", "torch", "scipy"),
            "tflite",
        ),
    },
)
SUFFIX_FORMATS = ("onnx", "tflite")


@click.command()
@click.argument("host")
@click.option(
    "--format",
    "--form",
    "format",
    type=click.Choice(SUFFIX_FORMATS),
    default="onnx",
    show_default=True,
    help="Which files: ONNX in ONNX Runtime, TFLite in LiteRT.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    metavar="FILE",
    help="Where to write the table.  [default: your configuration folder]",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A few networks only: a minute less, and a table with fewer operators.",
)
@output.as_json_option
def record(
    host: str,
    format: str,
    out: pathlib.Path | None,
    *,
    quick: bool,
    as_json: bool,
) -> None:
    """Time the operators of HOST, so that 'edgekit estimate' can estimate the latency of any
    file there. One thread, batch 1.
    """
    # Waiting threads sleep instead of spinning; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    file = lookup.find_host(host)
    if file.kind == "qemu":
        raise HostError(
            f"Times on {host} are not representative: it is emulated.",
            fix="record on the device itself",
        )
    name = f"{file.name}-{format}"
    path = out or latency_table.folder() / f"{name}.json"
    place = lookup.open_host(host)
    caches.make_folder(path.parent)
    recorder = RECORDERS.load(format)
    with show_progress() as progress:
        table: Table = recorder(
            place,
            format,
            name,
            caches.Cache(caches.default_root()),
            quick,
            progress,
        )
    with caches.writing(path.parent):
        caches.write_text(path, table.model_dump_json(by_alias=True) + "\n")
    if as_json:
        output.show_json(
            {
                "file": str(path),
                **table.model_dump(
                    mode="json", by_alias=True, exclude={"rows"}
                ),
            }
        )
        return
    drawn = output.grid(
        "held-out network", "scheme", "measured", "estimated", "error"
    )
    fmt = formatting.NumberFormat(share=False)
    for row in table.held_out:
        unknown = f", {row.unknown} unknown" if row.unknown else ""
        drawn.add_row(
            row.network,
            row.scheme,
            fmt.number("latency_ms", row.ns / 1e6),
            fmt.number("latency_ms", row.estimated / 1e6),
            f"{100 * row.error:.0f} %{unknown}",
        )
    output.show(drawn, Text(), Text(table.provenance))
    device = path if out else name
    click.echo(
        f"Written to {path}; estimate with: edgekit estimate FILE --device {device}",
        err=True,
    )
