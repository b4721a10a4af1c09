"""This machine as a host: files run in a worker process of their own, so that a runtime's
crash is an error and no more.
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
    """The kind ``local``: there is nothing to set up."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Nothing can be wrong with it."""
        return None

    def setup(self, progress: Progress) -> None:
        """There is nothing to do."""

    def host(self, environment: str) -> WorkerHost:
        """This machine."""
        python = self.file.environments[environment].python
        start = Start(python) if python else _this_python()
        return LocalHost(
            self.file.name,
            start,
            self.file.threads,
            self.file.timeout_s,
            untimed=self.file.untimed,
        )
