"""Frames: the protocol between a worker and the process that started it, over a pipe.

Standard library and numpy only. A frame consists of

4 bytes   length of the header, little-endian
header    JSON; ``arrays`` lists [name, dtype, shape] of the arrays that follow
payload   the arrays' bytes, in that order, C order

The input may be noise or come from a broken machine, so it is not trusted: sizes are
compared with the expected size before anything is read, memory is allocated only as bytes
arrive, and only the dtypes of a fixed list are accepted.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy

if TYPE_CHECKING:
    from .tensors import Array, Reply

#: A longer header is noise on the pipe.
LARGEST_HEADER = 1 << 24
#: The most bytes of a frame's arrays if the reader does not know the exact number.
LARGEST_PAYLOAD = 1 << 32
#: The most axes that numpy allows (64 since numpy 2).
MOST_AXES = 32
#: The accepted dtypes, as numpy writes them: booleans and numbers; no objects and no text.
DTYPES = frozenset(
    (
        "|b1",
        "|i1",
        "|u1",
        "<i2",
        "<u2",
        "<i4",
        "<u4",
        "<i8",
        "<u8",
        "<f2",
        "<f4",
        "<f8",
    )
)
_BLOCK_BYTES = 1 << 20


class WorkerError(Exception):
    """A failure that is reported to the other side as a frame."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_frame(
    stream: BinaryIO,
    header: dict[str, Any],
    arrays: dict[str, Array] | None = None,
) -> None:
    """Send one frame."""
    # ascontiguousarray turns a 0-d array into one of one axis; reshape undoes that.
    blocks = {
        name: numpy.ascontiguousarray(array).reshape(numpy.shape(array))
        for name, array in (arrays or {}).items()
    }
    listing = [
        [name, block.dtype.str, list(block.shape)]
        for name, block in blocks.items()
    ]
    text = json.dumps({**header, "arrays": listing}).encode()
    stream.write(struct.pack("<I", len(text)))
    stream.write(text)
    for block in blocks.values():
        stream.write(block.reshape(-1).view("uint8").data)
    stream.flush()


def read_frame(stream: BinaryIO, largest: int = LARGEST_PAYLOAD) -> Reply:
    """Receive one frame whose arrays have at most ``largest`` bytes together.

    Raises EOFError if the other side has closed the stream, ValueError for an invalid frame.
    """
    header = _read_header(stream)
    listing = header.pop("arrays", None)
    if not isinstance(listing, list):
        raise ValueError("invalid frame: the header does not list its arrays")
    sizes = [_payload_size(row) for row in listing]
    total = sum(sizes)
    if total > largest:
        raise ValueError(
            f"invalid frame: expected arrays of at most {largest} bytes, got {total}"
        )
    arrays: dict[str, Array] = {}
    for (name, dtype, shape), size in zip(listing, sizes):
        payload = _read_exactly(stream, size)
        arrays[name] = numpy.frombuffer(payload, dtype=dtype).reshape(shape)
    return header, arrays


def _read_header(stream: BinaryIO) -> dict[str, Any]:
    (length,) = struct.unpack("<I", _read_exactly(stream, 4))
    if length > LARGEST_HEADER:
        raise ValueError(
            f"invalid frame: a header of {length} bytes is too long"
        )
    try:
        header = json.loads(_read_exactly(stream, length).decode())
    except RecursionError:
        raise ValueError(
            "invalid frame: the header is nested too deeply"
        ) from None
    if not isinstance(header, dict):
        raise ValueError("invalid frame: the header is not a JSON object")
    return header


def _payload_size(row: Any) -> int:
    """The number of bytes that one row of the listing announces."""
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError(
            "invalid frame: expected [name, dtype, shape] for each array"
        )
    name, dtype, shape = row
    if not isinstance(name, str) or not isinstance(shape, list):
        raise ValueError(
            "invalid frame: expected [name, dtype, shape] for each array"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"invalid frame: unknown dtype {str(dtype)[:40]!r}")
    if len(shape) > MOST_AXES or not all(
        type(dim) is int and dim >= 0 for dim in shape
    ):
        raise ValueError(f"invalid frame: {str(shape)[:80]} is not a shape")
    return math.prod(shape) * numpy.dtype(dtype).itemsize


def _read_exactly(stream: BinaryIO, count: int) -> bytearray:
    """Read ``count`` bytes; memory is allocated as they arrive, not as they are announced."""
    content = bytearray()
    while len(content) < count:
        block = stream.read(min(count - len(content), _BLOCK_BYTES))
        if not block:
            raise EOFError
        content += block
    return content
