"""The kind ``qemu``: a Python for 64-bit ARM under emulation, with the runtimes' own ARM
builds. It proves numbers, never times.

Everything lies in edgekit's folder: Debian's Python and libraries for arm64, one program of
qemu, and folders of packages.
"""

import dataclasses
import pathlib
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping

from edgekit.errors import HostError
from edgekit.host import Environment, HostFile
from edgekit.hosts import debian, packages
from edgekit.hosts import install_dirs as places
from edgekit.hosts import selftest as trial
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.hosts.setup_steps import Workshop, workshop
from edgekit.hosts.venv import SITE, not_ready
from edgekit.progress import Progress

#: The Python of each release of Debian.
SUITES: Mapping[str, str] = {"3.11": "bookworm", "3.13": "trixie"}
DEFAULT_VERSION = "3.11"
#: What a wheel needs beside Python; base-files has the links from /lib to /usr/lib that
#: newer releases count on.
LIBRARIES = ("python3", "libstdc++6", "libgomp1", "libatomic1", "base-files")
#: The release whose qemu is taken, and the oldest that is used: 7.2 crashes in onnxruntime
#: and XNNPACK, 8 and 9 were not tried.
QEMU_SUITE, OLDEST_QEMU = "trixie", 10
#: The processor where a host names none: SVE of ``max`` is emulated ten times slower.
CPU = "cortex-a72"
UNTIMED = "emulated, correctness only"
_USERLAND, _PROGRAM = "_userland", "qemu-aarch64"
#: What Debian calls processors.
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclasses.dataclass(frozen=True)
class Qemu:
    """An emulated ARM machine that edgekit makes."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether the userland and the environment were made, and qemu is still there."""
        wanted, base = self.file.environments[environment], None
        if not wanted.python:
            base = not_ready(self.file, _USERLAND, _userland(self.file, wanted))
        return base or not_ready(self.file, environment, self._folder(environment))

    def setup(self, progress: Progress) -> None:
        """Unpack Debian's Python for ARM, find or fetch qemu, and install each
        environment's packages.
        """
        with workshop(self.file.name, progress) as work:
            for name, wanted in self.file.environments.items():
                userland = _userland(self.file, wanted)
                if (
                    not wanted.python
                    and not_ready(self.file, _USERLAND, userland) is not None
                ):
                    _make_userland(work, userland, _suite(wanted))
                if self.problem(name) is None:
                    progress.say(f"{self.file.name}: {name} is ready")
                else:
                    with work.stage(name):
                        self._fill(work, name)
            places.retire(
                self.file.name,
                _USERLAND,
                *(
                    _userland(self.file, wanted)
                    for wanted in self.file.environments.values()
                    if not wanted.python
                ),
            )

    def host(self, environment: str) -> WorkerHost:
        """The emulated machine with the environment's packages."""
        return self._host(environment, self._folder(environment))

    def _fill(self, work: Workshop, name: str) -> None:
        wanted, folder, began = (
            self.file.environments[name],
            self._folder(name),
            time.monotonic(),
        )
        with places.filling(folder) as partial:
            packages.install_aarch64(
                work, wanted.packages, partial / SITE, wanted.version or DEFAULT_VERSION
            )
            facts = trial.proven(self._host(name, partial), wanted.packages)
            places.note(
                partial,
                {
                    "seconds": round(time.monotonic() - began, 1),
                    "installed": packages.listed(partial / SITE),
                    **facts,
                },
            )
        places.retire(self.file.name, name, folder)

    def _host(self, name: str, folder: pathlib.Path) -> WorkerHost:
        wanted = self.file.environments[name]
        command = wanted.python or _python(
            _userland(self.file, wanted), wanted, self.file.cpu or CPU
        )
        # The same folders are seen over there: what is not in the userland is the machine's
        # own.
        start = Start((*command, "-S"), paths=(str(folder / SITE),))
        return WorkerHost(
            self.file.name,
            start,
            self.file.threads,
            self.file.timeout_s,
            untimed=self.file.untimed or UNTIMED,
        )

    def _folder(self, name: str) -> pathlib.Path:
        wanted = self.file.environments[name]
        return places.place(
            self.file.name,
            name,
            {
                "packages": wanted.packages,
                "python": wanted.python,
                "version": wanted.version or DEFAULT_VERSION,
            },
        )


def qemu_on_path() -> str | None:
    """The machine's own ``qemu-aarch64``, where it is new enough."""
    path = shutil.which(_PROGRAM)
    try:
        return path if path and _version(path) >= OLDEST_QEMU else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _version(program: str) -> int:
    done = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found = re.search(r"version (\d+)", done.stdout)
    if found is None:
        raise ValueError(f"{program} tells no version")
    return int(found.group(1))


def _suite(wanted: Environment) -> str:
    version = wanted.version or DEFAULT_VERSION
    if version not in SUITES:
        raise HostError(
            f"No release of Debian has Python {version} for this host; there are {', '.join(SUITES)}.",
            fix="change 'version' in the host's file",
        )
    return SUITES[version]


def _userland(file: HostFile, wanted: Environment) -> pathlib.Path:
    return places.place(
        file.name,
        _USERLAND,
        {
            "version": wanted.version or DEFAULT_VERSION,
            "libraries": LIBRARIES,
            "qemu": OLDEST_QEMU,
        },
    )


def _python(userland: pathlib.Path, wanted: Environment, cpu: str) -> tuple[str, ...]:
    """The words that start Python there: it finds its own library beside itself, in the
    userland.
    """
    root, noted = userland / "root", places.told(userland) or {}
    return (
        str(noted["qemu"]),
        "-cpu",
        cpu,
        "-L",
        str(root),
        str(root / "usr" / "bin" / f"python{wanted.version or DEFAULT_VERSION}"),
    )


def _make_userland(work: Workshop, folder: pathlib.Path, suite: str) -> None:
    began = time.monotonic()
    with places.filling(folder) as partial:
        with work.stage(f"Debian {suite} for arm64"):
            archives = debian.Debian(work, suite, "arm64", partial / "apt").fetch(
                *LIBRARIES
            )
            debian.unpack(work, archives, partial / "root")
        qemu = qemu_on_path()
        if qemu is None:
            with work.stage("qemu"):
                own = debian.Debian(
                    work,
                    QEMU_SUITE,
                    _ARCHITECTURES.get(platform.machine(), platform.machine()),
                    partial / "apt-qemu",
                )
                (archive,) = own.fetch("qemu-user", needs=False)
                debian.take(work, archive, f"usr/bin/{_PROGRAM}", partial / _PROGRAM)
                qemu = str(folder / _PROGRAM)
        for rest in ("apt", "apt-qemu"):
            shutil.rmtree(partial / rest, ignore_errors=True)
        places.note(
            partial,
            {"qemu": qemu, "suite": suite, "seconds": round(time.monotonic() - began, 1)},
        )
