"""The folder on a device that contains model files, each named by its hash.

A copy that was interrupted continues where it stopped: an incomplete file has the suffix
``.part``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

from .frames import WorkerError
from .runtimes import list_suffixes

if TYPE_CHECKING:
    from .tensors import Array

#: The folder if none is configured.
DEFAULT_FOLDER = os.path.join("~", ".cache", "edgekit-worker")
#: The errors of a full disk, an exceeded quota, and the largest file size of a file system.
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 1 << 20
_DIGEST = re.compile("[0-9a-f]{64}")


class Store:
    """Files by hash, named ``<sha256>.onnx`` and the like.

    Methods raise WorkerError: ``full`` if there is not enough space, ``damaged`` for a wrong
    hash, ``request`` for an invalid name, else ``store``.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = os.path.expanduser(folder or DEFAULT_FOLDER)
        #: A name is a hash and one of these: no path, nothing special to any shell.
        self._suffixes = list_suffixes()

    def path(self, name: str) -> str:
        """The path of a file, which need not exist. Raises WorkerError for another name."""
        if not isinstance(name, str) or not self._is_valid(name):
            raise WorkerError(
                "request",
                f"invalid file name for the store: {str(name)[:80]!r}",
            )
        return os.path.join(self._folder, name)

    def have(self, name: str) -> tuple[int, bool, bool]:
        """Look a file up: its bytes, whether it is complete, whether a damaged one was removed.

        The hash of a complete file is computed each time: a memory card may have lost data.
        """
        path = self.path(name)
        try:
            if not os.path.isfile(path):
                return _size(path + ".part"), False, False
            if sha256(path) == _digest_of(name):
                return os.path.getsize(path), True, False
            os.unlink(path)
            return _size(path + ".part"), False, True
        except OSError as error:
            raise _translate(error, path) from error

    def put(
        self, name: str, offset: int, block: Array, total: int
    ) -> tuple[int, bool]:
        """Append a block at ``offset``; the bytes stored now, and whether the file is complete.

        A block that does not start at the end of the stored part is not written: the
        returned number is where to continue, also if another edgekit copies the same file.
        With the last of ``total`` bytes the hash is checked and the file gets its name.
        """
        path = self.path(name)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._require_space(total - offset)
            with open(path + ".part", "ab", opener=_open_privately) as stream:
                _lock(stream)
                return self._append(name, stream, offset, block, total)
        except OSError as error:
            raise _translate(error, path) from error

    def _append(
        self, name: str, stream: Any, offset: int, block: Array, total: int
    ) -> tuple[int, bool]:
        """Write to the locked ``.part`` file."""
        path = self.path(name)
        status = os.fstat(stream.fileno())
        # Without links, another edgekit has renamed or removed the file in the meantime.
        is_linked = status.st_nlink > 0
        if os.path.isfile(path):
            if is_linked and status.st_size == 0:
                os.unlink(path + ".part")
            return self.have(name)[:2]
        if not is_linked:
            return 0, False
        if offset != status.st_size:
            return status.st_size, False
        stream.write(block.tobytes())
        stream.flush()
        os.fsync(stream.fileno())
        end = offset + block.nbytes
        if end < total:
            return end, False
        _require_hash(path + ".part", _digest_of(name))
        os.replace(path + ".part", path)
        return total, True

    def clean(self) -> tuple[int, int]:
        """Remove all files of the store; their number and their bytes together."""
        count = 0
        size = 0
        try:
            for entry in self._list():
                count += 1
                size += entry.stat(follow_symlinks=False).st_size
                os.unlink(entry.path)
        except OSError as error:
            raise _translate(error, self._folder) from error
        return count, size

    def _list(self) -> list[os.DirEntry[str]]:
        if not os.path.isdir(self._folder):
            return []
        with os.scandir(self._folder) as entries:
            return [entry for entry in entries if self._is_ours(entry.name)]

    def _is_ours(self, name: str) -> bool:
        if name.endswith(".part"):
            name = name[: -len(".part")]
        return self._is_valid(name)

    def _is_valid(self, name: str) -> bool:
        stem, suffix = os.path.splitext(name)
        return suffix in self._suffixes and _DIGEST.fullmatch(stem) is not None

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise WorkerError(
                "full",
                f"the disk is full: {free} bytes are free in {self._folder}, but the rest of"
                f" the file needs {needed}",
            )


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def _digest_of(name: str) -> str:
    return name.partition(".")[0]


def _require_hash(part: str, expected: str) -> None:
    actual = sha256(part)
    if actual == expected:
        return
    os.unlink(part)
    raise WorkerError(
        "damaged",
        f"the file arrived with the hash {actual}, expected {expected}; it was removed",
    )


def _open_privately(path: str, flags: int) -> int:
    """Open a file for this user only, and never through a symbolic link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _lock(stream: Any) -> None:
    """Allow one writer at a time; on a file system without locks the hash still protects."""
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _translate(error: OSError, path: str) -> WorkerError:
    detail = f"{os.path.basename(path)}: {error.strerror or error}"
    if error.errno in FULL_ERRORS:
        return WorkerError("full", f"not enough space for {detail}")
    return WorkerError("store", detail)
