"""``edgekit doctor``: what is installed, and what each step and target still needs."""

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.text import Text

import edgekit
from edgekit import cache, catalog, registry
from edgekit.cli import hosts, output
from edgekit.formats import FORMATS
from edgekit.pipeline.request import find_target
from edgekit.registry import Registry
from edgekit.target import Target

#: Modules whose distribution has another name.
_DISTRIBUTIONS: Mapping[str, str] = {
    "sklearn": "scikit-learn",
    "ethosu.vela": "ethos-u-vela",
}
_CORE = ("click", "jinja2", "numpy", "platformdirs", "pydantic", "pyyaml", "rich")
#: Programs that edgekit uses where they are there -> what they are for.
_TOOLS: Mapping[str, str] = {
    "edgetpu_compiler": "compiles for the Edge TPU; without it the mapping is predicted",
    "trtexec": "NVIDIA's own timing of an engine; edgekit does not need it",
    "nvidia-smi": "tells whether there is an NVIDIA GPU; without one TensorRT latency is unmeasured",
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
    """Show what is installed, and what each step and target still needs, with the command
    that installs it.
    """
    found = examine()
    if as_json:
        output.show_json(found)
    else:
        output.show(*_drawn(found))


def examine() -> dict[str, Any]:
    """Everything that was found, as JSON values. No framework is imported."""
    return {
        "edgekit": edgekit.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "cache": str(cache.default_root()),
        "packages": _packages(),
        "parts": [row for table in _TABLES for row in _parts(table)],
        "targets": [_target(find_target(name)) for name in catalog.names("targets")],
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
            for need in table.entry(name).needs:
                either = need.split("|")
                for module in [
                    module for module in either if registry.installed(module)
                ] or either[:1]:
                    extras.setdefault(module, table.entry(name).extra)
    core = [{"name": name, "version": _version(name), "install": None} for name in _CORE]
    rest = [
        {
            "name": _DISTRIBUTIONS.get(module, module.replace("_", "-")),
            "version": _version(module) if registry.installed(module) else None,
            "install": registry.install(extra),
        }
        for module, extra in sorted(extras.items())
    ]
    return core + [{**row, "install": None} if row["version"] else row for row in rest]


def _version(module: str) -> str:
    """The version of an installed package; a module that no distribution owns is there all
    the same.
    """
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _parts(table: Registry) -> list[dict[str, Any]]:
    rows = []
    for name in table:
        missing = [
            need.replace("|", " or ") for need in table.missing(name, registry.installed)
        ]
        rows.append(
            {
                "kind": table.kind,
                "name": name,
                "missing": missing,
                "install": registry.install(table.entry(name).extra) if missing else None,
            }
        )
    return rows


def _target(target: Target) -> dict[str, Any]:
    """What the whole way to a target needs, and why its latency cannot be taken where that
    is so.
    """
    uses: Sequence[tuple[Registry, Sequence[str]]] = (
        (registry.STEPS, FORMATS[target.format].route),
        (registry.RUNTIMES, (target.runtime,)),
        (registry.AUDITS, (target.format,)),
    )
    lacking = [
        (need.replace("|", " or "), table.entry(name).extra)
        for table, names in uses
        for name in names
        for need in table.missing(name, registry.installed)
    ]
    return {
        "name": target.name,
        "missing": list(dict.fromkeys(need for need, _ in lacking)),
        "install": list(dict.fromkeys(registry.install(extra) for _, extra in lacking)),
        "latency": target.latency,
        "latency_note": target.latency_note,
    }


def _gpus() -> list[str]:
    """The NVIDIA GPUs, by name and compute capability."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        asked = subprocess.run(
            [tool, "--query-gpu=name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]


def _drawn(found: Mapping[str, Any]) -> list[RenderableType]:
    packages, targets, tools = (
        output.grid("package", "version", ""),
        output.grid("target", "ready", "", ""),
        output.grid("tool", "where", "for"),
    )
    places = output.grid("host", "ready", "")
    for row in found["packages"]:
        packages.add_row(
            row["name"],
            _told(row["version"] or "missing", good=bool(row["version"])),
            row["install"] or "",
        )
    for row in found["targets"]:
        note = (
            ""
            if row["latency"] == "measured"
            else f"latency unmeasured: {row['latency_note']}"
        )
        needs = (
            f"needs {', '.join(row['missing'])}: {' and '.join(row['install'])}"
            if row["missing"]
            else ""
        )
        targets.add_row(
            row["name"],
            _told("no" if row["missing"] else "yes", good=not row["missing"]),
            needs,
            Text(note, "dim"),
        )
    for row in found["hosts"]:
        places.add_row(
            row["name"],
            _told("yes" if row["ready"] else "no", good=row["ready"]),
            hosts.needs(row),
        )
    for row in found["tools"]:
        tools.add_row(
            row["name"],
            Text(row["path"] or "not found", "" if row["path"] else "dim"),
            Text(row["for"], "dim"),
        )
    lacking = [row for row in found["parts"] if row["missing"]]
    parts: list[RenderableType] = [
        output.facts(
            [
                ("edgekit", found["edgekit"]),
                ("python", f"{found['python']} ({found['executable']})"),
                ("cache", found["cache"]),
                ("GPU", "; ".join(found["gpus"]) or "no NVIDIA GPU found"),
            ]
        ),
        Text(),
        packages,
        Text(),
        targets,
        Text(),
        places,
        Text(),
        tools,
        Text(),
    ]
    if not lacking:
        return [
            *parts,
            Text(
                f"All {len(found['parts'])} steps, networks, tasks, runtimes and audits have what they need."
            ),
        ]
    missing = output.grid("cannot be used yet", "needs", "install with")
    for row in lacking:
        missing.add_row(
            f"{row['kind']} {row['name']}", ", ".join(row["missing"]), row["install"]
        )
    return [*parts, missing]


def _told(text: str, *, good: bool) -> Text:
    return Text(text, "green" if good else "red")
