"""What is asked of a TFLite file that was just made."""

import pathlib

import pytest

from edgekit.errors import StepError
from edgekit.formats.tflite import file as tflite_file


def test_a_file_that_the_runtime_cannot_load_is_told(tmp_path: pathlib.Path) -> None:
    """LiteRT is asked in a process of its own: a refusal and a crash are one sentence."""
    path = tmp_path / "main.tflite"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(
        StepError,
        match=r"main.tflite: LiteRT (refuses it|crashes).* while it loads the file",
    ):
        tflite_file.require_loadable(path)
