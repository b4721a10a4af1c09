"""Ends programs that we have started: each is in a process group of its own, which Ctrl-C
does not reach.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a program that still runs, and what it has started: a child of it holds our pipes
    open as long as it lives.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def deadline(
    process: "subprocess.Popen[bytes]", limit_s: float
) -> Iterator[threading.Event]:
    """Kill the program after ``limit_s`` seconds, which ends every wait for it; the event
    tells whether this was done.
    """
    late = threading.Event()

    def expire() -> None:
        late.set()
        kill(process)

    watch = threading.Timer(limit_s, expire)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()
        watch.join()
