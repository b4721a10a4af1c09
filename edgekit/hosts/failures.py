"""What is said where a worker fails: here, or on a machine that has a name, a way to
install packages, and a connection that may end.
"""

import dataclasses
import re
import signal
from collections.abc import Callable, Sequence

from edgekit.errors import EdgekitError, HostError, MissingBackend, RunnerError
from edgekit.formats import FORMATS
from edgekit.hosts.responses import plain

#: What a failure's text says of a package that is not there -> what pip calls it.
PACKAGES = (
    ("numpy", "numpy"),
    *dict.fromkeys(
        (record.loaded_by, record.distributions[0]) for record in FORMATS.values()
    ),
    ("tflite", FORMATS["tflite"].distributions[0]),
)
#: What runtimes say of a file that is newer than they are.
TOO_OLD = r"[Oo]lder version of this builtin|old TFLite binary|Unsupported model IR version|is till opset|Opset \d+ is under development|No Op registered for"
#: How much of a worker's own text is told.
_LONGEST = 1500


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that ended without an answer."""

    doing: str
    #: Its exit status, negative for a signal; None where it did not end.
    code: int | None
    #: The end of what it printed to stderr.
    said: str
    #: What came on stdout before the worker began.
    noise: str
    #: A worker had begun.
    started: bool


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs, for errors. The default is this machine."""

    #: The host's name; empty for this machine.
    name: str = ""
    #: The command that installs a package there, with ``{}`` for its name.
    install: str = ""
    #: Reads a connection's own failures: the error for a process that ended, or None where
    #: the runtime did.
    connection: Callable[[Ended], EdgekitError | None] | None = None

    @property
    def on(self) -> str:
        """`` on board``, or nothing for this machine."""
        return f" on {self.name}" if self.name else ""


@dataclasses.dataclass(frozen=True)
class Sign:
    """One way in which a connection fails: what its program prints, and what that means."""

    pattern: str
    told: str
    fix: str


def read(signs: Sequence[Sign], said: str, words: dict[str, str]) -> HostError | None:
    """The error for the first sign that is found; its texts may name ``{name}`` and what
    else is in ``words``.
    """
    for sign in signs:
        if re.search(sign.pattern, said):
            return HostError(
                _with(sign.told, words) + quoted(said), fix=_with(sign.fix, words)
            )
    return None


def found(pattern: str, said: str) -> bool:
    """Whether a program has printed something of the kind."""
    return re.search(pattern, said) is not None


def _with(text: str, words: dict[str, str]) -> str:
    for key, word in words.items():
        text = text.replace("{" + key + "}", word)
    return text


def quoted(said: str) -> str:
    """The last words of a program, behind a sentence; nothing where there are none."""
    return f" Its last words:\n{plain(said, _LONGEST)}" if said else ""


def ended(place: Place, how: Ended) -> EdgekitError:
    """A process that ended: its connection where the place knows of that, else the runtime."""
    known = place.connection(how) if place.connection is not None else None
    if known is not None:
        return known
    if not how.started and place.name:
        said = "\n".join(text for text in (how.noise, how.said) if text)
        return HostError(
            f"No Python began{place.on} ({cause(how.code)}) while {how.doing}.{quoted(said)}",
            fix=f"edgekit hosts show {place.name}",
        )
    fix = "try another scheme or another version of the runtime"
    return RunnerError(
        f"The runtime{place.on} crashed ({cause(how.code)}) while {how.doing}.{quoted(how.said or how.noise)}",
        fix=fix,
    )


def late(place: Place, doing: str, limit_s: float, started: bool) -> EdgekitError:
    """A worker that gave no answer in time; on another machine it may not even have begun."""
    if place.name and not started:
        fix = f"see that a program can be run there without a question being asked: edgekit hosts check {place.name}"
        return HostError(
            f"No Python began{place.on} within {limit_s:g} s while {doing}.", fix=fix
        )
    return RunnerError(
        f"The runtime{place.on} gave no answer within {limit_s:g} s while {doing}.",
        fix="give the host a longer timeout_s",
    )


def garbled(place: Place, doing: str, why: str) -> RunnerError:
    """Bytes that are no frame."""
    name = place.name or "the worker"
    return RunnerError(
        f"What came from {name} while {doing} is no answer: {plain(why)}.",
        fix="see what else writes to its output, such as a login script",
    )


def cause(code: int | None) -> str:
    """An exit status in words; a shell tells a signal as 128 and its number."""
    number = (
        -code
        if code is not None and code < 0
        else code - 128
        if code is not None and 128 < code < 192
        else None
    )
    try:
        return signal.Signals(number).name if number else f"exit status {code}"
    except ValueError:
        return f"exit status {code}"


class Damaged(RunnerError):
    """A file arrived with another hash."""


def translated(place: Place, doing: str, kind: str, message: str) -> EdgekitError:
    """The worker's answer to a failure as an error of edgekit."""
    message = plain(message, _LONGEST)
    if kind == "missing":
        return MissingBackend(
            f"The runtime is missing{place.on} while {doing}: {message}.",
            fix=_install(place, message),
        )
    if kind == "python":
        return HostError(
            f"The Python{place.on} is too old: {message}.",
            fix="name a newer one in the host's file: environments: {main: {python: [...]}}",
        )
    name = place.name or "this machine"
    if kind == "damaged":
        return Damaged(
            f"Damaged while {doing}: {message}.",
            fix=f"check the cable, the memory and the disk of {name}",
        )
    if kind == "full":
        return RunnerError(
            f"No room{place.on} while {doing}: {message}.",
            fix=f"free some space there, or edgekit hosts clean {name}; the copy then goes on",
        )
    if kind == "load" and re.search(TOO_OLD, message) and place.name:
        fix = f"take a newer runtime there ({_install(place, message + doing, ' --upgrade')}), or another scheme"
        return RunnerError(
            f"The runtime{place.on} is older than the file while {doing}: {message}",
            fix=fix,
        )
    fixes = {
        "load": "check that the file is whole and made for this runtime",
        "infer": "check that the data fit the file's inputs",
        "store": f"see that the folder{place.on} can be written to, or name another one in the host's file: folder",
    }
    return RunnerError(
        f"The runtime{place.on} failed while {doing}: {message}",
        fix=fixes.get(kind, "this is a fault of edgekit; please report it"),
    )


def _install(place: Place, message: str, option: str = "") -> str:
    """The command that brings what a message misses, for that place."""
    if not place.install:
        return "pip install 'edgekit[onnx]' or 'edgekit[tflite]'"
    package = next(
        (package for words, package in PACKAGES if re.search(words, message)),
        "onnxruntime ai-edge-litert",
    )
    return place.install.replace("{}", f"{option} {package}".strip())
