"""Pinned packages in a folder of their own, and the Python of a version that runs them.

``pip install --target`` and not a virtual environment: a folder of packages can be moved,
so it is filled under another name and renamed when it is whole; it works for a foreign
processor; and it needs neither ``venv`` nor pip in the other Python. The Python runs with
``-I -S``: it sees its own standard library and this folder, nothing else that is installed
on the machine.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from edgekit import registry
from edgekit.errors import HostError
from edgekit.hosts.setup_steps import Failed, Workshop

#: What pip says where it could not reach its index.
_OFFLINE = re.compile(
    r"connection broken by|Failed to establish a new connection|Could not fetch URL|Name or service not known|timed out|ProxyError",
    re.IGNORECASE,
)
_ABSENT = re.compile(
    r"(?:No matching distribution found for|satisfies the requirement) (\S+)"
)
_CONFLICT = re.compile(r"ResolutionImpossible|conflicting dependencies")
#: The words of the user's own settings that would fight with ``--target``; all others
#: (index, proxy, certificates) hold.
_ENVIRON = {
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
#: The oldest and the newest glibc that a wheel may ask of Debian 12: manylinux_2_17 to
#: manylinux_2_36.
_GLIBC = range(17, 37)


def here() -> str:
    """The version of this Python, as ``3.11``."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def interpreter(version: str) -> str:
    """The path of a Python of this version: this one, or ``python3.11`` on the PATH."""
    if version in ("", here()):
        return str(
            getattr(sys, "_base_executable", "") or sys.executable
        )  # not a virtual environment that may be removed
    for path in _candidates(version):
        try:
            words = [
                path,
                "-I",
                "-c",
                "import sys; print(sys._base_executable, *sys.version_info[:2])",
            ]
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
                stdin=subprocess.DEVNULL,
            )
            found, major, minor = done.stdout.rsplit(maxsplit=2)
        except (OSError, ValueError, subprocess.SubprocessError):
            # pyenv has such a name on the PATH for each version, and only some of them work
            continue
        if f"{major}.{minor}" == version:
            return found
    raise no_python(version)


def may_have(version: str) -> bool:
    """Whether there may be a Python of this version; nothing is started."""
    return version in ("", here()) or bool(_candidates(version))


def no_python(version: str) -> HostError:
    """The error for a Python that is not there."""
    fix = f"install Python {version} so that python{version} is on the PATH (apt-get install python{version}, pyenv install {version}), then set the host up"
    return HostError(
        f"There is no Python {version} on this machine, and the packages of this host are made for it; edgekit runs in {here()}.",
        fix=fix,
    )


def install(
    work: Workshop, packages: Sequence[str], folder: pathlib.Path, python: str
) -> None:
    """Fill a folder with packages for a Python of this machine."""
    _pip(work, ["--python", python, "install", "--target", str(folder)], packages)


def install_aarch64(
    work: Workshop, packages: Sequence[str], folder: pathlib.Path, version: str
) -> None:
    """Fill a folder with packages for Linux on 64-bit ARM, which this machine need not be."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in _GLIBC] + [
        "manylinux2014_aarch64"
    ]
    chosen = [word for platform in platforms for word in ("--platform", platform)]
    # This Python would compile for itself; the emulated one compiles what it reads.
    _pip(
        work,
        [
            "install",
            "--target",
            str(folder),
            *chosen,
            "--python-version",
            version,
            "--implementation",
            "cp",
            "--no-compile",
        ],
        packages,
    )


def listed(folder: pathlib.Path) -> list[str]:
    """Every package in such a folder with its version, also those that came along."""
    return sorted(
        path.name.removesuffix(".dist-info").replace("-", "==", 1)
        for path in folder.glob("*.dist-info")
    )


def _candidates(version: str) -> list[str]:
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    return [
        found
        for folder in dict.fromkeys(folders)
        if (found := shutil.which(f"python{version}", path=folder))
    ]


def _pip(work: Workshop, words: Sequence[str], packages: Sequence[str]) -> None:
    """Run this Python's pip with the user's own index; only wheels, so that no code of a
    package runs.
    """
    if not registry.installed("pip"):
        raise HostError(
            f"edgekit's own Python ({sys.executable}) has no pip.",
            fix=f"{sys.executable} -m ensurepip",
        )

    def seen(line: str) -> None:
        verb, _, rest = line.strip().partition(" ")
        if verb in ("Collecting", "Downloading", "Installing"):
            work.progress.advance(0, f"{verb.lower()} {rest.split('/')[-1][:40]}")

    # -S would hide pip; -I keeps a file called pip.py in the user's folder out.
    command = [
        sys.executable,
        "-I",
        "-m",
        "pip",
        *words,
        "--only-binary=:all:",
        "--no-input",
        "--progress-bar=off",
        *packages,
    ]
    try:
        work.run(command, _ENVIRON, seen)
    except Failed as failed:
        raise _translated(failed, packages) from failed


def _translated(failed: Failed, packages: Sequence[str]) -> HostError:
    absent = _ABSENT.search(failed.text)
    if _OFFLINE.search(failed.text):
        return HostError(
            f"pip cannot reach its package index:\n{failed.tail()}",
            fix="check the network and 'pip config list', then run the same command again",
        )
    if absent:
        what = absent.group(1).rstrip(".,;")
        fix = "take a version that 'pip index versions' lists with a wheel for that Python, and write it into the host's file"
        return HostError(
            f"pip finds no wheel of {what} for this host:\n{failed.tail()}", fix=fix
        )
    if _CONFLICT.search(failed.text):
        return HostError(
            f"The packages {', '.join(packages)} exclude each other:\n{failed.tail()}",
            fix="change the versions in the host's file",
        )
    return HostError(f"pip failed:\n{failed.tail()}", fix="see pip's words above")
