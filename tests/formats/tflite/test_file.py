"""LiteRT must load a file that was just written."""

import pathlib

import pytest

from edgekit.errors import StepError
from edgekit.formats.tflite import interpreter as litert


def test_a_file_that_the_runtime_cannot_load_is_reported(
    tmp_path: pathlib.Path,
) -> None:
    """LiteRT runs in another process: a rejection and a crash are both one error."""
    path = tmp_path / "main.tflite"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(
        StepError,
        match=r"main.tflite: LiteRT (rejects the file|crashes).* on loading",
    ):
        litert.require_loadable(path)
