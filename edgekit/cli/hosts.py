"""``edgekit hosts``: list, set up, check and clean the hosts that run files."""

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
from edgekit.cli.listing import Listing, build_group
from edgekit.cli.record import record
from edgekit.contracts import Host
from edgekit.errors import EdgekitError
from edgekit.host import HostFile
from edgekit.hosts import install_dirs, lookup, selftest
from edgekit.hosts.execution import PACKAGES
from edgekit.rendering.formatting import size
from edgekit.rendering.progress import show_progress


def _find(name: str) -> dict[str, Any]:
    file = lookup.find_host(name)
    folder = install_dirs.root() / file.name
    problems = []
    for environment in file.environments:
        problem = _problem(file, environment, name)
        if problem is not None:
            problems.append(problem)
    path = ""
    if name.partition(":")[0] not in lookup.SHORT_KINDS:
        path = str(catalog.find("hosts", name))
    return {
        **file.model_dump(mode="json"),
        "file": path,
        "made_in": str(folder) if folder.is_dir() else "",
        "ready": not problems,
        "problems": problems,
    }


def _row(name: str) -> dict[str, Any]:
    """One row of the list; an invalid host file does not hide the others."""
    try:
        return _find(name)
    except EdgekitError as error:
        problem = {
            "environment": "",
            "what": error.message,
            "fix": error.fix or "",
        }
        return {
            "name": name,
            "kind": "",
            "title": "",
            "file": str(catalog.find("hosts", name)),
            "ready": False,
            "problems": [problem],
        }


def _problem(
    file: HostFile, environment: str, requested: str
) -> dict[str, str] | None:
    problem = lookup.find_environment_problem(file, environment, requested)
    if problem is None:
        return None
    return {"environment": environment, "what": problem[0], "fix": problem[1]}


def needs(row: Mapping[str, Any]) -> str:
    """Return what must be done before a host can be used; empty if it is ready."""
    fixes = [problem["fix"] or problem["what"] for problem in row["problems"]]
    return "; ".join(dict.fromkeys(fixes))


def examine() -> list[dict[str, Any]]:
    """Return all hosts with a name, as JSON values."""
    return [_row(name) for name in catalog.names("hosts")]


