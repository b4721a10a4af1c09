"""Copies a file to a device through the worker itself: in blocks, under its hash, and from
where an earlier copy was interrupted.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import BinaryIO

import numpy

from edgekit.errors import RunnerError
from edgekit.hosts import responses
from edgekit.hosts.failures import DamagedFile
from edgekit.hosts.process import WorkerProcess

#: How much of a file is sent at once; each block has the process's own time limit.
BLOCK_BYTES = 1 << 20
#: How often a block may be rejected, in addition to once per block of the file: another
#: edgekit that copies the same file changes its length on the device.
MOST_REJECTIONS = 10


@dataclasses.dataclass(frozen=True)
class _Copy:
    """One file on its way to a host."""

    process: WorkerProcess
    host: str
    stream: BinaryIO
    #: Its name in the host's store.
    name: str
    activity: str


def copy_file(
    process: WorkerProcess,
    path: pathlib.Path,
    host: str,
    say: Callable[[str], None],
) -> str:
    """Copy a file to the host's store and return its name there.

    Returns once the file is complete and has the same hash on both sides. A damaged copy
    is removed, reported with ``say`` and repeated once. Raises RunnerError.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            copy = _Copy(
                process,
                host,
                stream,
                name=f"{digest}{path.suffix}",
                activity=f"copying {path.name} to {host}",
            )
            request = {"command": "have", "name": copy.name}
            reply, _ = process.request(copy.activity, request)
            offset, complete = responses.parse_stored(host, reply)
            if reply.get("damaged"):
                say(
                    f"{path.name} was damaged on {host}; it was removed and is being"
                    " copied again"
                )
            if not complete:
                _send_with_retry(copy, offset, say)
            return copy.name
    except OSError as error:
        raise RunnerError(
            f"{path} cannot be read: {error.strerror}.", fix="build it again"
        ) from error


def _send_with_retry(
    copy: _Copy, offset: int, say: Callable[[str], None]
) -> None:
    try:
        _send_from(copy, offset)
    except DamagedFile as error:
        say(f"{error.message} Copying it once more.")
        _send_from(copy, 0)


def _send_from(copy: _Copy, offset: int) -> None:
    """Send all blocks from ``offset`` on.

    Also terminates if the other side sends invalid replies: the number of blocks that are
    rejected is limited.
    """
    host = copy.host
    total = copy.stream.seek(0, 2)
    rejections = 0
    complete = False
    while not complete:
        if offset > total:
            raise RunnerError(
                f"{host} has {offset} bytes of a file with {total} bytes.",
                fix=f"edgekit hosts clean {host}",
            )
        copy.stream.seek(offset)
        block = numpy.frombuffer(copy.stream.read(BLOCK_BYTES), dtype="uint8")
        request = {
            "command": "put",
            "name": copy.name,
            "offset": offset,
            "total": total,
        }
        reply, _ = copy.process.request(
            copy.activity, request, {"block": block}
        )
        expected = offset + len(block)
        offset, complete = responses.parse_stored(host, reply)
        if offset != expected:
            rejections += 1
        if rejections > MOST_REJECTIONS + total // BLOCK_BYTES:
            raise RunnerError(
                f"{host} does not accept the file while {copy.activity}.",
                fix=f"edgekit hosts clean {host}, then run the same command again",
            )
