"""What a setup works with: the host's lock, other programs that end in time, and a word to
the user about each stage.
"""

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
from edgekit.hosts import install_dirs as places
from edgekit.hosts import timeouts as ending
from edgekit.progress import Progress

#: The longest that one program may take: hundreds of megabytes over a slow line.
LIMIT_S = 1200.0
#: How long a setup waits for another one of the same host.
PATIENCE_S = 2 * LIMIT_S
#: How much of a failed program's words is told.
LAST_LINES, LONGEST = 12, 1500
_FULL = re.compile(r"No space left on device|enough free space|Disk quota exceeded")


class Failed(Exception):
    """A program ended with an error; ``text`` is what it has printed."""

    def __init__(self, program: str, code: int, text: str) -> None:
        super().__init__(f"{program} ended with {code}")
        self.text = text

    def tail(self) -> str:
        """Its last words."""
        return "\n".join(line for line in self.text.splitlines()[-LAST_LINES:])[
            -LONGEST:
        ].strip()


@dataclasses.dataclass(frozen=True)
class Workshop:
    """One setup of one host, alone at its work."""

    host: str
    progress: Progress
    lock: int

    def run(
        self,
        words: Sequence[str],
        environ: Mapping[str, str] | None = None,
        seen: Callable[[str], None] | None = None,
        limit_s: float = LIMIT_S,
    ) -> str:
        """Run a program to its end and give what it printed, line by line also to ``seen``.

        Raises Failed where it ends with an error, HostError where it cannot be started,
        takes too long or finds the disk full.
        """
        lines: list[str] = []
        with self._started(words, environ, limit_s, subprocess.STDOUT) as (process, late):
            assert process.stdout is not None
            for raw in process.stdout:
                lines.append(raw.decode(errors="replace"))
                if seen is not None:
                    seen(lines[-1])
            code = process.wait()
        return _judged(words[0], code, "".join(lines), limit_s if late.is_set() else None)

    @contextlib.contextmanager
    def reading(
        self, words: Sequence[str], limit_s: float = LIMIT_S
    ) -> Iterator[IO[bytes]]:
        """A program's output as a stream.

        What it says of errors is not kept; the same errors as ``run``.
        """
        with self._started(words, None, limit_s, subprocess.DEVNULL) as (process, late):
            assert process.stdout is not None
            yield process.stdout
            for _ in iter(lambda: process.stdout and process.stdout.read(1 << 20), b""):
                pass
            code = process.wait()
        _judged(words[0], code, "", limit_s if late.is_set() else None)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell that a part of the work goes on, and when it is done."""
        self.progress.start(f"{self.host}: {name}")
        yield
        self.progress.finish()

    @contextlib.contextmanager
    def _started(
        self,
        words: Sequence[str],
        environ: Mapping[str, str] | None,
        limit_s: float,
        errors: int,
    ) -> Iterator[tuple["subprocess.Popen[bytes]", threading.Event]]:
        """A process group of its own: Ctrl-C reaches edgekit alone, which ends it. It holds
        the lock too, and so keeps the folder to itself also where edgekit is killed
        before it.
        """
        given = {**os.environ, "LC_ALL": "C", **(environ or {})}
        try:
            process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=given,
                pass_fds=(self.lock,),
            )
        except OSError as problem:
            raise HostError(
                f"{words[0]} cannot be started: {problem.strerror}.",
                fix=f"check that {words[0]} can be run",
            ) from problem

        try:
            with ending.deadline(process, limit_s) as late:
                yield process, late
        finally:
            ending.kill(process)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def workshop(host: str, progress: Progress) -> Iterator[Workshop]:
    """Wait until no other setup of this host is at work, remove what a killed one has left,
    and work alone.
    """
    folder = places.root()
    with places.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f"{host}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(lock, host, progress)
        places.sweep(folder / host)
        yield Workshop(host, progress, lock)
    finally:
        os.close(lock)


def _wait(lock: int, host: str, progress: Progress) -> None:
    until, said = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not said:
                progress.say(f"another edgekit is setting up {host}; waiting for it")
            said = True
        if time.monotonic() > until:
            raise HostError(
                f"Another edgekit has been setting up {host} for {PATIENCE_S / 60:.0f} minutes.",
                fix="end it, then run the same command again",
            )
        time.sleep(0.2)


def _judged(program: str, code: int, text: str, limit_s: float | None) -> str:
    if limit_s is not None:
        raise HostError(
            f"{program} was ended: it took longer than {limit_s:g} s.",
            fix="check the network, then run the same command again",
        )
    if code and _FULL.search(text):
        raise places.disk_full()
    if code:
        raise Failed(program, code, text)
    return text
