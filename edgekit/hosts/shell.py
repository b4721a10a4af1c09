"""What ssh and adb have in common: a shell on the other side reads the command, and edgekit
cannot install what is missing there.
"""

import dataclasses
import shlex

from edgekit.errors import HostError, MissingBackend
from edgekit.host import MAIN, HostFile
from edgekit.hosts.execution import PACKAGES
from edgekit.hosts.process import Start
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Progress

#: Shells disagree on these inside quotes: fish interprets a backslash there, csh an
#: exclamation mark.
_AMBIGUOUS = frozenset("\\!")


def python_command(
    file: HostFile, environment: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    """``exec`` and the command that starts Python on the host, quoted for any shell.

    Raises HostError for an argument that shells read differently.
    """
    arguments = file.environments[environment].python or default
    for argument in arguments:
        if (
            not argument
            or not argument.isprintable()
            or _AMBIGUOUS & set(argument)
        ):
            raise HostError(
                f"The host {file.name} starts Python with {argument!r}, which shells read"
                " differently.",
                fix="environments: use a path without backslash, exclamation mark or line"
                " break",
            )
    if arguments[0].startswith("-"):
        raise HostError(
            f"The host {file.name} starts Python with {arguments[0]!r}, which is an option,"
            " not a program.",
            fix="environments: put the program first",
        )
    # exec replaces the shell: Python's exit status is then reported unchanged, and nothing
    # is left running when the connection ends.
    return ("exec", *(shlex.quote(argument) for argument in arguments))


def remote_host(
    file: HostFile, environment: str, start: Start, folder: str = ""
) -> WorkerHost:
    """A host that files are copied to, into ``folder`` if the host's file names none."""
    return WorkerHost(
        file.name if environment == MAIN else f"{file.name}/{environment}",
        dataclasses.replace(start, shell=True),
        file.threads,
        file.timeout_s,
        shares_files=False,
        folder=file.folder or folder,
        untimed=file.untimed,
    )


def check(host: WorkerHost, progress: Progress) -> None:
    """Connect once and report what is installed.

    Raises MissingBackend, with the command to type, if there is no numpy or no runtime.
    """
    progress.start(f"connect to {host.name}")
    hello = host.hello()
    machine = f"Python {hello['python']} on {hello['machine']}"
    runtimes = [
        f"{name} {version}"
        for name, version in hello["versions"].items()
        if name in PACKAGES
    ]
    if not runtimes:
        command = host.start.place.install.replace("{}", "ai-edge-litert")
        raise MissingBackend(
            f"No runtime is installed on {host.name} ({machine}).",
            fix=f"{command}  (TFLite files; onnxruntime for ONNX)",
        )
    progress.finish(f"{machine}: {', '.join(runtimes)}")
