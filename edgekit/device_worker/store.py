"""The folder on a device where model files lie, each under its own hash; a copy that was
cut off goes on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

from .frames import WorkerError

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: ``<sha256>.onnx``: no path, nothing that a shell or a file system could read as anything
#: else.
NAME = re.compile(r"[0-9a-f]{64}\.(onnx|ort|tflite|engine)")
#: The folder where none is named.
DEFAULT = os.path.join("~", ".cache", "edgekit-worker")
#: What a system says where there is no room: the disk, the user's quota, the largest file
#: that it takes.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK = 1 << 20


class Store:
    """Files by hash.

    Methods raise WorkerError: ``full`` where there is no room, ``damaged`` for a wrong
    hash, else ``store``.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = os.path.expanduser(folder or DEFAULT)

    def path(self, name: str) -> str:
        """Where a file lies, or would lie.

        A name that is no hash with a known ending is refused.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise WorkerError(
                "request", f"{str(name)[:80]!r} is no name of a file in the store"
            )
        return os.path.join(self._folder, name)

    def have(self, name: str) -> tuple[int, bool, bool]:
        """How many bytes of a file are here, whether it is whole, and whether a damaged one
        was found and removed.

        A whole file's hash is taken anew each time: a memory card may have lost some of it.
        """
        path, damaged = self.path(name), False
        try:
            if os.path.isfile(path):
                if sha256(path) == name.partition(".")[0]:
                    return os.path.getsize(path), True, False
                os.unlink(path)
                damaged = True
            return _bytes(path + ".part"), False, damaged
        except OSError as error:
            raise _told(error, path) from error

    def put(self, name: str, offset: int, block: Array, whole: int) -> tuple[int, bool]:
        """Add a block at ``offset``: how many bytes are here now, and whether the file is
        whole.

        A block that does not begin where the file ends here is not taken: the answer tells
        where to go on, as it does where another edgekit copies the same file. With the last
        of ``whole`` bytes the hash is compared and the file gets its name.
        """
        path = self.path(name)
        part = path + ".part"
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
            if free < whole - offset:
                raise WorkerError(
                    "full",
                    f"the disk is full: {free} bytes are free in {self._folder}, and {whole - offset} are missing of the file",
                )
            with open(part, "ab", opener=_no_link) as stream:
                _lock(stream)
                now = os.fstat(stream.fileno())
                if os.path.isfile(path):
                    if now.st_nlink and not now.st_size:
                        os.unlink(part)
                    return self.have(name)[:2]
                there = (
                    now.st_size if now.st_nlink else 0
                )  # Another edgekit may have removed it as damaged meanwhile.
                if offset != there or not now.st_nlink:
                    return there, False
                stream.write(block.tobytes())
                stream.flush()
                os.fsync(stream.fileno())
                if offset + block.nbytes < whole:
                    return offset + block.nbytes, False
                found = sha256(part)
                if found != name.partition(".")[0]:
                    os.unlink(part)
                    raise WorkerError(
                        "damaged",
                        f"the file arrived with the hash {found}, not {name.partition('.')[0]}; it was removed again",
                    )
                os.replace(part, path)
            return whole, True
        except OSError as error:
            raise _told(error, path) from error

    def clean(self) -> tuple[int, int]:
        """Remove every file of the store: how many, and how many bytes."""
        count = size = 0
        try:
            for entry in os.scandir(self._folder) if os.path.isdir(self._folder) else ():
                if NAME.fullmatch(
                    entry.name[: -len(".part")]
                    if entry.name.endswith(".part")
                    else entry.name
                ):
                    count, size = (
                        count + 1,
                        size + entry.stat(follow_symlinks=False).st_size,
                    )
                    os.unlink(entry.path)
        except OSError as error:
            raise _told(error, self._folder) from error
        return count, size


def _no_link(path: str, flags: int) -> int:
    """Open a file for this user alone, and never through a link that somebody else has laid
    there.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _lock(stream: Any) -> None:
    """One writer at a time; where a file system has no locks the hash still tells."""
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass


def _bytes(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def sha256(path: str) -> str:
    """The hash of a file, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            found.update(block)
    return found.hexdigest()


def _told(error: OSError, path: str) -> WorkerError:
    what = f"{os.path.basename(path)}: {error.strerror or error}"
    return (
        WorkerError("full", f"there is no room for {what}")
        if error.errno in NO_ROOM
        else WorkerError("store", what)
    )
