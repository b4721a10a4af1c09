"""An environment that has only the core dependencies: edgekit plans there, and says what is
missing.
"""

import os
import pathlib
import subprocess
import sys

import pytest

HIDDEN = (
    "torch",
    "torchao",
    "torch_pruning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "litert_torch",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "tensorrt",
    "tensorrt_rtx",
    "sklearn",
    "scipy",
    "safetensors",
    "jax",
    "transformers",
)
#: Put first on sys.meta_path: to every import these packages are not installed.
HOOK = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Hidden())
"""


def edgekit(
    folder: pathlib.Path, root: pathlib.Path, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m edgekit` where every framework is hidden from imports."""
    (folder / "sitecustomize.py").write_text(HOOK)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{root}",
        "COLUMNS": "200",
    }
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=environment,
    )


def test_the_frameworks_are_really_hidden(tmp_path: pathlib.Path) -> None:
    """The hook does what these tests rely on."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import onnx"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert "No module named 'onnx'" in done.stderr


def test_a_plan_lists_everything_that_is_missing(
    tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    """With the core alone, `edgekit plan` names each missing package and the command that
    installs it, and shows no traceback.
    """
    done = edgekit(tmp_path, root, "plan", "recipes/digits.yaml")
    said = done.stdout + done.stderr
    for package in (
        "torch",
        "torchao",
        "torch_pruning",
        "onnx",
        "onnxruntime",
        "litert_torch",
        "ai_edge_litert",
        "sklearn",
        "tensorrt_rtx or tensorrt",
    ):
        assert package in said, package
    for extra in ("torch", "prune", "onnx", "tflite", "tensorrt-rtx"):
        assert f"pip install 'edgekit[{extra}]'" in said
    assert "Traceback" not in said
    assert done.returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("targets",),
        ("hosts",),
        ("recipes",),
        ("models",),
        ("schemes",),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_the_lists_and_the_doctor_work_with_the_core_alone(
    tmp_path: pathlib.Path, root: pathlib.Path, words: tuple[str, ...]
) -> None:
    """No list needs a framework, nor does the command that says what is missing."""
    done = edgekit(tmp_path, root, *words)
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
    assert done.returncode in (0, 1)


def test_a_run_stops_before_any_work(
    tmp_path: pathlib.Path, root: pathlib.Path
) -> None:
    """`edgekit run` with packages missing tells them all and exits with 1; nothing is
    written.
    """
    done = edgekit(
        tmp_path,
        root,
        "run",
        "recipes/digits.yaml",
        "--out",
        str(tmp_path / "out"),
    )
    assert done.returncode == 1
    assert "pip install 'edgekit[onnx]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "report.json").exists()
