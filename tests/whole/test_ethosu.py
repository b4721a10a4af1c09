"""A small network on the way to an Ethos-U, through the command line: trained, quantized,
compiled by Vela, judged by its estimates.
"""

import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("ethosu.vela", reason="needs edgekit[ethosu]")
pytestmark = pytest.mark.slow

NET = """
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.point = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        x = F.relu6(self.point(F.relu6(self.depthwise(F.relu(self.stem(image))))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def model():
    return Net()
"""
RECIPE = """
title: Train and quantize
model: net.py:model
task: digits
compress:
  - train: {epochs: 25, learning_rate: 0.02, batch_size: 32}
  - quantize: {scheme: w8a8-static, samples: 64}
targets: [ethos-u55-256]
gates: {accuracy_drop: 0.1, npu_time_ms: 1.0, cpu_ops: 0, sram_bytes: 65536, int8_mac_share: 1.0}
"""


def run(
    folder: pathlib.Path, *words: str
) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "run",
        "recipe.yaml",
        "--out",
        "out",
        "--cache",
        "cache",
        *words,
    ]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One run."""
    folder = tmp_path_factory.mktemp("ethosu")
    (folder / "net.py").write_text(NET)
    (folder / "recipe.yaml").write_text(RECIPE)
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return folder


def target(folder: pathlib.Path) -> dict:  # type: ignore[type-arg]
    (row,) = json.loads((folder / "out" / "report.json").read_text())["targets"]
    return dict(row)


def test_the_compiled_file_is_shipped_with_the_one_that_was_scored(
    folder: pathlib.Path,
) -> None:
    """The int8 file, Vela's file and its log; no latency, since no Ethos-U was run; the
    float file is not a candidate.
    """
    result = target(folder)
    assert (result["verdict"], result["winner"]) == ("pass", "w8a8-static")
    shipped = {
        path.name for path in (folder / "out" / "ethos-u55-256").iterdir()
    }
    assert shipped == {
        "main.tflite",
        "main_vela.tflite",
        "main.log.json",
        "manifest.json",
        "samples.npz",
        "verify.py",
        "device_worker",
    }
    winner = next(
        row for row in result["candidates"] if row["scheme"] == "w8a8-static"
    )
    numbers = {row["name"]: row for row in winner["measurements"]}
    assert numbers["parity"]["value"] <= 2
    assert numbers["latency_ms"]["value"] is None
    assert numbers["accuracy"]["value"] > 0.85
    assert "Ethos-U not executed" in numbers["accuracy"]["where"]
    assert (
        numbers["int8_mac_share"]["value"],
        numbers["cpu_ops"]["value"],
    ) == (1, 0)
    log = json.loads(
        (folder / "out" / "ethos-u55-256" / "main.log.json").read_text()
    )
    assert numbers["npu_time_ms"]["value"] == pytest.approx(
        1000 * log["cycles"] / log["clock_hz"]
    )
    unquantized = next(
        row for row in result["candidates"] if row["scheme"] == "float"
    )
    assert unquantized["status"] == "dropped"
    assert unquantized["reason"].startswith("nothing of it would run on")


def test_estimates_pass_gates_as_estimates(folder: pathlib.Path) -> None:
    """Each gate of Vela's numbers reports their source, in the report's JSON,
    table, Markdown and HTML.
    """
    gates = {row["name"]: row for row in target(folder)["gates"]}
    assert {
        name: gates[name]["verdict"]
        for name in ("npu_time_ms", "cpu_ops", "sram_bytes", "int8_mac_share")
    } == dict.fromkeys(
        ("npu_time_ms", "cpu_ops", "sram_bytes", "int8_mac_share"), "pass"
    )
    assert all(
        "Vela" in gates[name]["where"] and "estimate" in gates[name]["where"]
        for name in ("npu_time_ms", "cpu_ops", "sram_bytes")
    )
    markdown, html = (
        (folder / "out" / f"report.{ending}").read_text()
        for ending in ("md", "html")
    )
    assert (
        run(folder).stdout.count("Vela 5") >= 3
    )  # the three gates on estimates
    for text in (markdown, html, run(folder).stdout):
        assert "npu time (estimate)" in text.lower()
    assert "Predicted, not measured (Vela 5" in markdown
    assert (
        "estimate by Vela at 500 MHz" in html
        and "Predicted, not measured (Vela 5" in html
    )


def test_a_gate_that_the_estimate_breaks_fails_the_run(
    folder: pathlib.Path,
) -> None:
    """The same files, from the cache, against a tighter limit: exit 1."""
    done = run(folder, "--set", "gates.npu_time_ms=0.0001", "--out", "strict")
    assert done.returncode == 1, done.stdout + done.stderr
    (result,) = json.loads((folder / "strict" / "report.json").read_text())[
        "targets"
    ]
    assert {row["name"]: row["verdict"] for row in result["gates"]}[
        "npu_time_ms"
    ] == "fail"
