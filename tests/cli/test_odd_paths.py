"""File names are never interpreted as options or commands."""

import pathlib
import subprocess
import sys

import pytest

from tests.device_worker.test_worker import graph

EVIL = [
    "-oX;touch CANARY",
    "--help",
    "a'b\"c;touch CANARY;'",
    "a$(touch CANARY)`touch CANARY`",
    "a b\ntouch CANARY\n",
    "|touch CANARY|",
    "-c",
]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_inspect_accepts_any_name(
    tmp_path: pathlib.Path, evil: str, ending: str
) -> None:
    """An ONNX file with such a name is read; random bytes are an error; nothing is run."""
    folder = tmp_path / evil
    folder.mkdir()
    path = folder / f"{evil}.{ending}"
    if ending == "onnx":
        pathlib.Path(graph(tmp_path / "good.onnx", "batch")).rename(path)
    else:
        path.write_bytes(b"noise" * 100)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "inspect", "--", path.name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (0 if ending == "onnx" else 1), done.stderr
    assert "Traceback" not in done.stderr
    created = set(tmp_path.rglob("*CANARY*")) - {folder, path}
    assert created == set()
