"""``edgekit doctor``: what is installed, and what each step and target requires."""

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

import edgekit
from edgekit import cache, catalog, registry
from edgekit.cli import hosts, output
from edgekit.formats import FORMATS
from edgekit.pipeline.request import find_target
from edgekit.registry import Registry
from edgekit.target import Target

#: Module -> distribution, if the names differ.
_DISTRIBUTIONS: Mapping[str, str] = {
    "sklearn": "scikit-learn",
    "ethosu.vela": "ethos-u-vela",
}
_CORE = (
    "click",
    "jinja2",
    "numpy",
    "platformdirs",
    "pydantic",
    "pyyaml",
    "rich",
)
#: Programs that edgekit uses if they are installed -> their purpose.
_TOOLS: Mapping[str, str] = {
    "edgetpu_compiler": "compiles for the Edge TPU; without it the mapping is predicted",
    "trtexec": "NVIDIA's tool for timing engines; edgekit does not require it",
    "nvidia-smi": "detects NVIDIA GPUs; without one TensorRT latency is unmeasured",
}
_TABLES: tuple[Registry, ...] = (
    registry.STEPS,
    registry.SOURCES,
    registry.TASKS,
    registry.RUNTIMES,
    registry.AUDITS,
)


@click.command()
@output.as_json_option
def doctor(*, as_json: bool) -> None:
    """Show what is installed, and what each step and target requires, with the command that
    installs it.
    """
    state = examine()
    if as_json:
        output.show_json(state)
    else:
        output.show(*_drawn(state))


def examine() -> dict[str, Any]:
    """Return the state of the installation as JSON values. No framework is imported."""
    return {
        "edgekit": edgekit.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "cache": str(cache.default_root()),
        "packages": _packages(),
        "parts": [row for table in _TABLES for row in _parts(table)],
        "targets": [
            _target(find_target(name)) for name in catalog.names("targets")
        ],
        "hosts": hosts.examine(),
        "tools": [
            {"name": name, "path": shutil.which(name), "for": purpose}
            for name, purpose in _TOOLS.items()
        ],
        "gpus": _gpus(),
    }


def _packages() -> list[dict[str, Any]]:
    """Every package that edgekit can use: its version, or the command that installs it."""
    extras: dict[str, str] = {}
    for table in _TABLES:
        for name in table:
            entry = table.entry(name)
            for need in entry.needs:
                for module in _alternatives(need):
                    extras.setdefault(module, entry.extra)
    rows = [
        {"name": name, "version": _version(name), "install": None}
        for name in _CORE
    ]
    for module, extra in sorted(extras.items()):
        is_installed = registry.installed(module)
        rows.append(
            {
                "name": _DISTRIBUTIONS.get(module, module.replace("_", "-")),
                "version": _version(module) if is_installed else None,
                "install": None if is_installed else registry.install(extra),
            }
        )
    return rows


def _alternatives(need: str) -> list[str]:
    """The installed modules of ``one|another``, or the preferred one if there are none."""
    modules = need.split("|")
    return [
        module for module in modules if registry.installed(module)
    ] or modules[:1]


def _version(module: str) -> str:
    """The version of an installed module, which may not belong to a distribution."""
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _parts(table: Registry) -> list[dict[str, Any]]:
    rows = []
    for name in table:
        missing = [
            need.replace("|", " or ")
            for need in table.missing(name, registry.installed)
        ]
        rows.append(
            {
                "kind": table.kind,
                "name": name,
                "missing": missing,
                "install": registry.install(table.entry(name).extra)
                if missing
                else None,
            }
        )
    return rows


def _target(target: Target) -> dict[str, Any]:
    """What the steps, runtime and audit of a target require."""
    uses: Sequence[tuple[Registry, Sequence[str]]] = (
        (registry.STEPS, FORMATS[target.format].route),
        (registry.RUNTIMES, (target.runtime,)),
        (registry.AUDITS, (target.format,)),
    )
    missing: list[str] = []
    commands: list[str] = []
    for table, names in uses:
        for name in names:
            for need in table.missing(name, registry.installed):
                missing.append(need.replace("|", " or "))
                commands.append(registry.install(table.entry(name).extra))
    return {
        "name": target.name,
        "missing": list(dict.fromkeys(missing)),
        "install": list(dict.fromkeys(commands)),
        "latency": target.latency,
        "latency_note": target.latency_note,
    }


def _gpus() -> list[str]:
    """The NVIDIA GPUs, by name and compute capability."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        result = subprocess.run(
            [tool, "--query-gpu=name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def _drawn(state: Mapping[str, Any]) -> list[RenderableType]:
    facts = [
        ("edgekit", state["edgekit"]),
        ("python", f"{state['python']} ({state['executable']})"),
        ("cache", state["cache"]),
        ("GPU", "; ".join(state["gpus"]) or "no NVIDIA GPU found"),
    ]
    drawn: list[RenderableType] = [output.facts(facts), Text()]
    for table in (
        _package_table(state["packages"]),
        _target_table(state["targets"]),
        _host_table(state["hosts"]),
        _tool_table(state["tools"]),
    ):
        drawn += [table, Text()]
    incomplete = [row for row in state["parts"] if row["missing"]]
    if incomplete:
        return [*drawn, _incomplete_table(incomplete)]
    count = len(state["parts"])
    kinds = "steps, networks, tasks, runtimes and audits"
    return [
        *drawn,
        Text(f"The requirements of all {count} {kinds} are installed."),
    ]


def _package_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid("package", "version", "")
    for row in rows:
        version = _coloured(
            row["version"] or "missing", good=bool(row["version"])
        )
        drawn.add_row(row["name"], version, row["install"] or "")
    return drawn


def _target_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid("target", "ready", "", "")
    for row in rows:
        needs = note = ""
        if row["missing"]:
            needs = f"needs {', '.join(row['missing'])}: {' and '.join(row['install'])}"
        if row["latency"] != "measured":
            note = f"latency unmeasured: {row['latency_note']}"
        drawn.add_row(
            row["name"],
            _yes_or_no(yes=not row["missing"]),
            needs,
            Text(note, "dim"),
        )
    return drawn


def _host_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid("host", "ready", "")
    for row in rows:
        drawn.add_row(
            row["name"], _yes_or_no(yes=row["ready"]), hosts.needs(row)
        )
    return drawn


def _tool_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid("tool", "where", "for")
    for row in rows:
        path = Text(row["path"] or "not found", "" if row["path"] else "dim")
        drawn.add_row(row["name"], path, Text(row["for"], "dim"))
    return drawn


def _incomplete_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid("cannot be used yet", "needs", "install with")
    for row in rows:
        name = f"{row['kind']} {row['name']}"
        drawn.add_row(name, ", ".join(row["missing"]), row["install"])
    return drawn


def _yes_or_no(*, yes: bool) -> Text:
    return _coloured("yes" if yes else "no", good=yes)


def _coloured(text: str, *, good: bool) -> Text:
    return Text(text, "green" if good else "red")
