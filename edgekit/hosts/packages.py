"""Installs pinned packages into a folder, and finds a Python of the version that runs them.

``pip install --target`` instead of a virtual environment: a folder of packages can be moved,
so it is filled under another name and renamed when it is complete; it works for a foreign
processor; and the other Python needs neither ``venv`` nor pip. The Python runs with
``-I -S``: it uses its own standard library and this folder, and nothing else that is
installed on the machine.
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
from edgekit.hosts.setup_steps import HostSetup, ProgramFailed

#: What pip prints if it cannot reach its index.
_OFFLINE = re.compile(
    r"connection broken by|Failed to establish a new connection|Could not fetch URL"
    r"|Name or service not known|timed out|ProxyError",
    re.IGNORECASE,
)
_NOT_FOUND = re.compile(
    r"(?:No matching distribution found for|satisfies the requirement) (\S+)"
)
_CONFLICT = re.compile(r"ResolutionImpossible|conflicting dependencies")
#: Overrides those of the user's settings that conflict with ``--target``; all others (index,
#: proxy, certificates) apply.
_ENVIRON = {
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
#: The oldest and the newest glibc that a wheel for Debian 12 may require: manylinux_2_17 to
#: manylinux_2_36.
_GLIBC_MINORS = range(17, 37)
_PRINT_VERSION = (
    "import sys; print(sys._base_executable, *sys.version_info[:2])"
)


def running_version() -> str:
    """The version of this Python, such as ``3.11``."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def find_interpreter(version: str) -> str:
    """The path of a Python of this version: this one, or ``python3.11`` on the PATH.

    Empty means the version of this Python. Raises HostError.
    """
    if version in ("", running_version()):
        # The base: a virtual environment may be removed.
        return str(getattr(sys, "_base_executable", "") or sys.executable)
    for path in _find_candidates(version):
        base = _base_executable(path, version)
        if base is not None:
            return base
    raise missing_python_error(version)


def _base_executable(path: str, version: str) -> str | None:
    """The Python that a candidate runs, or None if it does not work.

    pyenv puts such a name on the PATH for each version, and only some of them work.
    """
    try:
        process = subprocess.run(
            [path, "-I", "-c", _PRINT_VERSION],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        executable, major, minor = process.stdout.rsplit(maxsplit=2)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return executable if f"{major}.{minor}" == version else None


def may_exist(version: str) -> bool:
    """Whether there may be a Python of this version; nothing is started."""
    return version in ("", running_version()) or bool(_find_candidates(version))


def missing_python_error(version: str) -> HostError:
    """The error for a Python that is not installed."""
    return HostError(
        f"Python {version} is not installed on this machine, but the packages of this host"
        f" require it; edgekit runs in {running_version()}.",
        fix=f"install Python {version} so that python{version} is on the PATH (apt-get"
        f" install python{version}, pyenv install {version}), then set the host up",
    )


def install(
    session: HostSetup,
    packages: Sequence[str],
    folder: pathlib.Path,
    python: str,
) -> None:
    """Install packages for a Python of this machine into a folder."""
    _run_pip(
        session,
        ["--python", python, "install", "--target", str(folder)],
        packages,
    )


def install_aarch64(
    session: HostSetup,
    packages: Sequence[str],
    folder: pathlib.Path,
    version: str,
) -> None:
    """Install packages for Linux on 64-bit ARM, on a machine of any processor."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in _GLIBC_MINORS]
    platforms.append("manylinux2014_aarch64")
    arguments = ["install", "--target", str(folder)]
    for platform in platforms:
        arguments += ["--platform", platform]
    arguments += ["--python-version", version, "--implementation", "cp"]
    # This Python would compile for itself; the emulated one compiles what it reads.
    arguments.append("--no-compile")
    _run_pip(session, arguments, packages)


def list_installed(folder: pathlib.Path) -> list[str]:
    """Every package in such a folder as ``name==version``, dependencies included."""
    return sorted(
        path.name.removesuffix(".dist-info").replace("-", "==", 1)
        for path in folder.glob("*.dist-info")
    )


def _find_candidates(version: str) -> list[str]:
    candidates = []
    for folder in dict.fromkeys(os.environ.get("PATH", "").split(os.pathsep)):
        if folder:
            path = shutil.which(f"python{version}", path=folder)
            if path:
                candidates.append(path)
    return candidates


def _run_pip(
    session: HostSetup, arguments: Sequence[str], packages: Sequence[str]
) -> None:
    """Run this Python's pip with the user's own index.

    Only wheels, so that no code of a package is executed.
    """
    if not registry.installed("pip"):
        raise HostError(
            f"edgekit's own Python ({sys.executable}) has no pip.",
            fix=f"{sys.executable} -m ensurepip",
        )

    def show(line: str) -> None:
        verb, _, rest = line.strip().partition(" ")
        if verb in ("Collecting", "Downloading", "Installing"):
            name = rest.split("/")[-1][:40]
            session.progress.advance(0, f"{verb.lower()} {name}")

    # -S would hide pip; -I ignores a file called pip.py in the user's folder.
    command = [sys.executable, "-I", "-m", "pip", *arguments]
    command += [
        "--only-binary=:all:",
        "--no-input",
        "--progress-bar=off",
        *packages,
    ]
    try:
        session.run(command, _ENVIRON, show)
    except ProgramFailed as error:
        raise _explain(error, packages) from error


def _explain(error: ProgramFailed, packages: Sequence[str]) -> HostError:
    if _OFFLINE.search(error.text):
        return HostError(
            f"pip cannot reach its package index:\n{error.tail()}",
            fix="check the network and 'pip config list', then run the same command again",
        )
    not_found = _NOT_FOUND.search(error.text)
    if not_found is not None:
        package = not_found.group(1).rstrip(".,;")
        return HostError(
            f"pip found no wheel of {package} for this host:\n{error.tail()}",
            fix="choose a version that 'pip index versions' lists with a wheel for that"
            " Python, and write it into the host's file",
        )
    if _CONFLICT.search(error.text):
        return HostError(
            f"The packages {', '.join(packages)} conflict:\n{error.tail()}",
            fix="change the versions in the host's file",
        )
    return HostError(
        f"pip failed:\n{error.tail()}", fix="see pip's output above"
    )
