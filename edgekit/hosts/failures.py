"""Errors for a worker that failed: on this machine, or on a host with a name, a command that
installs packages, and a connection that may end.
"""

import dataclasses
import re
import signal
from collections.abc import Callable, Mapping, Sequence

from edgekit.errors import EdgekitError, HostError, MissingBackend, RunnerError
from edgekit.formats import FORMATS
from edgekit.hosts.responses import to_printable

#: A word in the message about a missing package -> the package's name for pip.
PACKAGES = (
    ("numpy", "numpy"),
    *dict.fromkeys(
        (record.loaded_by, record.distributions[0])
        for record in FORMATS.values()
    ),
    ("tflite", FORMATS["tflite"].distributions[0]),
)
#: What runtimes print about a file that is newer than they are.
TOO_OLD = (
    "[Oo]lder version of this builtin|old TFLite binary|Unsupported model IR version"
    r"|is till opset|Opset \d+ is under development|No Op registered for"
)
#: The longest part of a worker's own text that is shown.
_LONGEST = 1500


@dataclasses.dataclass(frozen=True)
class ExitReport:
    """A process that ended without a reply."""

    activity: str
    #: Its exit status, negative for a signal; None if it did not end.
    code: int | None
    #: The end of what it printed to stderr.
    stderr: str
    #: What it printed to stdout before the worker started.
    early_output: str
    #: Whether a worker had started.
    started: bool


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs, for errors. The default is this machine."""

    #: The host's name; empty for this machine.
    name: str = ""
    #: The command that installs a package there, with ``{}`` for the package's name.
    install: str = ""
    #: Recognizes a failed connection: the error for a process that ended, or None if the
    #: runtime failed.
    connection: Callable[[ExitReport], EdgekitError | None] | None = None

    @property
    def suffix(self) -> str:
        """`` on board``, or nothing for this machine."""
        return f" on {self.name}" if self.name else ""


@dataclasses.dataclass(frozen=True)
class FailurePattern:
    """One way in which a connection fails: what its program prints, and what that means."""

    pattern: str
    message: str
    fix: str


def match_failure(
    patterns: Sequence[FailurePattern], stderr: str, values: Mapping[str, str]
) -> HostError | None:
    """The error for the first pattern that matches, or None.

    ``values`` replace the ``{name}`` placeholders in its message and fix.
    """
    for pattern in patterns:
        if re.search(pattern.pattern, stderr):
            message = _fill_in(pattern.message, values) + quote_output(stderr)
            return HostError(message, fix=_fill_in(pattern.fix, values))
    return None


def matches(pattern: str, text: str) -> bool:
    """Whether a regular expression matches anywhere in a text."""
    return re.search(pattern, text) is not None


def _fill_in(text: str, values: Mapping[str, str]) -> str:
    # Not str.format: a value such as an address may contain braces.
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    return text


def quote_output(text: str) -> str:
    """The end of a program's output, to follow a sentence; empty if there is none."""
    return f" Its last output:\n{to_printable(text, _LONGEST)}" if text else ""


def explain_exit(place: Place, report: ExitReport) -> EdgekitError:
    """The error for a process that ended: a failed connection if the place recognizes one,
    else a failed runtime.
    """
    if place.connection is not None:
        connection_error = place.connection(report)
        if connection_error is not None:
            return connection_error
    status = describe_exit(report.code)
    if not report.started and place.name:
        output = f"{report.early_output}\n{report.stderr}".strip()
        return HostError(
            f"Python did not start{place.suffix} ({status}) while"
            f" {report.activity}.{quote_output(output)}",
            fix=f"edgekit hosts show {place.name}",
        )
    return RunnerError(
        f"The runtime{place.suffix} crashed ({status}) while"
        f" {report.activity}.{quote_output(report.stderr or report.early_output)}",
        fix="try another scheme or another version of the runtime",
    )


def explain_timeout(
    place: Place, activity: str, limit_s: float, started: bool
) -> EdgekitError:
    """The error for a worker that did not reply in time; on another machine it may not even
    have started.
    """
    if place.name and not started:
        return HostError(
            f"Python did not start{place.suffix} within {limit_s:g} s while {activity}.",
            fix="make sure that a program can be run there without being asked anything:"
            f" edgekit hosts check {place.name}",
        )
    return RunnerError(
        f"The runtime{place.suffix} did not reply within {limit_s:g} s while {activity}.",
        fix="increase timeout_s in the host's file",
    )


def explain_invalid_output(
    place: Place, activity: str, reason: str
) -> RunnerError:
    """The error for bytes that are not a frame."""
    name = place.name or "the worker"
    return RunnerError(
        f"Invalid output from {name} while {activity}: {to_printable(reason)}.",
        fix="check what else writes to its output, such as a login script",
    )


def describe_exit(code: int | None) -> str:
    """An exit status as text; a shell reports a signal as 128 plus its number."""
    number = 0
    if code is not None and code < 0:
        number = -code
    elif code is not None and 128 < code < 192:
        number = code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit status {code}"


class DamagedFile(RunnerError):
    """A file arrived with another hash."""


def translate_error(
    place: Place, activity: str, kind: str, message: str
) -> EdgekitError:
    """Turn a worker's error reply into an error of edgekit."""
    message = to_printable(message, _LONGEST)
    name = place.name or "this machine"
    if kind == "missing":
        return MissingBackend(
            f"The runtime is missing{place.suffix} while {activity}: {message}.",
            fix=_install_command(place, message),
        )
    if kind == "python":
        return HostError(
            f"The Python{place.suffix} is too old: {message}.",
            fix="set a newer one in the host's file: environments: {main: {python: [...]}}",
        )
    if kind == "damaged":
        return DamagedFile(
            f"Damaged while {activity}: {message}.",
            fix=f"check the cable, the memory and the disk of {name}",
        )
    if kind == "full":
        return RunnerError(
            f"Not enough disk space{place.suffix} while {activity}: {message}.",
            fix=f"free some space there, or run edgekit hosts clean {name};"
            " the copy then continues",
        )
    if kind == "load" and place.name and re.search(TOO_OLD, message):
        command = _install_command(place, message + activity, "--upgrade")
        return RunnerError(
            f"The runtime{place.suffix} is older than the file while {activity}: {message}",
            fix=f"install a newer runtime there ({command}), or use another scheme",
        )
    return RunnerError(
        f"The runtime{place.suffix} failed while {activity}: {message}",
        fix=_runtime_fix(place, kind),
    )


def _runtime_fix(place: Place, kind: str) -> str:
    fixes = {
        "load": "check that the file is complete and was built for this runtime",
        "infer": "check that the data match the file's inputs",
        "store": f"make sure that the folder{place.suffix} is writable, or set another one"
        " in the host's file: folder",
    }
    return fixes.get(kind, "this is a bug in edgekit; please report it")


def _install_command(place: Place, message: str, option: str = "") -> str:
    """The command that installs the package that a message is about."""
    if not place.install:
        return "pip install 'edgekit[onnx]' or 'edgekit[tflite]'"
    package = "onnxruntime ai-edge-litert"
    for word, name in PACKAGES:
        if re.search(word, message):
            package = name
            break
    return place.install.replace("{}", f"{option} {package}".strip())
