"""Generate the pages of the documentation site that describe code and data.

MkDocs loads this file as a hook (``hooks`` in mkdocs.yml). It adds one page per target and the
JSON schema of ``report.json``, and replaces ``<!-- generated: NAME -->`` in the other pages.
Nothing is written into the checkout, so a generated page cannot be out of date.
"""

import inspect
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
import pydantic

from edgekit import errors, target
from edgekit.cli.main import COMMANDS, main
from edgekit.cli.targets import verified
from edgekit.report import Report
from edgekit.scheme import SCHEMES
from edgekit.target import Limits, Target

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGETS = ROOT / "targets"
#: Where the generated pages are in the site.
TARGET_PAGES = "devices/targets"
SCHEMA_FILE = "reference/report.schema.json"
_MARK = re.compile(r"<!-- generated: (\w+) -->")
#: File format -> the page of the device family. x86 and ARM share the formats onnx and tflite.
_FAMILY_PAGES = {
    "edgetpu": "edge-tpu.md",
    "ethosu": "ethos-u.md",
    "tensorrt": "tensorrt.md",
    "tflite": "mobile.md",
    "ort": "mobile.md",
    "openvino": "openvino.md",
}
_FAMILY_TITLES = {
    "cpu.md": "x86 CPUs",
    "edge-tpu.md": "The Edge TPU",
    "ethos-u.md": "Arm Ethos-U",
    "tensorrt.md": "TensorRT",
    "mobile.md": "Phones and Raspberry Pi",
    "openvino.md": "x86 CPUs with OpenVINO",
}


# The hooks that MkDocs calls.


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Add the targets' pages to the navigation, under Devices."""
    pages = [{name: f"{TARGET_PAGES}/{name}.md"} for name in target_names()]
    for section in config.nav or []:
        if "Devices" in section:
            section["Devices"].append({"Targets": pages})
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the files that do not exist in the checkout."""
    from mkdocs.structure.files import (
        File,
    )  # the tests use the rest of this file without MkDocs

    for name in target_names():
        page = target_page(target.load(TARGETS / f"{name}.yaml"))
        files.append(
            File.generated(config, f"{TARGET_PAGES}/{name}.md", content=page)
        )
    schema = json.dumps(Report.model_json_schema(), indent=1) + "\n"
    files.append(File.generated(config, SCHEMA_FILE, content=schema))
    return files


def on_page_markdown(
    markdown: str, page: "Page", config: "MkDocsConfig", files: "Files"
) -> str:
    """Replace each mark by what it names."""
    return fill(markdown)


def fill(markdown: str) -> str:
    """Replace ``<!-- generated: NAME -->`` by the text that is generated under this name."""
    return _MARK.sub(lambda mark: GENERATORS[mark.group(1)](), markdown)


# Targets and schemes.


def target_names() -> list[str]:
    """The names of the targets that are part of edgekit."""
    return sorted(path.stem for path in TARGETS.glob("*.yaml"))


def target_page(device: Target) -> str:
    """The page of one target."""
    file = (TARGETS / f"{device.name}.yaml").read_text(encoding="utf-8")
    family = _family(device)
    rows = [
        ("format", f"`{device.format}`"),
        ("runtime", f"`{device.runtime}`"),
        ("host", f"`{device.host}`"),
        (
            "verified too on",
            ", ".join(f"`{host}`" for host in device.also_on) or "-",
        ),
        ("latency", _latency(device)),
        (
            "accuracy",
            device.accuracy_note
            or "taken with the device's own runtime and file",
        ),
        ("source of the limits", device.source or "-"),
    ]
    return "\n".join(
        [
            f"# {device.name}",
            "",
            f"{device.title}. The family: [{_FAMILY_TITLES[family]}](../{family}).",
            "",
            "```console",
            f"$ edgekit plan int8 --model net.py:model --task net.py:task --target {device.name}",
            "```",
            "",
            _table(("key", "value"), rows),
            "",
            "## Limits",
            "",
            "Values that differ from the default.",
            "",
            _table(("limit", "value", "meaning"), list(_limits(device))),
            "",
            *_gates(device),
            "## Schemes, in order of preference",
            "",
            _table(
                ("scheme", "what it is"),
                [(f"`{n}`", SCHEMES[n].title) for n in device.schemes],
            ),
            "",
            "## What can be verified without the device",
            "",
            verified(device) + ".",
            "",
            "## The file",
            "",
            f"`targets/{device.name}.yaml`; copy it to describe a similar device.",
            "",
            "```yaml",
            file.rstrip(),
            "```",
            "",
        ]
    )


def _latency(device: Target) -> str:
    if device.latency == "measured":
        return f"measured on the host `{device.host}`"
    return f"**unmeasured**: {device.latency_note}"


def _family(device: Target) -> str:
    if device.format == "onnx" and "raspberry" in device.name:
        return "mobile.md"
    return _FAMILY_PAGES.get(device.format, "cpu.md")


def _limits(device: Target) -> Iterator[tuple[str, str, str]]:
    comments = field_comments(Limits)
    for name in Limits.model_fields:
        value = getattr(device.limits, name)
        if value != getattr(Limits(), name):
            yield f"`{name}`", f"{_plain(value)}", comments.get(name, "")


def _gates(device: Target) -> list[str]:
    gates = [
        (f"`{name}`", str(value))
        for name, value in device.gates
        if value is not None
    ]
    if not gates:
        return []
    heading = [
        "## Gates",
        "",
        "In addition to the recipe's, which they override.",
        "",
    ]
    return [*heading, _table(("gate", "limit"), gates), ""]


def targets_table() -> str:
    """All targets, each with a link to its page."""
    devices = [target.load(TARGETS / f"{name}.yaml") for name in target_names()]
    rows = [
        (
            f"[`{d.name}`](targets/{d.name}.md)",
            d.title,
            f"{d.format}, {d.runtime}",
            d.latency,
        )
        for d in devices
    ]
    return _table(("target", "device", "format, runtime", "latency"), rows)


def schemes_table() -> str:
    """All schemes with their bits and formats."""
    rows = [
        (
            f"`{scheme.name}`",
            f"{scheme.weight_bits}/{scheme.activation_bits}",
            ", ".join(scheme.formats),
            scheme.title,
        )
        for scheme in SCHEMES.values()
    ]
    return _table(
        ("scheme", "bits of weights/activations", "formats", "what it is"), rows
    )


# The command line.


def command_line() -> str:
    """Every command with its help text and options."""
    context = click.Context(main, info_name="edgekit", max_content_width=100)
    sections = [
        _command(main.get_command(context, name), name, context)
        for name in COMMANDS
    ]
    return "\n".join(sections)


def _command(
    command: click.Command | None, name: str, parent: click.Context
) -> str:
    assert command is not None, name
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(
        [context.command_path, *command.collect_usage_pieces(context)]
    )
    lines = [f"## {context.command_path}", "", "```", usage, "```", ""]
    lines += [inspect.cleandoc(command.help or command.short_help or ""), ""]
    records = [
        param.get_help_record(context) for param in command.get_params(context)
    ]
    options = [
        (f"`{record[0]}`", record[1])
        for record in records
        if record is not None
    ]
    lines += [_table(("option", "meaning"), options), ""]
    if isinstance(command, click.Group):
        children = [
            (child, command.get_command(context, child))
            for child in command.list_commands(context)
        ]
        lines += [
            _command(child, child_name, context)
            for child_name, child in children
        ]
    return "\n".join(lines)


# The report's schema.


def report_tables() -> str:
    """One table for each class of the report, in the order in which they appear."""
    sections = []
    for kind in report_classes():
        comments = field_comments(kind)
        rows = []
        for name, field in kind.model_fields.items():
            required = "" if field.is_required() else " (optional)"
            rows.append(
                (
                    f"`{field.alias or name}`",
                    _type(field.annotation) + required,
                    comments.get(name, ""),
                )
            )
        text = inspect.cleandoc(kind.__doc__ or "")
        sections += [
            f"## {kind.__name__}",
            "",
            text,
            "",
            _table(("key", "type", "meaning"), rows),
            "",
        ]
    return "\n".join(sections)


def report_classes() -> list[type[pydantic.BaseModel]]:
    """The report and every class of edgekit that its fields contain."""
    classes: list[type[pydantic.BaseModel]] = [Report]
    for kind in classes:
        for field in kind.model_fields.values():
            classes += [
                c for c in _contained(field.annotation) if c not in classes
            ]
    return classes


def _contained(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(
        annotation, pydantic.BaseModel
    ):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _contained(argument)


def _type(annotation: Any) -> str:
    """A field's type as JSON has it: lists instead of tuples, the values of a Literal."""
    plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    text = annotation.__name__ if plain else str(annotation)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text).replace("NoneType", "None")
    text = re.sub(r"tuple\[([\w\[\], ]+), \.\.\.\]", r"list[\1]", text)
    return "`" + re.sub(r"Literal\[([^\]]*)\]", _one_of, text) + "`"


