"""What ssh and adb have in common: a shell on the other side reads the command, and what is
missing there cannot be installed by us.
"""

import dataclasses
import shlex

from edgekit.errors import HostError, MissingBackend
from edgekit.host import MAIN, HostFile
from edgekit.hosts.execution import PACKAGES
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress

#: Shells do not agree on these between quotes: fish reads a backslash there, csh an
#: exclamation mark and no line break.
_UNSURE = "\\!"


def words(file: HostFile, environment: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """The words that start Python over there, ``exec`` before them, each quoted for any
    shell; HostError for one that not all shells read alike.
    """
    given = file.environments[environment].python or default
    for word in given:
        if not word or not word.isprintable() or set(word) & set(_UNSURE):
            told = f"The host {file.name} starts Python with {word!r}, which the shells over there would not all read alike."
            raise HostError(
                told,
                fix="environments: name a path without backslash, exclamation mark or line break",
            )
    if given[0].startswith("-"):
        raise HostError(
            f"The host {file.name} starts Python with {given[0]!r}, which is an option, not a program.",
            fix="environments: begin with the program",
        )
    # The shell is replaced: what Python's end was is then told as it is, and nothing is
    # left when the connection ends.
    return ("exec", *(shlex.quote(word) for word in given))


def made(file: HostFile, environment: str, start: Start) -> WorkerHost:
    """The host: files are copied there."""
    start = dataclasses.replace(start, shell=True)
    name = file.name if environment == MAIN else f"{file.name}/{environment}"
    return WorkerHost(
        name,
        start,
        file.threads,
        file.timeout_s,
        shares_files=False,
        folder=file.folder,
        untimed=file.untimed,
    )


def check(host: WorkerHost, progress: Progress) -> None:
    """Connect once, and say what is there; MissingBackend with the command to type where
    there is no numpy or no runtime.
    """
    progress.start(f"connect to {host.name}")
    told = host.hello()
    found = {
        name: version for name, version in told["versions"].items() if name in PACKAGES
    }
    if not found:
        fix = (
            host.start.place.install.replace("{}", "ai-edge-litert")
            + "  (TFLite files; onnxruntime for ONNX)"
        )
        raise MissingBackend(
            f"There is no runtime on {host.name} (Python {told['python']} on {told['machine']}).",
            fix=fix,
        )
    progress.finish(
        f"Python {told['python']} on {told['machine']}: {', '.join(f'{name} {version}' for name, version in found.items())}"
    )
