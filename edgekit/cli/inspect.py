"""``edgekit inspect``: what a runtime really executes in one file."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgekit import registry
from edgekit.artifact import MAIN, Artifact, File, Part
from edgekit.cli import output
from edgekit.cli.overrides import find_target
from edgekit.contracts import Audit
from edgekit.errors import EdgekitError
from edgekit.registry import Entry, Registry
from edgekit.rendering import words
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits, Target

#: Who reads one file of each format.
READERS = Registry(
    "kind of file",
    {
        "onnx": Entry("edgekit.formats.onnx.audit:read", ("onnx", "onnxruntime"), "onnx"),
        "ort": Entry("edgekit.formats.ort.audit:read", ("onnx", "onnxruntime"), "onnx"),
        "tflite": Entry(
            "edgekit.formats.tflite.audit:audit_file", ("ai_edge_litert",), "tflite"
        ),
        "edgetpu": Entry(
            "edgekit.formats.edgetpu.audit:audit_file", ("ai_edge_litert",), "tflite"
        ),
        "ethosu": Entry(
            "edgekit.formats.ethosu.audit:audit_file", ("ai_edge_litert",), "tflite"
        ),
    },
)
#: The formats that a file's ending can mean; the first is taken where no target says
#: otherwise.
SUFFIX_FORMATS: Mapping[str, tuple[str, ...]] = {
    ".onnx": ("onnx",),
    ".ort": ("ort",),
    ".tflite": ("tflite", "edgetpu", "ethosu"),
    ".engine": ("tensorrt",),
}


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
    format = _format_of(file, device)
    audit = _read(file, format, Limits() if device is None else device.limits)
    if as_json:
        output.show_json(_data(file, format, audit))
        return
    output.show(*_drawn(file, format, audit))
    if rows:
        output.show(Text(), _operators(audit.rows))


def _format_of(file: pathlib.Path, device: Target | None) -> str:
    """What kind of file this is, or an error where the device cannot take it."""
    if any(
        "\udc80" <= letter <= "\udcff" for letter in str(file)
    ):  # how Python keeps bytes that are no letters
        raise EdgekitError(
            f"The name {str(file)!r} is not UTF-8, and the runtimes cannot open it.",
            fix="rename the file",
        )
    formats = SUFFIX_FORMATS.get(file.suffix.lower())
    if formats is None:
        raise EdgekitError(
            f"{file} is none of {', '.join(SUFFIX_FORMATS)}.",
            fix="name a model file that ends in one of these",
        )
    if device is not None and device.format not in formats:
        raise EdgekitError(
            f"{device.name} takes files of the format {device.format}; {file} is {formats[0]}.",
            fix="name another --target; 'edgekit targets' lists them",
        )
    return formats[0] if device is None else device.format


def _read(file: pathlib.Path, format: str, limits: Limits) -> Audit:
    if format == "tensorrt":
        audit: Callable[[Artifact, Limits], Audit] = registry.AUDITS.load(format)
        return audit(_engine(file), limits)
    read: Callable[[pathlib.Path, Limits], Audit] = READERS.load(format)
    return read(file, limits)


def _engine(file: pathlib.Path) -> Artifact:
    """An engine and its build log as an artifact.

    Its signature is not known, and not read by the audit.
    """
    log = file.with_suffix(".log.json")
    if not log.is_file():
        raise EdgekitError(
            f"There is no {log.name} beside {file}.",
            fix="name an engine that edgekit built; an engine alone does not tell its datatypes",
        )
    unknown = TensorSpec(name="unknown", dtype="float32", dims=())
    files = {"engine": File(path=file.name), "log": File(path=log.name)}
    return Artifact(
        format="tensorrt",
        parts=(
            Part(
                name=MAIN,
                signature=Signature(inputs=(unknown,), outputs=(unknown,)),
                files=files,
            ),
        ),
        folder=file.parent,
    )


def _data(file: pathlib.Path, format: str, audit: Audit) -> dict[str, Any]:
    return {
        "file": str(file),
        "format": format,
        "bytes": file.stat().st_size,
        "measurements": [
            measured.model_dump(mode="json") for measured in audit.measurements
        ],
        "warnings": list(audit.warnings),
        "rows": [dict(row) for row in audit.rows],
    }


def _drawn(file: pathlib.Path, format: str, audit: Audit) -> list[RenderableType]:
    says = words.Wording(share=False)
    head = Text.assemble(
        (file.name, "bold"),
        f"  {format}, {words.size(file.stat().st_size)}, {len(audit.rows)} operators",
    )
    numbers = output.grid("number", "value", "how")
    for measured in audit.measurements:
        numbers.add_row(
            words.HEADINGS[measured.name].lower(),
            says.bracketed(measured),
            Text(measured.how, "dim"),
        )
    places = [
        Text(f"read from {place}", "dim") for place in words.wheres(audit.measurements)
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
            *(Text("" if row.get(key) is None else words.plain(row[key])) for key in keys)
        )
    return drawn
