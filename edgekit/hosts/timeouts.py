"""Ends the programs that edgekit starts.

Each runs in its own process group, which Ctrl-C does not reach.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a running program and its children, which would keep our pipes open."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def deadline(
    process: "subprocess.Popen[bytes]", limit_s: float
) -> Iterator[threading.Event]:
    """Kill the program after ``limit_s`` seconds, which ends every wait for it.

    The event is set if that happened.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill_group(process)

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()
