"""The versions that `make` and CI install: write them, find them, compare them with what is there.

    python scripts/constraints.py update     # resolve edgekit[all,dev,docs] for each Python version
    python scripts/constraints.py path       # the file for this Python
    python scripts/constraints.py newer      # installed packages that differ from it

A constraints file installs nothing: pip reads from it which version of a package to choose.
``path`` and ``newer`` need only the standard library.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "constraints"
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = "all,dev,docs"
#: Not pinned: edgekit itself, what a virtual environment starts with, and what only the CUDA build
#: of torch requires, in versions that torch itself pins.
UNPINNED = re.compile(r"edgekit|pip|setuptools|wheel|triton|nvidia-.*|cuda-.*")
HEADER = """\
# The versions that `make` and CI install on Python {version}.
# Written by `make constraints` from edgekit[{extras}]; do not edit.
"""


def normalized(name: str) -> str:
    """The name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def path_for(version: str) -> pathlib.Path:
    """The constraints file of a Python version such as ``3.12``."""
    return FOLDER / f"py{version.replace('.', '')}.txt"


def this_python() -> str:
    """The version of the running Python, as ``3.12``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def read(path: pathlib.Path) -> dict[str, str]:
    """Name -> version of each line of a constraints file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pinned = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[name] = version
    return pinned


def pins(report: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version of what ``pip install --report`` lists, without local versions."""
    chosen = {}
    for row in report["install"]:
        name = normalized(row["metadata"]["name"])
        if not UNPINNED.fullmatch(name):
            chosen[name] = row["metadata"]["version"].partition("+")[0]
    return dict(sorted(chosen.items()))


def text(version: str, chosen: Mapping[str, str]) -> str:
    """The content of a constraints file."""
    lines = [f"{name}=={pin}\n" for name, pin in chosen.items()]
    return HEADER.format(version=version, extras=EXTRAS) + "".join(lines)


def find_python(version: str) -> str:
    """A working interpreter of this version: the running one, on the PATH, or in pyenv."""
    pyenv = pathlib.Path(
        os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")
    )
    installed = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    candidates = [
        sys.executable,
        *map(str, reversed(installed)),
        f"python{version}",
    ]
    for candidate in candidates:
        if _version_of(candidate) == version:
            return candidate
    raise SystemExit(
        f"There is no Python {version}. Fix: pyenv install {version}"
    )


def _version_of(interpreter: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [interpreter, "-I", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def resolve(version: str) -> dict[str, str]:
    """The newest versions that fit together; pip reads metadata only and installs nothing."""
    with tempfile.TemporaryDirectory(prefix="edgekit-constraints-") as folder:
        environment = pathlib.Path(folder) / "venv"
        report = pathlib.Path(folder) / "report.json"
        python = str(environment / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet"]
        resolving = ["--dry-run", "--ignore-installed", "--report", str(report)]
        for command in (
            [find_python(version), "-m", "venv", str(environment)],
            # An older pip downloads every package to read what it requires.
            [*pip, "--upgrade", "pip"],
            [*pip, *resolving, f"{ROOT}[{EXTRAS}]"],
        ):
            subprocess.run(command, check=True)
        return pins(json.loads(report.read_text(encoding="utf-8")))


def update(versions: Iterable[str]) -> None:
    """Write the file of each version."""
    FOLDER.mkdir(exist_ok=True)
    for version in versions:
        print(
            f"resolving edgekit[{EXTRAS}] for Python {version} (about a minute)",
            flush=True,
        )
        chosen = resolve(version)
        path_for(version).write_text(text(version, chosen), encoding="utf-8")
        print(f"{path_for(version).relative_to(ROOT)}: {len(chosen)} packages")


def installed_version(name: str) -> str:
    """The installed version without its local part; empty if the package is not installed."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def different(
    chosen: Mapping[str, str],
    installed: Callable[[str], str] = installed_version,
) -> list[tuple[str, str, str]]:
    """Name, constrained version and installed version of the packages in which they differ."""
    rows = [(name, pin, installed(name)) for name, pin in chosen.items()]
    return [row for row in rows if row[2] and row[2] != row[1]]


def print_rows(rows: Sequence[tuple[str, str, str]]) -> None:
    """The packages in which an environment differs; after a failed test, one may have broken it."""
    if not rows:
        print(
            "No installed package differs from the constraints: the failure is edgekit's own."
        )
        return
    print(f"{len(rows)} installed packages differ from the constraints:")
    for name, pin, installed in rows:
        print(f"  {name:30} constrained {pin:18} installed {installed}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        description="The versions that make and CI install."
    )
    parser.add_argument("command", choices=("update", "path", "newer"))
    parser.add_argument(
        "versions", nargs="*", help="for update; all if none is named"
    )
    options = parser.parse_args(arguments)
    if options.command == "update":
        update(options.versions or VERSIONS)
    elif options.command == "path":
        print(path_for(this_python()))
    else:
        print_rows(different(read(path_for(this_python()))))


if __name__ == "__main__":
    main()
