"""A phone over adb: the user's own ``adb`` starts a Python on it, and all goes through that
shell's stdin and stdout.

The phone must have a Python that adb's shell user may run, with numpy and a runtime;
edgekit brings none. No phone was at hand when this was written: what adb says without a
phone is tested with the real program, the way through with a stand-in for it.
"""

import dataclasses
import shlex
import shutil
import subprocess

from edgekit.errors import EdgekitError, HostError
from edgekit.host import HostFile
from edgekit.hosts import failures, shell
from edgekit.hosts.failures import Ended, Place, Sign
from edgekit.hosts.process import Start
from edgekit.hosts.responses import plain
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress

#: No terminal, so that bytes stay as they are (Android 7 and later), and no escape
#: character.
OPTIONS = ("shell", "-e", "none", "-T")
#: Where Pythons for adb's shell user are put; Termux's own belongs to Termux and is reached
#: with run-as or over ssh.
PYTHON = ("/data/local/tmp/python/bin/python3",)
#: adb's shell user has no home that can be written to.
FOLDER = "/data/local/tmp/edgekit-worker"
NOT_FOUND, NOT_ALLOWED = 127, 126
_LISTING_S = 20
SIGNS = (
    Sign(
        "more than one device",
        "There is more than one phone, and {name} names none.",
        "name one by its serial number, adb:SERIAL. There are: {devices}",
    ),
    Sign(
        "no devices/emulators found|no devices found",
        "There is no phone for {name}.",
        "plug it in and switch on USB debugging in its developer options",
    ),
    Sign(
        "device '.*' not found",
        "There is no phone with the serial number {address}.",
        "name one of those that are there: {devices}",
    ),
    Sign(
        "unauthorized|still authorizing",
        "The phone {name} does not trust this computer yet.",
        "unlock it and answer its question, then run adb devices",
    ),
    Sign(
        "offline|still connecting",
        "The phone {name} is offline.",
        "adb reconnect, or plug it in again",
    ),
    Sign(
        "no permissions|insufficient permissions",
        "This user may not speak to the phone {name}.",
        "add a udev rule for it (apt-get install android-sdk-platform-tools-common)",
    ),
    Sign(
        "doesn't support (PTY args|shell)|does not support shell",
        "The phone {name} is too old: its adb cannot keep bytes as they are.",
        "Android 7 or later",
    ),
    Sign(
        "[Cc]annot connect to daemon|failed to start daemon|failed to check server version",
        "adb's own server does not run.",
        "adb kill-server, then adb devices",
    ),
)
CUT = r"error: closed|device .* not found|no devices|offline|protocol fault|Connection reset|Broken pipe"


@dataclasses.dataclass(frozen=True)
class Adb:
    """The kind ``adb``.

    Nothing is installed on the phone; files are copied under their hash.
    """

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether there is an adb on this machine."""
        return (
            None
            if shutil.which("adb")
            else ("There is no program adb on the PATH.", "apt-get install adb")
        )

    def setup(self, progress: Progress) -> None:
        """Reach every environment once: there must be a Python, numpy and a runtime.

        Nothing is changed over there.
        """
        for environment in self.file.environments:
            shell.check(self.host(environment), progress)

    def host(self, environment: str) -> WorkerHost:
        """The phone, with one of its Pythons."""
        python = shell.words(self.file, environment, PYTHON)
        serial = ("-s", self.file.address) if self.file.address else ()
        place = Place(
            self.file.name,
            shlex.join(("adb", *serial, "shell", *python[1:])) + " -m pip install {}",
            self._connection,
        )
        made = shell.made(
            self.file, environment, Start(("adb", *serial, *OPTIONS, *python), place=place)
        )
        return made if made.folder else dataclasses.replace(made, folder=FOLDER)

    def _connection(self, how: Ended) -> EdgekitError | None:
        """The error for an adb that ended."""
        name, words = self.file.name, {"name": self.file.name, "address": self.file.address}
        if how.started:
            # A phone that is unplugged ends the stream with no status of the program over
            # there, or with adb's own 1 or 255.
            if how.code in (0, 255) or (how.code == 1 and failures.found(CUT, how.said)):
                told = f"The connection to {name} ended while {how.doing}.{failures.quoted(how.said)}"
                return HostError(
                    told,
                    fix="plug it in and run the same command again: what was copied stays there",
                )
            return None
        if how.code in (NOT_FOUND, NOT_ALLOWED):
            told = f"The Python of {name} cannot be started.{failures.quoted(how.said)}"
            return HostError(
                told,
                fix="put one where adb's shell may run it, and name it in a host file: environments (see docs/hosts.md)",
            )
        return failures.read(SIGNS, how.said, {**words, "devices": _devices()})


def _devices() -> str:
    """What adb lists, in one line."""
    try:
        done = subprocess.run(
            ["adb", "devices"],
            capture_output=True,
            text=True,
            timeout=_LISTING_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown (adb devices failed)"
    rows = [
        " ".join(line.split())
        for line in done.stdout.splitlines()[1:]
        if line.strip() and not line.startswith("*")
    ]
    return plain(", ".join(rows)) or "none"
