"""This machine as a host.

Files run in a separate worker process, so that a crash of a runtime is only an error.
"""

import dataclasses
import pathlib
import sys

from edgekit.host import HostFile
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress


def _this_python() -> Start:
    """The Python that edgekit runs in, by one name.

    ``python``, ``python3`` and ``python3.11`` of one environment are links to each other. The
    link that leaves its folder is not followed: an environment's Python is recognized by where
    it is.
    """
    executable = pathlib.Path(sys.executable)
    while executable.is_symlink():
        target = executable.parent / executable.readlink()
        if target.parent != executable.parent:
            break
        executable = target
    return Start((str(executable),))


@dataclasses.dataclass(frozen=True)
class LocalHost(WorkerHost):
    """This machine, with the Python that edgekit runs in."""

    name: str = "local"
    start: Start = dataclasses.field(default_factory=_this_python)


@dataclasses.dataclass(frozen=True)
class Local:
    """The kind ``local``, which needs no setup."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """None: this machine is always available."""
        return None

    def setup(self, progress: Progress) -> None:
        """Do nothing."""

    def host(self, environment: str) -> WorkerHost:
        """This machine."""
        python = self.file.environments[environment].python
        return LocalHost(
            self.file.name,
            Start(python) if python else _this_python(),
            self.file.threads,
            self.file.timeout_s,
            untimed=self.file.untimed,
        )
