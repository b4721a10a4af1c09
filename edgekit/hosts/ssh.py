"""A machine over the user's own OpenSSH: keys, known hosts and jump hosts are those of
their configuration.

We add only what makes it bounded and quiet. Nothing is asked, nothing is forwarded, and the
command is a constant: the worker's text, files and data go through the connection's stdin.
"""

import dataclasses
import pathlib
import shlex
import shutil

from edgekit.errors import EdgekitError, HostError, RunnerError
from edgekit.host import HostFile
from edgekit.hosts import failures, shell
from edgekit.hosts.failures import Ended, Place, Sign
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress

#: No terminal, no agent, no X11, no escape character; a dead link is found within a minute.
#: An open master connection is used, but none is made: it would have to stay as long as
#: others use it. Compression is left to the user's configuration.
OPTIONS = (
    "-T",
    "-a",
    "-x",
    "-e",
    "none",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=20",
    "-o",
    "ServerAliveInterval=15",
    "-o",
    "ServerAliveCountMax=4",
    "-o",
    "ControlMaster=no",
    "-o",
    "ClearAllForwardings=yes",
    "-o",
    "PermitLocalCommand=no",
    "-o",
    "RemoteCommand=none",
    "-o",
    "LogLevel=INFO",
)
#: ssh's own exit status; a program over there that was killed by a signal gives it too.
FAILED = 255
#: The status of a shell that does not find the program, or may not run it.
NOT_FOUND, NOT_ALLOWED = 127, 126
_BY_HAND = "connect once by hand and answer its questions: {ssh}"
#: ssh prints these before a login; the first that is found counts.
LOGIN = (
    Sign(
        "Could not resolve hostname",
        "No machine is known as {address} ({name}).",
        "check the address, or the Host entry in your SSH configuration",
    ),
    Sign(
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "The host key of {name} is another one than the one that is known.",
        "if the machine was set up anew, forget its old key as ssh says above (ssh-keygen -R), then connect once by hand: {ssh}. If not, do not connect",
    ),
    Sign(
        "Host key verification failed|No .* host key is known",
        "The host key of {name} is not known here.",
        _BY_HAND,
    ),
    Sign(
        "Connection refused",
        "{name} refuses the connection: no SSH server listens there.",
        "start one there (systemctl start ssh), or check the port",
    ),
    Sign(
        "No route to host|Network is unreachable",
        "There is no way to {name}.",
        "check that it is switched on and in the same network",
    ),
    Sign(
        "timed out",
        "{name} did not answer in time.",
        "check that it is switched on, and its address",
    ),
    Sign(
        "Permission denied|Too many authentication failures|sign_and_send_pubkey",
        "{name} does not let us in.",
        "edgekit gives no password: ssh-copy-id {address}, and ssh-add where the key has a passphrase; {ssh} must then work without a question",
    ),
    Sign(
        "Bad configuration option|Bad owner or permissions|[Cc]an't open user config file|terminating, \\d+ bad configuration|no argument after keyword",
        "ssh cannot read its configuration for {name}.",
        "mend what ssh says above",
    ),
    Sign(
        "Connection closed|Connection reset|kex_exchange_identification|banner exchange",
        "{name} ended the connection before the login.",
        _BY_HAND,
    ),
)
#: ssh prints these where a connection ends that stood before.
CUT = r"closed by remote host|Broken pipe|Connection reset|not responding|Connection to .* closed|Connection closed|Connection corrupted|Bad packet|timed out"


@dataclasses.dataclass(frozen=True)
class Ssh:
    """The kind ``ssh``.

    Nothing is installed on the machine; files are copied under their hash.
    """

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether there is an ssh on this machine."""
        if shutil.which("ssh") is None:
            return "There is no program ssh on the PATH.", "apt-get install openssh-client"
        if self.file.config and not pathlib.Path(self.file.config).expanduser().is_file():
            return (
                f"The host {self.file.name} names an SSH configuration that is not there: {self.file.config}.",
                "name the file's whole path: config",
            )
        return None

    def setup(self, progress: Progress) -> None:
        """Connect once to every environment: there must be a Python, numpy and a runtime.

        Nothing is changed over there.
        """
        for environment in self.file.environments:
            shell.check(self.host(environment), progress)

    def host(self, environment: str) -> WorkerHost:
        """The machine, with one of its Pythons."""
        python = shell.words(self.file, environment, ("python3",))
        config = (
            ("-F", str(pathlib.Path(self.file.config).expanduser()))
            if self.file.config
            else ()
        )
        place = Place(
            self.file.name,
            self._by_hand(*python[1:]) + " -m pip install {}",
            self._connection,
        )
        return shell.made(
            self.file,
            environment,
            Start(
                ("ssh", *config, *OPTIONS, "--", self.file.address, *python), place=place
            ),
        )

    def _by_hand(self, *words: str) -> str:
        """What a person types to do the same: words that the shell over there reads are
        quoted once more for the one here.
        """
        config = ("-F", self.file.config) if self.file.config else ()
        return shlex.join(("ssh", *config, self.file.address, *words))

    def _connection(self, how: Ended) -> EdgekitError | None:
        """The error for an ssh that ended."""
        words = {
            "name": self.file.name,
            "address": self.file.address,
            "ssh": self._by_hand(),
        }
        name = self.file.name
        if how.started:
            if how.code != FAILED:
                return None
            if failures.found(CUT, how.said):
                told = f"The connection to {name} ended while {how.doing}.{failures.quoted(how.said)}"
                return HostError(
                    told,
                    fix="run the same command again: what was copied stays there, and what was measured stays here",
                )
            told = f"The runtime on {name} was killed, by a crash or for want of memory, while {how.doing}.{failures.quoted(how.said)}"
            return RunnerError(
                told,
                fix="try a smaller file or another scheme, or look at the machine's system log",
            )
        if how.code in (NOT_FOUND, NOT_ALLOWED) or (
            how.code == 1 and failures.found("[Cc]ommand not found", how.said)
        ):
            told = f"The Python of {name} cannot be started.{failures.quoted(how.said)}"
            return HostError(
                told,
                fix=f"install python3 there, or name another one in a host file: environments (by hand: {self._by_hand('python3', '--version')})",
            )
        return failures.read(LOGIN, how.said, words) if how.code == FAILED else None
