"""This machine as a host.

Files run in a separate worker process, so that a crash of a runtime is only an error.
"""

import dataclasses
import sys

from edgekit.host import HostFile
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress


def _this_python() -> Start:
    return Start((sys.executable,))


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
