"""The kind ``qemu``: an emulated Python for 64-bit ARM, with the runtimes' own ARM builds.

It verifies numbers, never times. Everything is in edgekit's folder: Debian's Python and
libraries for arm64, one program of qemu, and folders of packages.
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
from edgekit.hosts import debian, install_dirs, packages, selftest
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.hosts.setup_steps import HostSetup, host_setup
from edgekit.hosts.venv import SITE, find_problem
from edgekit.progress import Progress

#: The release of Debian with each Python.
SUITES: Mapping[str, str] = {"3.11": "bookworm", "3.13": "trixie"}
DEFAULT_VERSION = "3.11"
#: What wheels need in addition to Python; base-files contains the links from /lib to
#: /usr/lib that newer releases rely on.
LIBRARIES = ("python3", "libstdc++6", "libgomp1", "libatomic1", "base-files")
#: The release whose qemu is installed.
QEMU_SUITE = "trixie"
#: The oldest qemu that is used: 7.2 crashes in onnxruntime and XNNPACK; 8 and 9 were not
#: tried.
OLDEST_QEMU = 10
#: The default processor. ``max`` has SVE, which is emulated ten times slower.
CPU = "cortex-a72"
UNTIMED = "emulated, correctness only"
_USERLAND = "_userland"
_PROGRAM = "qemu-aarch64"
#: Debian's names of processors.
_ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclasses.dataclass(frozen=True)
class Qemu:
    """An emulated ARM machine that edgekit installs."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether the userland and the environment are installed, and qemu still exists."""
        settings = self.file.environments[environment]
        if not settings.python:
            userland = _userland_folder(self.file, settings)
            problem = find_problem(self.file, _USERLAND, userland)
            if problem is not None:
                return problem
        return find_problem(self.file, environment, self._folder(environment))

    def setup(self, progress: Progress) -> None:
        """Unpack Debian's Python for ARM, find or download qemu, and install each
        environment's packages.
        """
        with host_setup(self.file.name, progress) as session:
            userlands = []
            for name, settings in self.file.environments.items():
                if not settings.python:
                    userlands.append(self._ensure_userland(session, settings))
                if self.problem(name) is None:
                    progress.say(f"{self.file.name}: {name} is ready")
                    continue
                with session.stage(name):
                    self._install(session, name)
            install_dirs.remove_outdated(self.file.name, _USERLAND, *userlands)

    def host(self, environment: str) -> WorkerHost:
        """The emulated machine with the environment's packages."""
        return self._host(environment, self._folder(environment))

    def _ensure_userland(
        self, session: HostSetup, settings: Environment
    ) -> pathlib.Path:
        folder = _userland_folder(self.file, settings)
        if find_problem(self.file, _USERLAND, folder) is not None:
            _install_userland(session, folder, _suite(settings))
        return folder

    def _install(self, session: HostSetup, name: str) -> None:
        begin = time.monotonic()
        settings = self.file.environments[name]
        folder = self._folder(name)
        with install_dirs.new_folder(folder) as partial:
            packages.install_aarch64(
                session, settings.packages, partial / SITE, _version(settings)
            )
            description = selftest.verify_environment(
                self._host(name, partial), settings.packages
            )
            marker = {
                "seconds": round(time.monotonic() - begin, 1),
                "installed": packages.list_installed(partial / SITE),
                **description,
            }
            install_dirs.write_marker(partial, marker)
        install_dirs.remove_outdated(self.file.name, name, folder)

    def _host(self, name: str, folder: pathlib.Path) -> WorkerHost:
        settings = self.file.environments[name]
        command = settings.python
        if not command:
            userland = _userland_folder(self.file, settings)
            command = _python_command(userland, settings, self.file.cpu or CPU)
        # The emulated program sees this machine's folders, except those of the userland.
        return WorkerHost(
            self.file.name,
            Start((*command, "-S"), paths=(str(folder / SITE),)),
            self.file.threads,
            self.file.timeout_s,
            untimed=self.file.untimed or UNTIMED,
        )

    def _folder(self, name: str) -> pathlib.Path:
        settings = self.file.environments[name]
        contents = {
            "packages": settings.packages,
            "python": settings.python,
            "version": _version(settings),
        }
        return install_dirs.folder_for(self.file.name, name, contents)


def find_qemu() -> str | None:
    """The machine's own ``qemu-aarch64``, or None if there is none or it is too old."""
    path = shutil.which(_PROGRAM)
    if path is None:
        return None
    try:
        return path if _qemu_version(path) >= OLDEST_QEMU else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _qemu_version(program: str) -> int:
    process = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    match = re.search(r"version (\d+)", process.stdout)
    if match is None:
        raise ValueError(f"{program} does not print its version")
    return int(match.group(1))


def _version(settings: Environment) -> str:
    return settings.version or DEFAULT_VERSION


def _suite(settings: Environment) -> str:
    version = _version(settings)
    if version not in SUITES:
        raise HostError(
            f"No release of Debian has Python {version} for this host."
            f" Available: {', '.join(SUITES)}.",
            fix="change 'version' in the host's file",
        )
    return SUITES[version]


def _userland_folder(file: HostFile, settings: Environment) -> pathlib.Path:
    contents = {
        "version": _version(settings),
        "libraries": LIBRARIES,
        "qemu": OLDEST_QEMU,
    }
    return install_dirs.folder_for(file.name, _USERLAND, contents)


def _python_command(
    userland: pathlib.Path, settings: Environment, cpu: str
) -> tuple[str, ...]:
    """The command that starts Python there: it finds its library in the userland, relative
    to its own path.
    """
    root = userland / "root"
    marker = install_dirs.read_marker(userland) or {}
    python = root / "usr" / "bin" / f"python{_version(settings)}"
    return (str(marker["qemu"]), "-cpu", cpu, "-L", str(root), str(python))


def _install_userland(
    session: HostSetup, folder: pathlib.Path, suite: str
) -> None:
    begin = time.monotonic()
    with install_dirs.new_folder(folder) as partial:
        with session.stage(f"Debian {suite} for arm64"):
            source = debian.Debian(session, suite, "arm64", partial / "apt")
            debian.unpack(session, source.fetch(*LIBRARIES), partial / "root")
        qemu = find_qemu()
        if qemu is None:
            with session.stage("qemu"):
                _download_qemu(session, partial)
            qemu = str(folder / _PROGRAM)
        for name in ("apt", "apt-qemu"):
            shutil.rmtree(partial / name, ignore_errors=True)
        seconds = round(time.monotonic() - begin, 1)
        install_dirs.write_marker(
            partial, {"qemu": qemu, "suite": suite, "seconds": seconds}
        )


def _download_qemu(session: HostSetup, folder: pathlib.Path) -> None:
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    source = debian.Debian(
        session, QEMU_SUITE, architecture, folder / "apt-qemu"
    )
    (archive,) = source.fetch("qemu-user", dependencies=False)
    debian.extract_program(
        session, archive, f"usr/bin/{_PROGRAM}", folder / _PROGRAM
    )
