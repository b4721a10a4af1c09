"""The setup of a host: its lock, programs with a time limit, and messages about each stage."""

import contextlib
import dataclasses
import fcntl
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from edgekit.errors import HostError
from edgekit.hosts import install_dirs
from edgekit.hosts.process import deadline, kill_group
from edgekit.progress import Progress

#: The time limit of one program: hundreds of megabytes over a slow connection.
LIMIT_S = 1200.0
#: How long a setup waits for another one of the same host.
PATIENCE_S = 2 * LIMIT_S
#: How many lines and characters of a failed program's output are shown.
LAST_LINES = 12
LONGEST = 1500
_POLL_S = 0.2
_BLOCK_BYTES = 1 << 20
_DISK_FULL = re.compile(
    r"No space left on device|enough free space|Disk quota exceeded"
)


class ProgramFailed(Exception):
    """A program ended with an error; ``text`` is its output."""

    def __init__(self, program: str, code: int, text: str) -> None:
        super().__init__(f"{program} ended with {code}")
        self.text = text

    def tail(self) -> str:
        """The end of its output."""
        lines = self.text.splitlines()[-LAST_LINES:]
        return "\n".join(lines)[-LONGEST:].strip()


@dataclasses.dataclass(frozen=True)
class HostSetup:
    """The setup of one host, with exclusive access to its folder."""

    host: str
    progress: Progress
    #: The file descriptor of the lock.
    lock: int

    def run(
        self,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        limit_s: float = LIMIT_S,
    ) -> str:
        """Run a program to its end and return its output, which ``on_line`` gets per line.

        Raises ProgramFailed if it ends with an error, HostError if it cannot be started,
        takes too long or finds the disk full.
        """
        lines: list[str] = []
        with self._start(command, environ, limit_s, subprocess.STDOUT) as (
            process,
            late,
        ):
            assert process.stdout is not None
            for raw in process.stdout:
                lines.append(raw.decode(errors="replace"))
                if on_line is not None:
                    on_line(lines[-1])
            code = process.wait()
        text = "".join(lines)
        _require_success(
            command[0], code, text, limit_s if late.is_set() else None
        )
        return text

    @contextlib.contextmanager
    def stream(
        self, command: Sequence[str], limit_s: float = LIMIT_S
    ) -> Iterator[IO[bytes]]:
        """A program's stdout as a stream; stderr is discarded. Raises like ``run``."""
        with self._start(command, None, limit_s, subprocess.DEVNULL) as (
            process,
            late,
        ):
            assert process.stdout is not None
            yield process.stdout
            while process.stdout.read(_BLOCK_BYTES):
                pass
            code = process.wait()
        _require_success(
            command[0], code, "", limit_s if late.is_set() else None
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report the start of a stage of the setup, and its end if it succeeds."""
        self.progress.start(f"{self.host}: {name}")
        yield
        self.progress.finish()

    @contextlib.contextmanager
    def _start(
        self,
        command: Sequence[str],
        environ: Mapping[str, str] | None,
        limit_s: float,
        stderr: int,
    ) -> Iterator[tuple["subprocess.Popen[bytes]", threading.Event]]:
        """Start a program in its own process group: Ctrl-C reaches edgekit alone, which ends
        the program.

        It inherits the lock, and so protects the folder even if edgekit is killed first.
        """
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C", **(environ or {})},
                pass_fds=(self.lock,),
            )
        except OSError as error:
            raise HostError(
                f"{command[0]} cannot be started: {error.strerror}.",
                fix=f"check that {command[0]} can be run",
            ) from error
        try:
            with deadline(process, limit_s) as expired:
                yield process, expired
        finally:
            kill_group(process)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def host_setup(host: str, progress: Progress) -> Iterator[HostSetup]:
    """Wait for the host's lock, and remove what a killed setup has left."""
    folder = install_dirs.root()
    with install_dirs.translate_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f"{host}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(lock, host, progress)
        install_dirs.remove_partial(folder / host)
        yield HostSetup(host, progress, lock)
    finally:
        os.close(lock)


def _acquire(lock: int, host: str, progress: Progress) -> None:
    deadline = time.monotonic() + PATIENCE_S
    is_waiting = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not is_waiting:
                progress.say(
                    f"waiting for another edgekit that is setting up {host}"
                )
            is_waiting = True
        if time.monotonic() > deadline:
            raise HostError(
                f"Another edgekit has been setting up {host} for {PATIENCE_S / 60:.0f}"
                " minutes.",
                fix="end it, then run the same command again",
            )
        time.sleep(_POLL_S)


def _require_success(
    program: str, code: int, text: str, limit_s: float | None
) -> None:
    """Raise unless a program succeeded; ``limit_s`` is set if it was killed after it."""
    if limit_s is not None:
        raise HostError(
            f"{program} was killed after {limit_s:g} s.",
            fix="check the network, then run the same command again",
        )
    if code == 0:
        return
    if _DISK_FULL.search(text):
        raise install_dirs.disk_full_error()
    raise ProgramFailed(program, code, text)
