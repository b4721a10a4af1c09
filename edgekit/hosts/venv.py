"""The kind ``venv``: other packages than edgekit's own, pinned, for a Python of this
machine; edgekit makes and removes them.
"""

import dataclasses
import os
import pathlib
import time

from edgekit.host import Environment, HostFile
from edgekit.hosts import install_dirs as places
from edgekit.hosts import packages
from edgekit.hosts import selftest as trial
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.hosts.setup_steps import Workshop, workshop
from edgekit.progress import Progress

#: Where the packages lie inside an environment's folder.
SITE = "site"


@dataclasses.dataclass(frozen=True)
class Venv:
    """A host of pinned packages beside edgekit's own."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether the environment was made, from these pins, and its Python is still there."""
        wanted = self.file.environments[environment]
        return (
            not_ready(self.file, environment, self._folder(environment))
            if self._has_python(wanted)
            else _without_python(wanted.version)
        )

    def setup(self, progress: Progress) -> None:
        """Install each environment's packages into a folder of its own."""
        with workshop(self.file.name, progress) as work:
            for name, wanted in self.file.environments.items():
                if self.problem(name) is None:
                    progress.say(f"{self.file.name}: {name} is ready")
                    continue
                python = (
                    wanted.python[0]
                    if wanted.python
                    else packages.interpreter(wanted.version)
                )
                with work.stage(name):
                    fill(work, self.file, name, self._folder(name), python)

    def host(self, environment: str) -> WorkerHost:
        """This machine with the environment's Python and packages."""
        folder = self._folder(environment)
        return _host(self.file, folder, (places.told(folder) or {})["python"])

    def _folder(self, environment: str) -> pathlib.Path:
        wanted = self.file.environments[environment]
        return places.place(
            self.file.name,
            environment,
            {
                "packages": wanted.packages,
                "python": wanted.python,
                "version": wanted.version or packages.here(),
            },
        )

    def _has_python(self, wanted: Environment) -> bool:
        return bool(wanted.python) or packages.may_have(wanted.version)


def not_ready(
    file: HostFile, environment: str, folder: pathlib.Path
) -> tuple[str, str] | None:
    """Why a folder that a setup makes cannot be used, and the way out."""
    noted, fix = places.told(folder), f"edgekit hosts setup {file.name}"
    if noted is not None:
        gone = [
            noted[key]
            for key in ("python", "qemu")
            if noted.get(key) and not os.access(noted[key], os.X_OK)
        ]
        return (
            (f"the host {file.name} needs {gone[0]}, which is gone", fix) if gone else None
        )
    if places.older(file.name, environment):
        return f"the packages of {file.name} have changed since it was set up", fix
    return f"the host {file.name} is not set up", fix


def fill(
    work: Workshop, file: HostFile, name: str, folder: pathlib.Path, python: str
) -> None:
    """Make one environment of a venv, prove that it answers, and remove the older ones of
    its name.
    """
    began = time.monotonic()
    with places.filling(folder) as partial:
        packages.install(work, file.environments[name].packages, partial / SITE, python)
        facts = trial.proven(_host(file, partial, python), file.environments[name].packages)
        places.note(
            partial,
            {
                "python": python,
                "seconds": round(time.monotonic() - began, 1),
                "installed": packages.listed(partial / SITE),
                **facts,
            },
        )
    places.retire(file.name, name, folder)


def _host(file: HostFile, folder: pathlib.Path, python: str) -> WorkerHost:
    return WorkerHost(
        file.name,
        Start((python, "-S"), paths=(str(folder / SITE),)),
        file.threads,
        file.timeout_s,
        untimed=file.untimed,
    )


def _without_python(version: str) -> tuple[str, str]:
    error = packages.no_python(version)
    return error.message.rstrip("."), error.fix or ""