def _one_of(values: re.Match[str]) -> str:
    return " | ".join(value.strip() for value in values.group(1).split(","))


def field_comments(kind: type[pydantic.BaseModel]) -> dict[str, str]:
    """The ``#:`` comment before each field of a class, and of the classes that it inherits from."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "edgekit":
            comments |= _comments_in(inspect.getsource(base))
    return comments


def _comments_in(source: str) -> dict[str, str]:
    comments: dict[str, str] = {}
    pending: list[str] = []
    for line in source.splitlines():
        if match := re.match(r"\s*#: ?(.*)", line):
            pending.append(match.group(1))
        elif match := re.match(r"    (\w+): ", line):
            if pending:
                comments[match.group(1)] = " ".join(pending).replace("``", "`")
            pending = []
        else:
            pending = []
    return comments


# Errors.


def error_table() -> str:
    """Every error that a user can cause, indented below the one that it is a kind of."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.EdgekitError)
    ]
    rows = [
        (
            f"`{kind.__name__}`",
            f"`{kind.__base__.__name__}`" if kind.__base__ else "",
            (kind.__doc__ or "").splitlines()[0],
        )
        for kind in kinds
    ]
    return _table(("error", "is a", "meaning"), rows)


# Markdown.


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return "None."
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines
    )


def _cell(text: str) -> str:
    """One cell: one line, in which neither a pipe nor a tag has a meaning."""
    pieces = " ".join(text.split()).split("`")
    for index, piece in enumerate(pieces):
        escaped = piece.replace("<", "&lt;").replace("|", "&#124;")
        is_code = index % 2 == 1
        if not is_code:
            pieces[index] = escaped
        elif "|" in piece:
            pieces[index] = f"<code>{escaped}</code>"
        else:
            pieces[index] = f"`{piece}`"
    return "".join(pieces)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value} ({value >> 20} MiB)"
    return str(value)


GENERATORS: Mapping[str, Callable[[], str]] = {
    "targets": targets_table,
    "schemes": schemes_table,
    "cli": command_line,
    "report": report_tables,
    "errors": error_table,
}
