"""The folder on a device where model files lie, each under its own hash; a copy that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

from .frames import WorkerError

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: ``<sha256>.onnx``: no path, nothing that a shell or a file system could read as anything else.
NAME = re.compile(r"[0-9a-f]{64}\.(onnx|ort|tflite|engine)")
#: The folder where none is named.
DEFAULT = os.path.join("~", ".cache", "edgekit-onboard")  # noqa: PTH118
_BLOCK = 1 << 20


class Store:
    """Files by hash. Every method raises WorkerError of the kind ``store`` with what the system says."""

    def __init__(self, folder: str = "") -> None:
        self._folder = os.path.expanduser(folder or DEFAULT)  # noqa: PTH111

    def path(self, name: str) -> str:
        """Where a file lies, or would lie. A name that is no hash with a known ending is refused."""
        if not NAME.fullmatch(name):
            raise WorkerError("request", f"{name[:80]!r} is no name of a file in the store")
        return os.path.join(self._folder, name)  # noqa: PTH118

    def have(self, name: str) -> tuple[int, bool]:
        """How many bytes of a file are here, and whether it is whole: its hash is taken anew each time."""
        path = self.path(name)
        try:
            if os.path.isfile(path):  # noqa: PTH113
                if _sha256(path) == name.partition(".")[0]:
                    return os.path.getsize(path), True  # noqa: PTH202
                os.unlink(path)  # noqa: PTH108
            part = path + ".part"
            return (os.path.getsize(part), False) if os.path.isfile(part) else (0, False)  # noqa: PTH113, PTH202
        except OSError as error:
            raise _told(error, path) from error

    def put(self, name: str, offset: int, block: Array, whole: int) -> tuple[int, bool]:
        """Add a block at ``offset``; with the last one of ``whole`` bytes the hash is compared and the file gets its name."""
        path = self.path(name)
        part = path + ".part"
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)  # noqa: PTH103
            there = os.path.getsize(part) if os.path.isfile(part) else 0  # noqa: PTH113, PTH202
            if offset != there:
                raise WorkerError("store", f"{there} bytes of {name} are here, and the block begins at {offset}")
            free = shutil.disk_usage(self._folder).free
            if free < whole - offset:
                raise WorkerError("store", f"the disk is full: {free} bytes are free in {self._folder}, and {whole - offset} are missing of the file")
            with open(part, "ab") as stream:  # noqa: PTH123
                stream.write(block.tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            if offset + block.nbytes < whole:
                return offset + block.nbytes, False
            found = _sha256(part)
            if found != name.partition(".")[0]:
                os.unlink(part)  # noqa: PTH108
                raise WorkerError("store", f"the file arrived with the hash {found}, not {name.partition('.')[0]}; it was removed again")
            os.replace(part, path)  # noqa: PTH105
            return whole, True
        except OSError as error:
            raise _told(error, path) from error

    def clean(self) -> tuple[int, int]:
        """Remove every file of the store: how many, and how many bytes."""
        count = size = 0
        try:
            for entry in os.scandir(self._folder) if os.path.isdir(self._folder) else ():  # noqa: PTH112
                if NAME.fullmatch(entry.name[: -len(".part")] if entry.name.endswith(".part") else entry.name):
                    count, size = count + 1, size + entry.stat().st_size
                    os.unlink(entry.path)  # noqa: PTH108
        except OSError as error:
            raise _told(error, self._folder) from error
        return count, size


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as stream:  # noqa: PTH123
        for block in iter(lambda: stream.read(_BLOCK), b""):
            found.update(block)
    return found.hexdigest()


def _told(error: OSError, path: str) -> WorkerError:
    return WorkerError("store", f"{os.path.basename(path)}: {error.strerror or error}")  # noqa: PTH119
