"""Frames: how the worker and whoever started it talk over a pipe. Standard library and numpy only.

4 bytes   length of the header, little-endian
header    JSON; ``arrays`` lists [name, dtype, shape] of what follows
payload   the arrays' bytes, in that order, C order
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    #: A header and the arrays that follow it.
    Reply = tuple[dict[str, Any], dict[str, Array]]

#: A longer header is no header but noise on the pipe.
LARGEST_HEADER = 1 << 24


class WorkerError(Exception):
    """A failure that is answered as a frame."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_frame(stream: BinaryIO, header: dict[str, Any], arrays: dict[str, Array] | None = None) -> None:
    """Send one frame."""
    blocks = {name: numpy.ascontiguousarray(array).reshape(numpy.shape(array)) for name, array in (arrays or {}).items()}
    listing = [[name, block.dtype.str, list(block.shape)] for name, block in blocks.items()]
    text = json.dumps({**header, "arrays": listing}).encode()
    stream.write(struct.pack("<I", len(text)))
    stream.write(text)
    for block in blocks.values():
        stream.write(block.reshape(-1).view("uint8").data)
    stream.flush()


def read_frame(stream: BinaryIO) -> Reply:
    """Receive one frame. Raises EOFError where the other side has ended, ValueError where the bytes are no frame."""
    (length,) = struct.unpack("<I", _exactly(stream, 4))
    if length > LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes is no frame")
    header = json.loads(_exactly(stream, length).decode())
    arrays = {}
    for name, dtype, shape in header.pop("arrays"):
        count = int(numpy.prod(shape, dtype="int64"))
        block = _exactly(stream, count * numpy.dtype(dtype).itemsize)
        arrays[name] = numpy.frombuffer(block, dtype=dtype, count=count).reshape(shape)
    return header, arrays


def _exactly(stream: BinaryIO, count: int) -> bytes:
    block = stream.read(count)
    if len(block) < count:
        raise EOFError
    return block
