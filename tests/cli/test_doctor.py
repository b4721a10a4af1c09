"""``edgekit doctor``: what is there and what is not."""

import importlib.metadata
import json
import pathlib

import pytest
from click.testing import CliRunner

from edgekit import catalog, registry
from edgekit.cli.doctor import examine
from edgekit.cli.main import main


def test_json_holds_what_was_found() -> None:
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


def test_what_is_missing_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ONNX Runtime the ONNX target is not ready, and the command that mends it is
    told; doctor itself ends with 0.
    """
    real = registry.installed
    monkeypatch.setattr(
        registry, "installed", lambda module: module != "onnxruntime" and real(module)
    )
    found = {row["name"]: row for row in examine()["targets"]}
    assert found["cpu-onnx"]["missing"] == ["onnxruntime"]
    assert found["cpu-onnx"]["install"] == [registry.install("onnx")]
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert "pip install 'edgekit[onnx]'" in done.stdout
    assert "cannot be used yet" in done.stdout


def test_either_of_two_packages_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT or TensorRT for RTX will do; with neither, one of them is named."""
    monkeypatch.setattr(registry, "installed", lambda module: module != "tensorrt_rtx")
    names = {row["name"]: row["version"] for row in examine()["packages"]}
    assert "tensorrt" in names
    assert "tensorrt-rtx" not in names
    monkeypatch.setattr(
        registry, "installed", lambda module: not module.startswith("tensorrt")
    )
    target = next(row for row in examine()["targets"] if row["name"] == "rtx-tensorrt")
    assert target["missing"] == ["tensorrt_rtx or tensorrt"]


def test_tools_and_gpus_are_found_by_asking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A tool on the path is told with its place; nvidia-smi's answer is the GPUs; a broken
    one is no GPU.
    """
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA RTX 4090, 8.9'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert examine()["gpus"] == ["NVIDIA RTX 4090, 8.9"]
    assert next(row for row in examine()["tools"] if row["name"] == "nvidia-smi")[
        "path"
    ] == str(tool)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert examine()["gpus"] == []


def test_a_host_that_is_not_set_up_has_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """This machine is ready; one that edgekit would make is not, and the command that makes
    it is told.
    """
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path))
    found = {row["name"]: row for row in examine()["hosts"]}
    assert found["local"]["ready"] and not found["qemu-arm64"]["ready"]
    assert "edgekit hosts setup qemu-arm64" in CliRunner().invoke(main, ["doctor"]).stdout
