"""The kind ``ssh``: a machine over the user's own OpenSSH, with the keys, known hosts and
jump hosts of their configuration.

edgekit only adds options that make it bounded and quiet. Nothing is asked, nothing is
forwarded, and the command is constant: the worker's text, files and data go through the
connection's stdin.
"""

import dataclasses
import pathlib
import shlex
import shutil

from edgekit.errors import EdgekitError, HostError, RunnerError
from edgekit.host import HostFile
from edgekit.hosts import failures, shell
from edgekit.hosts.failures import ExitReport, FailurePattern, Place
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress

#: A dead connection is noticed within a minute. An open master connection is used, but none
#: is created: it would have to stay as long as others use it. Compression is left to the
#: user's configuration.
_SETTINGS = (
    "BatchMode=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ControlMaster=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "LogLevel=INFO",
)
#: No terminal, no agent, no X11, no escape character.
OPTIONS = (
    *("-T", "-a", "-x", "-e", "none"),
    *(word for setting in _SETTINGS for word in ("-o", setting)),
)
#: ssh's own exit status; also that of a program on the host that was killed by a signal.
SSH_FAILED = 255
#: The exit status of a shell that does not find the program, or may not run it.
COMMAND_NOT_FOUND = 127
COMMAND_NOT_ALLOWED = 126
_CONNECT_MANUALLY = "connect once manually and answer its questions: {ssh}"
#: What ssh prints before a login; the first match counts.
LOGIN_FAILURES = (
    FailurePattern(
        "Could not resolve hostname",
        "Unknown host {address} ({name}).",
        "check the address, or the Host entry in your SSH configuration",
    ),
    FailurePattern(
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "The host key of {name} differs from the known one.",
        "if the machine was reinstalled, remove its old key as ssh describes above"
        " (ssh-keygen -R), then connect once manually: {ssh}. If not, do not connect",
    ),
    FailurePattern(
        "Host key verification failed|No .* host key is known",
        "The host key of {name} is not known.",
        _CONNECT_MANUALLY,
    ),
    FailurePattern(
        "Connection refused",
        "{name} refuses the connection: no SSH server is running there.",
        "start one there (systemctl start ssh), or check the port",
    ),
    FailurePattern(
        "No route to host|Network is unreachable",
        "{name} is unreachable.",
        "check that it is switched on and in the same network",
    ),
    FailurePattern(
        "timed out",
        "{name} did not respond in time.",
        "check that it is switched on, and its address",
    ),
    FailurePattern(
        "Permission denied|Too many authentication failures|sign_and_send_pubkey",
        "{name} denied the login.",
        "edgekit enters no password: run ssh-copy-id {address}, and ssh-add if the key has"
        " a passphrase; {ssh} must then work without a question",
    ),
    FailurePattern(
        "Bad configuration option|Bad owner or permissions"
        "|[Cc]an't open user config file|terminating, \\d+ bad configuration"
        "|no argument after keyword",
        "ssh cannot read its configuration for {name}.",
        "correct what ssh reports above",
    ),
    FailurePattern(
        "Connection closed|Connection reset|kex_exchange_identification|banner exchange",
        "{name} ended the connection before the login.",
        _CONNECT_MANUALLY,
    ),
)
#: What ssh prints if an established connection ends.
DISCONNECTED = (
    "closed by remote host|Broken pipe|Connection reset|not responding"
    "|Connection to .* closed|Connection closed|Connection corrupted|Bad packet|timed out"
)


@dataclasses.dataclass(frozen=True)
class Ssh:
    """A machine over ssh. Nothing is installed there; files are copied under their hash."""

    file: HostFile

    def problem(self, environment: str) -> tuple[str, str] | None:
        """Whether ssh is installed on this machine, and its configuration exists."""
        if shutil.which("ssh") is None:
            return (
                "the program ssh is not installed",
                "apt-get install openssh-client",
            )
        if (
            self.file.config
            and not pathlib.Path(self.file.config).expanduser().is_file()
        ):
            return (
                f"the SSH configuration {self.file.config} of the host {self.file.name}"
                " does not exist",
                "set the absolute path of the file: config",
            )
        return None

    def setup(self, progress: Progress) -> None:
        """Connect once to every environment: it must have a Python, numpy and a runtime.

        Changes nothing there.
        """
        for environment in self.file.environments:
            shell.check(self.host(environment), progress)

    def host(self, environment: str) -> WorkerHost:
        """The machine, with one of its Pythons."""
        python = shell.python_command(self.file, environment, ("python3",))
        config: tuple[str, ...] = ()
        if self.file.config:
            config = ("-F", str(pathlib.Path(self.file.config).expanduser()))
        place = Place(
            self.file.name,
            self._manual_command(*python[1:]) + " -m pip install {}",
            self._explain_exit,
        )
        command = ("ssh", *config, *OPTIONS, "--", self.file.address, *python)
        return shell.remote_host(
            self.file, environment, Start(command, place=place)
        )

    def _manual_command(self, *arguments: str) -> str:
        """What a person types to do the same: arguments that the shell there reads are
        quoted once more for the local one.
        """
        config = ("-F", self.file.config) if self.file.config else ()
        return shlex.join(("ssh", *config, self.file.address, *arguments))

    def _explain_exit(self, report: ExitReport) -> EdgekitError | None:
        """The error for an ssh that ended, or None if the runtime failed."""
        if report.started:
            return self._explain_disconnection(report)
        not_found = failures.matches("[Cc]ommand not found", report.stderr)
        if report.code in (COMMAND_NOT_FOUND, COMMAND_NOT_ALLOWED) or (
            report.code == 1 and not_found
        ):
            command = self._manual_command("python3", "--version")
            return HostError(
                f"The Python of {self.file.name} cannot be started."
                f"{failures.quote_output(report.stderr)}",
                fix="install python3 there, or name another one in a host file:"
                f" environments (to try it: {command})",
            )
        if report.code != SSH_FAILED:
            return None
        values = {
            "name": self.file.name,
            "address": self.file.address,
            "ssh": self._manual_command(),
        }
        return failures.match_failure(LOGIN_FAILURES, report.stderr, values)

    def _explain_disconnection(self, report: ExitReport) -> EdgekitError | None:
        if report.code != SSH_FAILED:
            return None
        name = self.file.name
        output = failures.quote_output(report.stderr)
        if failures.matches(DISCONNECTED, report.stderr):
            return HostError(
                f"The connection to {name} ended while {report.activity}.{output}",
                fix="run the same command again: copied files stay there, and measurements"
                " stay here",
            )
        return RunnerError(
            f"The runtime on {name} was killed, by a crash or for lack of memory, while"
            f" {report.activity}.{output}",
            fix="try a smaller file or another scheme, or check the machine's system log",
        )
