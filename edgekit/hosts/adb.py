"""The kind ``adb``: a phone, on which the user's own ``adb`` starts a Python. Everything goes
through that shell's stdin and stdout.

The phone must have a Python that adb's shell user may run, with numpy and a runtime; edgekit
installs none. No phone was available when this was written: what adb prints without a phone
is tested with the real program, the rest with a substitute for it.
"""

import dataclasses
import shlex
import shutil
import subprocess

from edgekit.errors import EdgekitError, HostError
from edgekit.host import HostFile
from edgekit.hosts import failures, shell
from edgekit.hosts.failures import ExitReport, FailurePattern, Place
from edgekit.hosts.process import Start
from edgekit.hosts.responses import to_printable
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress

#: No terminal, so that bytes are not changed (Android 7 and later), and no escape character.
OPTIONS = ("shell", "-e", "none", "-T")
#: The usual Python of adb's shell user. Termux's Python belongs to Termux and is reached
#: with run-as or over ssh.
PYTHON = ("/data/local/tmp/python/bin/python3",)
#: adb's shell user has no writable home.
FOLDER = "/data/local/tmp/edgekit-worker"
#: The exit status of a shell that does not find the program, or may not run it.
COMMAND_NOT_FOUND = 127
COMMAND_NOT_ALLOWED = 126
_LISTING_S = 20
#: What adb prints if it cannot connect; the first match counts.
CONNECTION_FAILURES = (
    FailurePattern(
        "more than one device",
        "Several phones are connected, and {name} does not select one.",
        "select one by its serial number, adb:SERIAL. Connected: {devices}",
    ),
    FailurePattern(
        "no devices/emulators found|no devices found",
        "No phone is connected for {name}.",
        "connect it and enable USB debugging in its developer options",
    ),
    FailurePattern(
        "device '.*' not found",
        "No phone with the serial number {address} is connected.",
        "select one of those that are connected: {devices}",
    ),
    FailurePattern(
        "unauthorized|still authorizing",
        "The phone {name} does not trust this computer yet.",
        "unlock it and answer its question, then run adb devices",
    ),
    FailurePattern(
        "offline|still connecting",
        "The phone {name} is offline.",
        "adb reconnect, or reconnect the cable",
    ),
    FailurePattern(
        "no permissions|insufficient permissions",
        "This user has no permission to access the phone {name}.",
        "add a udev rule for it (apt-get install android-sdk-platform-tools-common)",
    ),
    FailurePattern(
        "doesn't support (PTY args|shell)|does not support shell",
        "The phone {name} is too old: its adb changes bytes.",
        "use Android 7 or later",
    ),
    FailurePattern(
        "[Cc]annot connect to daemon|failed to start daemon|failed to check server version",
        "adb's own server is not running.",
        "adb kill-server, then adb devices",
    ),
)
#: What adb prints if an established connection ends.
DISCONNECTED = (
    "error: closed|device .* not found|no devices|offline|protocol fault"
    "|Connection reset|Broken pipe"
)


@dataclasses.dataclass(frozen=True)
class Adb:
    """A phone over adb. Nothing is installed there; files are copied under their hash."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether adb is installed on this machine."""
        if shutil.which("adb"):
            return None
        return "the program adb is not installed", "apt-get install adb"

    def setup(self, progress: Progress) -> None:
        """Connect once to every environment: it must have a Python, numpy and a runtime.

        Changes nothing there.
        """
        for environment in self.file.environments:
            shell.check(self.host(environment), progress)

    def host(self, environment: str) -> WorkerHost:
        """The phone, with one of its Pythons."""
        python = shell.python_command(self.file, environment, PYTHON)
        serial = ("-s", self.file.address) if self.file.address else ()
        place = Place(
            self.file.name,
            shlex.join(("adb", *serial, "shell", *python[1:]))
            + " -m pip install {}",
            self._explain_exit,
        )
        start = Start(("adb", *serial, *OPTIONS, *python), place=place)
        return shell.remote_host(self.file, environment, start, FOLDER)

    def _explain_exit(self, report: ExitReport) -> EdgekitError | None:
        """The error for an adb that ended, or None if the runtime failed."""
        name = self.file.name
        output = failures.quote_output(report.stderr)
        if report.started:
            if not _is_disconnected(report):
                return None
            return HostError(
                f"The connection to {name} ended while {report.activity}.{output}",
                fix="reconnect it and run the same command again: copied files stay there",
            )
        if report.code in (COMMAND_NOT_FOUND, COMMAND_NOT_ALLOWED):
            return HostError(
                f"The Python of {name} cannot be started.{output}",
                fix="install one that adb's shell may run, and name it in a host file:"
                " environments (see docs/guides/hosts.md)",
            )
        values = {
            "name": name,
            "address": self.file.address,
            "devices": _list_devices(),
        }
        return failures.match_failure(
            CONNECTION_FAILURES, report.stderr, values
        )


def _is_disconnected(report: ExitReport) -> bool:
    """Whether the phone was disconnected: this ends the stream without an exit status of the
    program there, or with adb's own 1 or 255.
    """
    if report.code in (0, 255):
        return True
    return report.code == 1 and failures.matches(DISCONNECTED, report.stderr)


def _list_devices() -> str:
    """The output of ``adb devices`` in one line."""
    try:
        process = subprocess.run(
            ["adb", "devices"],
            capture_output=True,
            text=True,
            timeout=_LISTING_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown (adb devices failed)"
    devices = []
    for line in process.stdout.splitlines()[1:]:
        if line.strip() and not line.startswith("*"):
            devices.append(" ".join(line.split()))
    return to_printable(", ".join(devices)) or "none"
