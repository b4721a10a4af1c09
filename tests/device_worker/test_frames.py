"""What is no frame is refused before memory is taken for it."""

import contextlib
import io
import json
import struct
import tracemalloc
from typing import Any, BinaryIO, cast

import hypothesis
import numpy
import pytest
from hypothesis import strategies

from edgekit.device_worker import frames


def frame(header: Any, payload: bytes = b"") -> bytes:
    """A frame with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + payload


@pytest.mark.parametrize(
    "header",
    [
        [],
        "text",
        {},
        {"arrays": 3},
        {"arrays": [["a", "<f4"]]},
        {"arrays": [["a", "|O", [1]]]},
        {"arrays": [["a", "<U4", [1]]]},
        {"arrays": [["a", "no dtype", [1]]]},
        {"arrays": [["a", ["<f4"], [1]]]},
        {"arrays": [["a", "<f4", [-1]]]},
        {"arrays": [["a", "<f4", [1.5]]]},
        {"arrays": [["a", "<f4", [True]]]},
        {"arrays": [["a", "<f4", "1"]]},
        {"arrays": [["a", "<f4", [1] * 33]]},
        {"arrays": [[["a"], "<f4", [1]]]},
        {"arrays": [["a", "<f4", [1 << 60, 1 << 60]]]},
        {"arrays": [["a", "<f4", [0, 1 << 62, 1 << 62]]]},
    ],
)
def test_a_wrong_header_is_refused(header: Any) -> None:
    """Other kinds of values, dtypes that are no numbers, and sizes that nobody has are
    ValueErrors, not crashes.
    """
    with pytest.raises(ValueError, match="."):
        frames.read_frame(io.BytesIO(frame(header, bytes(64))))


def test_deep_nesting_is_refused() -> None:
    """A header of 100,000 brackets is refused."""
    text = b"[" * 100_000
    with pytest.raises(ValueError, match="."):
        frames.read_frame(io.BytesIO(struct.pack("<I", len(text)) + text))


@hypothesis.given(strategies.binary(max_size=200))
def test_noise_is_never_more_than_an_error(noise: bytes) -> None:
    """Any bytes are a frame, an EOFError or a ValueError."""
    with contextlib.suppress(EOFError, ValueError):
        frames.read_frame(io.BytesIO(noise))


def test_more_than_is_expected_is_refused() -> None:
    """Arrays of more bytes than the reader expects are refused; exactly as many are read."""
    stream = io.BytesIO()
    frames.write_frame(
        stream, {}, {"a": numpy.ones(5, "float32"), "b": numpy.ones(5, "int8")}
    )
    with pytest.raises(ValueError, match="at most 24 bytes, got 25"):
        frames.read_frame(io.BytesIO(stream.getvalue()), 24)
    assert list(frames.read_frame(io.BytesIO(stream.getvalue()), 25)[1]) == [
        "a",
        "b",
    ]


def test_memory_is_taken_as_bytes_arrive() -> None:
    """3 GB that are announced and do not come take a few megabytes."""
    stream = cast(
        BinaryIO,
        io.BufferedReader(
            io.BytesIO(
                frame({"arrays": [["a", "|u1", [3_000_000_000]]]}, bytes(1000))
            )
        ),
    )  # type: ignore[arg-type]
    tracemalloc.start()
    with pytest.raises(EOFError):
        frames.read_frame(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
