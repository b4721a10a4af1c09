"""Frames: how the worker and whoever started it talk over a pipe.

Standard library and numpy only.

4 bytes   length of the header, little-endian
header    JSON; ``arrays`` lists [name, dtype, shape] of what follows
payload   the arrays' bytes, in that order, C order

What is read may be noise, or come from a machine that is broken: nothing is believed. Sizes
are compared with what is expected before anything is read, memory is taken only as bytes
arrive, and dtypes are those of a fixed list.
"""

from __future__ import annotations

import json
import math
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
#: The most bytes that the arrays of a frame may have where the reader expects no certain
#: number.
LARGEST_PAYLOAD = 1 << 32
#: numpy allows no more axes (64 since numpy 2).
MOST_AXES = 32
#: How an array's numbers may be stored, as numpy writes it; no objects, no text, nothing
#: that is more than numbers.
DTYPES = frozenset(
    ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
)
_BLOCK = 1 << 20


class WorkerError(Exception):
    """A failure that is answered as a frame."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_frame(
    stream: BinaryIO, header: dict[str, Any], arrays: dict[str, Array] | None = None
) -> None:
    """Send one frame."""
    blocks = {
        name: numpy.ascontiguousarray(array).reshape(numpy.shape(array))
        for name, array in (arrays or {}).items()
    }
    listing = [[name, block.dtype.str, list(block.shape)] for name, block in blocks.items()]
    text = json.dumps({**header, "arrays": listing}).encode()
    stream.write(struct.pack("<I", len(text)))
    stream.write(text)
    for block in blocks.values():
        stream.write(block.reshape(-1).view("uint8").data)
    stream.flush()


def read_frame(stream: BinaryIO, largest: int = LARGEST_PAYLOAD) -> Reply:
    """Receive one frame whose arrays have at most ``largest`` bytes together.

    Raises EOFError where the other side has ended, ValueError where the bytes are no frame.
    """
    (length,) = struct.unpack("<I", _exactly(stream, 4))
    if length > LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes is no frame")
    try:
        header = json.loads(_exactly(stream, length).decode())
    except RecursionError:
        raise ValueError("the header is nested too deep") from None
    listing = header.pop("arrays", None) if isinstance(header, dict) else None
    if not isinstance(listing, list):
        raise ValueError("the header is no frame's")
    sizes = [_size(row) for row in listing]
    if sum(sizes) > largest:
        raise ValueError(
            f"arrays of {sum(sizes)} bytes are announced where at most {largest} are expected"
        )
    arrays: dict[str, Array] = {}
    for (name, dtype, shape), size in zip(listing, sizes):
        arrays[name] = numpy.frombuffer(_exactly(stream, size), dtype=dtype).reshape(shape)
    return header, arrays


def _size(row: Any) -> int:
    """How many bytes one row of a header's listing announces."""
    if (
        not isinstance(row, list)
        or len(row) != 3
        or not isinstance(row[0], str)
        or not isinstance(row[2], list)
    ):
        raise ValueError("the listing of the arrays is no frame's")
    _, dtype, shape = row
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{str(dtype)[:40]!r} is no dtype of a frame")
    if len(shape) > MOST_AXES or not all(type(dim) is int and dim >= 0 for dim in shape):
        raise ValueError(f"{str(shape)[:80]} is no shape")
    return math.prod(shape) * numpy.dtype(dtype).itemsize


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    """``count`` bytes; memory is taken as they arrive, not as they are announced."""
    found = bytearray()
    while len(found) < count:
        block = stream.read(min(count - len(found), _BLOCK))
        if not block:
            raise EOFError
        found += block
    return found