hosts = build_group(
    Listing(
        word="hosts",
        about="List the hosts that run files. A host of your own is a YAML file in "
        "edgekit/hosts of your configuration folder, or a path.",
        names=lambda: catalog.names("hosts"),
        find=_find,
        row=_row,
        columns={
            "name": lambda row: str(row["name"]),
            "kind": lambda row: str(row["kind"]),
            "ready": lambda row: "yes" if row["ready"] else f"no: {needs(row)}",
            "title": lambda row: str(row["title"]),
        },
        below="edgekit hosts setup NAME installs what a host requires, check NAME runs real "
        "files there. No host file needed: ssh:ADDRESS, adb:SERIAL.",
    )
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@output.as_json_option
def setup(names: tuple[str, ...], *, as_json: bool) -> None:
    """Install what hosts require: packages and an emulated machine, in edgekit's own folder.
    Hosts that are ready are not changed.
    """
    files = [lookup.find_host(name) for name in dict.fromkeys(names)]
    rows = []
    with show_progress() as progress:
        for file in files:
            start = time.monotonic()
            lookup.load_kind(file).setup(progress)
            seconds = time.monotonic() - start
            for environment in file.environments:
                contents = _contents(file, environment, seconds)
                rows.append(
                    {"host": file.name, "environment": environment, **contents}
                )
    if as_json:
        output.show_json(rows)
        return
    drawn = output.grid(
        "host",
        "environment",
        "python",
        "machine",
        "packages",
        "set up in",
        "size",
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


def _contents(
    file: HostFile, environment: str, seconds: float
) -> dict[str, Any]:
    """What an environment contains: as recorded by its setup, or as a device reports it."""
    for path in install_dirs.list_folders(file.name, environment):
        marker = install_dirs.read_marker(path)
        if marker:
            return {
                **marker["hello"],
                "seconds": marker["seconds"],
                "bytes": marker["bytes"],
            }
    hello = lookup.load_kind(file).host(environment).hello()
    return {**_identity(hello), "seconds": round(seconds, 1), "bytes": 0}


def _identity(hello: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: hello[key] for key in ("python", "machine", "system", "versions")
    }


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@output.as_json_option
def check(names: tuple[str, ...], *, as_json: bool) -> None:
    """Start each environment of hosts and run tiny real files there.

    Exit code 1 if one does not respond or computes other numbers.
    """
    rows = []
    with show_progress() as progress:
        for name in dict.fromkeys(names):
            file = lookup.find_host(name)
            environments = tuple(file.environments)
            only = lookup.split_name(name)[1]
            if only is not None:
                if only not in file.environments:
                    lookup.open_host(
                        name
                    )  # raises an error that lists the environments
                environments = (only,)
            for environment in environments:
                progress.start(f"{file.name}/{environment}")
                rows.append(_check(file, environment, name))
                progress.finish()
    if as_json:
        output.show_json(rows)
    else:
        output.show(*_drawn(rows))
    click.get_current_context().exit(
        0 if all(row["good"] for row in rows) else 1
    )


def _check(file: HostFile, environment: str, requested: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "host": file.name,
        "environment": environment,
        "good": False,
        "error": "",
        "fix": "",
        "files": [],
    }
    problem = _problem(file, environment, requested)
    if problem is not None:
        return {**row, "error": problem["what"], "fix": problem["fix"]}
    host = lookup.load_kind(file).host(environment)
    try:
        row |= _describe(host)
    except EdgekitError as error:
        return {**row, "error": error.message, "fix": error.fix or ""}
    trials = [
        selftest.run_file(host, name)
        for name in selftest.list_files(row["versions"])
    ]
    if not trials:
        reason = "Python starts, but has no runtime that can run a file."
        fix = f"install one of {', '.join(PACKAGES)} for that Python"
        return {**row, "error": reason, "fix": fix}
    files = [
        {**dataclasses.asdict(done), "good": done.passed} for done in trials
    ]
    return {
        **row,
        "good": all(done.passed for done in trials),
        "untimed": host.untimed,
        "files": files,
    }


def _describe(host: Host) -> dict[str, Any]:
    """What a host reports about itself, and the times to start its worker and to respond."""
    hello, start_s, reply_s = host.time_hello()
    return {
        **_identity(hello),
        "start_ms": round(1000 * start_s, 1),
        "answer_ms": round(1000 * reply_s, 2),
    }


def _drawn(rows: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    drawn: list[RenderableType] = []
    for row in rows:
        if drawn:
            drawn.append(Text())
        status = _passed("ok", "not ok", passed=row["good"])
        title = (f"{row['host']}/{row['environment']}", "bold")
        drawn.append(Text.assemble(title, "  ", status))
        if row["error"]:
            fix = f"\n  Fix: {row['fix']}" if row["fix"] else ""
            drawn.append(Text(f"  {row['error']}{fix}"))
            continue
        drawn += [*_environment(row), _files(row["files"])]
    return drawn


def _environment(row: Mapping[str, Any]) -> list[RenderableType]:
    """Two lines: what an environment contains, and how quickly it responds."""
    packages = [
        f"{name} {version}" for name, version in row["versions"].items()
    ]
    where = f"Python {row['python']} on {row['machine']} {row['system']}"
    note = f" ({row['untimed']})" if row["untimed"] else ""
    times = f"starts in {row['start_ms']:.0f} ms, responds in {row['answer_ms']:.2g} ms"
    return [
        Text(f"  {where}: {', '.join(packages) or 'no runtime'}"),
        Text(f"  {times}{note}"),
    ]


def _files(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = output.grid(
        "  file", "correct", "differs by", "allowed", "seconds", ""
    )
    for row in rows:
        name = f"  {row['file']}"
        if row["error"]:
            drawn.add_row(name, "", "", "", "", Text(row["error"], "red"))
            continue
        drawn.add_row(
            name,
            f"{row['right']} of {row['samples']}",
            f"{row['difference']:.3g}",
            f"{row['allowed']:.3g}",
            f"{row['seconds']:.1f}",
            _passed(
                "ok", "differs from the recorded outputs", passed=row["good"]
            ),
        )
    return drawn


def _passed(good: str, bad: str, *, passed: bool) -> Text:
    return Text(good, "green") if passed else Text(bad, "red")


@click.command()
@click.argument("name")
@output.as_json_option
def clean(name: str, *, as_json: bool) -> None:
    """Remove what 'setup' installed for a host, and the model files copied to a device."""
    file = lookup.find_host(name)
    folders = count = removed = 0
    if file.kind in ("venv", "qemu"):
        from edgekit.hosts.setup_steps import host_setup

        with show_progress() as progress, host_setup(file.name, progress):
            folders, removed = install_dirs.remove_host(file.name)
    else:
        count, removed = lookup.open_host(name).clean()
    if as_json:
        output.show_json(
            {
                "host": file.name,
                "folders": folders,
                "files": count,
                "bytes": removed,
            }
        )
    else:
        what = f"{folders} folders" if folders else f"{count} files"
        message = (
            f"removed {what}, {size(removed)}"
            if removed
            else "nothing to remove"
        )
        output.write(f"{file.name}: {message}")


#: The commands of ``edgekit hosts``, in addition to the list and ``show``.
for command in (setup, check, record, clean):
    hosts.add_command(command)
