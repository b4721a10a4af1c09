"""``edgekit doctor``: what is installed and what is missing."""

import importlib.metadata
import json
import pathlib

import pytest
from click.testing import CliRunner

from edgekit import catalog, registry
from edgekit.cli.doctor import examine
from edgekit.cli.main import main


def test_json_has_the_state_of_the_installation() -> None:
    """Versions are the installed ones, and every target and part is there."""
    data = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    versions = {row["name"]: row["version"] for row in data["packages"]}
    assert versions["click"] == importlib.metadata.version("click")
    assert [row["name"] for row in data["targets"]] == catalog.names("targets")
    assert [row["name"] for row in data["hosts"]] == catalog.names("hosts")
    assert {row["name"] for row in data["parts"]} >= set(registry.STEPS)
    assert [row["name"] for row in data["tools"]] == [
        "edgetpu_compiler",
        "trtexec",
        "nvidia-smi",
    ]


def test_what_is_missing_has_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without ONNX Runtime the ONNX target is not ready; doctor itself has exit code 0."""
    real = registry.installed
    monkeypatch.setattr(
        registry,
        "installed",
        lambda module: module != "onnxruntime" and real(module),
    )
    targets = {row["name"]: row for row in examine()["targets"]}
    assert targets["cpu-onnx"]["missing"] == ["onnxruntime"]
    assert targets["cpu-onnx"]["install"] == [registry.install("onnx")]
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert "pip install 'edgekit[onnx]'" in done.stdout
    assert "cannot be used yet" in done.stdout


def test_either_of_two_packages_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT or TensorRT for RTX; with neither, both are named."""
    monkeypatch.setattr(
        registry, "installed", lambda module: module != "tensorrt_rtx"
    )
    names = {row["name"]: row["version"] for row in examine()["packages"]}
    assert "tensorrt" in names
    assert "tensorrt-rtx" not in names
    monkeypatch.setattr(
        registry, "installed", lambda module: not module.startswith("tensorrt")
    )
    target = next(
        row for row in examine()["targets"] if row["name"] == "rtx-tensorrt"
    )
    assert target["missing"] == ["tensorrt_rtx or tensorrt"]


def test_tools_and_gpus_are_detected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A tool has its path; nvidia-smi reports the GPUs; a failing one reports none."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA RTX 4090, 8.9'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert examine()["gpus"] == ["NVIDIA RTX 4090, 8.9"]
    assert next(
        row for row in examine()["tools"] if row["name"] == "nvidia-smi"
    )["path"] == str(tool)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert examine()["gpus"] == []


def test_a_host_that_is_not_set_up_has_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """This machine is ready; another host has the command that sets it up."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path))
    rows = {row["name"]: row for row in examine()["hosts"]}
    assert rows["local"]["ready"] and not rows["qemu-arm64"]["ready"]
    assert (
        "edgekit hosts setup qemu-arm64"
        in CliRunner().invoke(main, ["doctor"]).stdout
    )
