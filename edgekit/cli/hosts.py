"""``edgekit hosts``: the places where files are run; making them ready, trying them,
removing what was made.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgekit import catalog
from edgekit.cli import output
from edgekit.cli.listing import Listing, listing
from edgekit.cli.record import record
from edgekit.contracts import Host
from edgekit.errors import EdgekitError
from edgekit.host import HostFile
from edgekit.hosts import install_dirs, lookup, selftest
from edgekit.hosts.execution import PACKAGES
from edgekit.rendering.progress import show_progress
from edgekit.rendering.formatting import size


def _find(name: str) -> dict[str, Any]:
    file = lookup.find_host(name)
    made = install_dirs.root() / file.name
    problems = [
        known
        for known in (
            _problem(file, environment, name) for environment in file.environments
        )
        if known
    ]
    return {
        **file.model_dump(mode="json"),
        "file": ""
        if name.partition(":")[0] in lookup.SHORT_KINDS
        else str(catalog.find("hosts", name)),
        "made_in": str(made) if made.is_dir() else "",
        "ready": not problems,
        "problems": problems,
    }


def _row(name: str) -> dict[str, Any]:
    """One line of the list; a host file that cannot be read does not hide the others."""
    try:
        return _find(name)
    except EdgekitError as error:
        problem = {"environment": "", "what": error.message, "fix": error.fix or ""}
        return {
            "name": name,
            "kind": "",
            "title": "",
            "file": str(catalog.find("hosts", name)),
            "ready": False,
            "problems": [problem],
        }


def _problem(file: HostFile, environment: str, asked: str) -> dict[str, str] | None:
    known = lookup.find_environment_problem(file, environment, asked)
    return (
        None
        if known is None
        else {"environment": environment, "what": known[0], "fix": known[1]}
    )


def needs(row: Mapping[str, Any]) -> str:
    """What a host still needs, in a few words; empty where it is ready."""
    return "; ".join(
        dict.fromkeys(problem["fix"] or problem["what"] for problem in row["problems"])
    )


def examine() -> list[dict[str, Any]]:
    """Every host that has a name, as JSON values."""
    return [_row(name) for name in catalog.names("hosts")]


hosts = listing(
    Listing(
        word="hosts",
        about="List the places where files are run. A host of your own is a YAML file in edgekit/hosts of your configuration folder, or a path.",
        names=lambda: catalog.names("hosts"),
        find=_find,
        row=_row,
        columns={
            "name": lambda row: str(row["name"]),
            "kind": lambda row: str(row["kind"]),
            "ready": lambda row: "yes" if row["ready"] else f"no: {needs(row)}",
            "title": lambda row: str(row["title"]),
        },
        below="edgekit hosts setup NAME makes one ready, check NAME tries it with real files. No file needed: ssh:ADDRESS, adb:SERIAL.",
    )
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@output.as_json_option
def setup(names: tuple[str, ...], *, as_json: bool) -> None:
    """Make hosts ready: packages and an emulated machine are fetched into edgekit's own
    folder. What is ready is left alone.
    """
    files = [lookup.find_host(name) for name in dict.fromkeys(names)]
    rows = []
    with show_progress() as told:
        for file in files:
            began = time.monotonic()
            lookup.load_kind(file).setup(told)
            took = time.monotonic() - began
            rows += [
                {
                    "host": file.name,
                    "environment": environment,
                    **_made(file, environment, took),
                }
                for environment in file.environments
            ]
    if as_json:
        output.show_json(rows)
        return
    drawn = output.grid(
        "host", "environment", "python", "machine", "packages", "made in", "size"
    )
    for row in rows:
        packages = ", ".join(
            f"{name} {version}" for name, version in row["versions"].items()
        )
        drawn.add_row(
            row["host"],
            row["environment"],
            row["python"],
            row["machine"],
            packages,
            f"{row['seconds']:.1f} s",
            size(row["bytes"]) if row["bytes"] else "",
        )
    output.show(drawn)


def _made(file: HostFile, environment: str, took: float) -> dict[str, Any]:
    """What an environment holds: as the setup has noted it, or on a device as the device
    tells it.
    """
    noted = [
        facts
        for path in install_dirs.list_folders(file.name, environment)
        if (facts := install_dirs.read_marker(path))
    ]
    if noted:
        return {
            **noted[0]["hello"],
            "seconds": noted[0]["seconds"],
            "bytes": noted[0]["bytes"],
        }
    hello = lookup.load_kind(file).host(environment).hello()
    return {
        **{key: hello[key] for key in ("python", "machine", "system", "versions")},
        "seconds": round(took, 1),
        "bytes": 0,
    }


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@output.as_json_option
def check(names: tuple[str, ...], *, as_json: bool) -> None:
    """Start each environment of hosts and run tiny real files there.

    Ends with 1 where one does not answer or gives other numbers.
    """
    rows = []
    with show_progress() as told:
        for name in dict.fromkeys(names):
            file, only = lookup.find_host(name), lookup.split_name(name)[1]
            if only is not None and only not in file.environments:
                lookup.open_host(name)  # tells which environments there are
            for environment in file.environments if only is None else (only,):
                told.start(f"{file.name}/{environment}")
                rows.append(_checked(file, environment, name))
                told.finish()
    if as_json:
        output.show_json(rows)
    else:
        output.show(*_drawn(rows))
    click.get_current_context().exit(0 if all(row["good"] for row in rows) else 1)


def _checked(file: HostFile, environment: str, asked: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "host": file.name,
        "environment": environment,
        "good": False,
        "error": "",
        "fix": "",
        "files": [],
    }
    problem = _problem(file, environment, asked)
    if problem is not None:
        return {**row, "error": problem["what"], "fix": problem["fix"]}
    host = lookup.load_kind(file).host(environment)
    try:
        row |= _describe(host)
    except EdgekitError as error:
        return {**row, "error": error.message, "fix": error.fix or ""}
    trials = [
        selftest.run_file(host, name) for name in selftest.list_files(row["versions"])
    ]
    if not trials:
        fix = f"install one of {', '.join(PACKAGES)} for that Python"
        return {
            **row,
            "error": "Python answers, and there is no runtime that could run a file.",
            "fix": fix,
        }
    files = [{**dataclasses.asdict(done), "good": done.passed} for done in trials]
    return {
        **row,
        "good": all(done.passed for done in trials),
        "untimed": host.untimed,
        "files": files,
    }


def _describe(host: Host) -> dict[str, Any]:
    """What a host reports about itself, the time to start its worker, and the time of one
    reply.
    """
    hello, start_s, reply_s = host.time_hello()
    return {
        **{key: hello[key] for key in ("python", "machine", "system", "versions")},
        "start_ms": round(1000 * start_s, 1),
        "answer_ms": round(1000 * reply_s, 2),
    }


def _drawn(rows: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    for row in rows:
        head = Text.assemble(
            (f"{row['host']}/{row['environment']}", "bold"),
            "  ",
            ("ok" if row["good"] else "not ok", "green" if row["good"] else "red"),
        )
        drawn += [*([Text()] if drawn else []), head]
        if row["error"]:
            drawn.append(
                Text(f"  {row['error']}" + (f"\n  Fix: {row['fix']}" if row["fix"] else ""))
            )
            continue
        packages = (
            ", ".join(f"{name} {version}" for name, version in row["versions"].items())
            or "no runtime"
        )
        drawn.append(
            Text(
                f"  Python {row['python']} on {row['machine']} {row['system']}: {packages}"
            )
        )
        note = f" ({row['untimed']})" if row["untimed"] else ""
        drawn.append(
            Text(
                f"  starts in {row['start_ms']:.0f} ms, answers in {row['answer_ms']:.2g} ms{note}"
            )
        )
        drawn.append(_files(row["files"]))
    return drawn


def _files(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid("  file", "right", "differs by", "allowed", "seconds", "")
    for row in rows:
        if row["error"]:
            drawn.add_row(f"  {row['file']}", "", "", "", "", Text(row["error"], "red"))
        else:
            told = Text(
                "ok" if row["good"] else "other numbers than where it was made",
                "green" if row["good"] else "red",
            )
            numbers = (
                f"{row['right']} of {row['samples']}",
                f"{row['difference']:.3g}",
                f"{row['allowed']:.3g}",
                f"{row['seconds']:.1f}",
            )
            drawn.add_row(f"  {row['file']}", *numbers, told)
    return drawn


@click.command()
@click.argument("name")
@output.as_json_option
def clean(name: str, *, as_json: bool) -> None:
    """Remove what 'setup' made for a host, and on a device the model files that were copied
    there.
    """
    file = lookup.find_host(name)
    folders = count = removed = 0
    if file.kind in ("venv", "qemu"):
        from edgekit.hosts.setup_steps import setup_session

        with show_progress() as told, setup_session(file.name, told):
            folders, removed = install_dirs.remove_host(file.name)
    else:
        count, removed = lookup.open_host(name).clean()
    if as_json:
        output.show_json(
            {"host": file.name, "folders": folders, "files": count, "bytes": removed}
        )
    else:
        what = f"{folders} folders" if folders else f"{count} files"
        output.write(
            f"{file.name}: removed {what}, {size(removed)}"
            if removed
            else f"{file.name}: there was nothing to remove"
        )


#: The commands below ``edgekit hosts``, beside the list and ``show``.
for command in (setup, check, record, clean):
    hosts.add_command(command)
