"""Brings a file to a device through the worker itself: in blocks, under its hash, and on
from where an earlier copy was cut off.
"""

import hashlib
import pathlib
from collections.abc import Callable
from typing import BinaryIO

import numpy

from edgekit.errors import RunnerError
from edgekit.hosts import responses as replies
from edgekit.hosts.failures import Damaged
from edgekit.hosts.process import WorkerProcess

#: How much of a file is sent at once; each block is answered in the process's own time
#: limit.
BLOCK_BYTES = 1 << 20
#: A block may be refused this often, and once more for each block of the file, because it
#: has another length over there: another edgekit copies it too.
REFUSALS = 10


def send(
    process: WorkerProcess, path: pathlib.Path, host: str, say: Callable[[str], None]
) -> str:
    """The file's name in the host's store, once all of it is there and its hash is the same
    there and here.

    A copy that was damaged, on the way or on the disk over there, is removed, told with
    ``say`` and made once more.
    """
    try:
        with path.open("rb") as stream:
            whole = hashlib.file_digest(stream, "sha256").hexdigest()
            name, doing = f"{whole}{path.suffix}", f"copying {path.name} to {host}"
            reply, _ = process.ask(doing, {"command": "have", "name": name})
            there, done = replies.stored(host, reply)
            if reply.get("damaged"):
                say(
                    f"{path.name} was damaged on {host}; it was removed and is copied again"
                )
            if done:
                return name
            try:
                _send(process, stream, (name, doing, host), there)
            except Damaged as damaged:
                say(f"{damaged.message} It is copied once more.")
                _send(process, stream, (name, doing, host), 0)
            return name
    except OSError as problem:
        raise RunnerError(
            f"{path} cannot be read: {problem.strerror}.", fix="build it again"
        ) from problem


def _send(
    process: WorkerProcess, stream: BinaryIO, words: tuple[str, str, str], there: int
) -> None:
    """All blocks from ``there`` on.

    Ends also where the other side answers nonsense: each round brings it further, or is one
    of few.
    """
    name, doing, host = words
    size, done, refused = stream.seek(0, 2), False, 0
    while not done:
        if there > size:
            raise RunnerError(
                f"{host} has {there} bytes of a file that has {size} here.",
                fix=f"edgekit hosts clean {host}",
            )
        stream.seek(there)
        block = numpy.frombuffer(stream.read(BLOCK_BYTES), dtype="uint8")
        reply, _ = process.ask(
            doing,
            {"command": "put", "name": name, "offset": there, "total": size},
            {"block": block},
        )
        before = there
        there, done = replies.stored(host, reply)
        refused += there != before + len(block)
        if refused > REFUSALS + size // BLOCK_BYTES:
            raise RunnerError(
                f"{host} does not take the file while {doing}.",
                fix=f"edgekit hosts clean {host}, then run the same command again",
            )
