"""The kind ``venv``: other packages than edgekit's own, pinned, for a Python of this
machine. edgekit installs and removes them.
"""

import dataclasses
import os
import pathlib
import time

from edgekit.host import HostFile
from edgekit.hosts import install_dirs, packages, selftest
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.hosts.setup_steps import HostSetup, host_setup
from edgekit.progress import Progress

#: The folder of the packages inside an environment's folder.
SITE = "site"
#: Programs outside the folder that an environment depends on, by their key in the marker.
_PROGRAMS = ("python", "qemu")


@dataclasses.dataclass(frozen=True)
class Venv:
    """A host with pinned packages in addition to edgekit's own."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether the environment is installed, from these pins, and its Python exists."""
        settings = self.file.environments[environment]
        if not settings.python and not packages.may_exist(settings.version):
            error = packages.missing_python_error(settings.version)
            return error.message.rstrip("."), error.fix or ""
        return find_problem(self.file, environment, self._folder(environment))

    def setup(self, progress: Progress) -> None:
        """Install each environment's packages into its own folder."""
        with host_setup(self.file.name, progress) as session:
            for name, settings in self.file.environments.items():
                if self.problem(name) is None:
                    progress.say(f"{self.file.name}: {name} is ready")
                    continue
                if settings.python:
                    python = settings.python[0]
                else:
                    python = packages.find_interpreter(settings.version)
                with session.stage(name):
                    self._install(session, name, python)

    def host(self, environment: str) -> WorkerHost:
        """This machine with the environment's Python and packages."""
        folder = self._folder(environment)
        marker = install_dirs.read_marker(folder) or {}
        return self._host(folder, marker["python"])

    def _install(self, session: HostSetup, name: str, python: str) -> None:
        """Install one environment, verify that it works, and remove its older versions."""
        begin = time.monotonic()
        requirements = self.file.environments[name].packages
        folder = self._folder(name)
        with install_dirs.new_folder(folder) as partial:
            packages.install(session, requirements, partial / SITE, python)
            description = selftest.verify_environment(
                self._host(partial, python), requirements
            )
            marker = {
                "python": python,
                "seconds": round(time.monotonic() - begin, 1),
                "installed": packages.list_installed(partial / SITE),
                **description,
            }
            install_dirs.write_marker(partial, marker)
        install_dirs.remove_outdated(self.file.name, name, folder)

    def _folder(self, environment: str) -> pathlib.Path:
        settings = self.file.environments[environment]
        contents = {
            "packages": settings.packages,
            "python": settings.python,
            "version": settings.version or packages.running_version(),
        }
        return install_dirs.folder_for(self.file.name, environment, contents)

    def _host(self, folder: pathlib.Path, python: str) -> WorkerHost:
        return WorkerHost(
            self.file.name,
            Start((python, "-S"), paths=(str(folder / SITE),)),
            self.file.threads,
            self.file.timeout_s,
            untimed=self.file.untimed,
        )


def find_problem(
    file: HostFile, name: str, folder: pathlib.Path
) -> tuple[str, str] | None:
    """Why a folder that a setup fills cannot be used and the fix, or None."""
    fix = f"edgekit hosts setup {file.name}"
    marker = install_dirs.read_marker(folder)
    if marker is not None:
        for key in _PROGRAMS:
            program = marker.get(key)
            if program and not os.access(program, os.X_OK):
                return (
                    f"the host {file.name} needs {program}, which no longer exists",
                    fix,
                )
        return None
    if install_dirs.list_folders(file.name, name):
        return (
            f"the packages of {file.name} have changed since it was set up",
            fix,
        )
    return f"the host {file.name} is not set up", fix
