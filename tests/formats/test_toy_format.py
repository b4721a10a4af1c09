"""A format is one folder, one name, one loader and one target: a copy of edgekit with those
that CONTRIBUTING.md shows runs a network to a verified bundle in it.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

#: The file of each code block of the document, by its first line.
FILES = {
    '"""Linear classifiers in NumPy\'s .npz files."""': "edgekit/formats/npz/format.py",
    '"""PyTorch to .npz: ': "edgekit/formats/npz/export.py",
    '"""What NumPy executes of an .npz file': "edgekit/formats/npz/audit.py",
    '"""Linear classifiers in .npz files, in NumPy."""': (
        "edgekit/device_worker/runtime_npz.py"
    ),
    "title: NumPy on this machine": "targets/cpu-npz.yaml",
}
NETWORK = '''"""A linear classifier for the points of edgekit.testing.tiny_task."""

import torch


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(8, 3)
'''
RECIPE = """title: A linear classifier
model: net.py:model
task: edgekit.testing:tiny_task
compress:
  - train: {epochs: 20}
  - quantize: {scheme: auto}
gates: {accuracy_drop: 0.05, speedup: 0.5}
targets: [cpu-npz]
"""


def copy_with_the_format(root: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy edgekit and write what the document shows into the copy."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("edgekit", "recipes", "targets", "hosts"):
        shutil.copytree(root / name, folder / name, ignore=ignore)
    document = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^```(?:python|yaml)\n(.*?)^```", document, re.MULTILINE | re.DOTALL
    )
    (folder / "edgekit/formats/npz").mkdir()
    (folder / "edgekit/formats/npz/__init__.py").write_text(
        '"""NumPy files."""\n'
    )
    for beginning, name in FILES.items():
        (block,) = [text for text in blocks if text.startswith(beginning)]
        (folder / name).write_text(block, encoding="utf-8")
    formats = folder / "edgekit/formats/__init__.py"
    text = formats.read_text(encoding="utf-8")
    assert text.count("NAMES = (") == 1
    formats.write_text(
        text.replace("NAMES = (", 'NAMES = ("npz", '), encoding="utf-8"
    )
    (folder / "net.py").write_text(NETWORK)
    (folder / "linear.yaml").write_text(RECIPE)


def run(folder: pathlib.Path, *words: str) -> str:
    """The standard output of a command of the copy, which must succeed."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "EDGEKIT_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_new_format_runs_from_plan_to_bundle(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Planned, built, audited, verified, timed, shipped; inspected and verified again, also
    by the bundle's own program.
    """
    copy_with_the_format(root, tmp_path)
    edgekit = ("-m", "edgekit")
    assert "torch_to_npz" in run(tmp_path, *edgekit, "plan", "linear.yaml")
    run(tmp_path, *edgekit, "run", "linear.yaml", "--out", "out")
    report = json.loads(
        (tmp_path / "out/report.json").read_text(encoding="utf-8")
    )
    (target,) = report["targets"]
    assert (report["verdict"], target["format"]) == ("pass", "npz")
    candidates = {row["scheme"]: row for row in target["candidates"]}
    assert {candidates[name]["status"] for name in ("float", "fp16")} == {
        "raced"
    }
    sizes = [
        candidates[name]["artifact"]["files"][0]["bytes"]
        for name in ("float", "fp16")
    ]
    assert sizes[1] < sizes[0]
    names = {row["name"] for row in candidates["float"]["measurements"]}
    assert {
        "int8_mac_share",
        "parity",
        "accuracy",
        "latency_ms",
        "size_bytes",
    } <= names
    audit = json.loads(
        run(tmp_path, *edgekit, "inspect", "out/cpu-npz/main.npz", "--json")
    )
    assert (audit["format"], audit["rows"][0]["macs"]) == ("npz", 24)
    run(tmp_path, *edgekit, "verify", "out/cpu-npz")
    assert "verdict: pass" in run(tmp_path, "out/cpu-npz/verify.py")
