"""A finished run on disk, and the command line in a separate process."""

import importlib.util
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from edgekit.report import Report

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sample(root: pathlib.Path) -> Callable[..., Report]:
    """Builds the report of ``tests/rendering/sample_report.py``."""
    spec = importlib.util.spec_from_file_location(
        "sample_report_of_cli",
        root / "tests" / "rendering" / "sample_report.py",
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sample: Callable[..., Report] = module.sample
    return sample


@pytest.fixture
def finished(
    sample: Callable[..., Report], tmp_path: pathlib.Path
) -> pathlib.Path:
    """The folder of a finished run."""
    folder = tmp_path / "finished"
    folder.mkdir()
    (folder / "report.json").write_text(sample().to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def environment(root: pathlib.Path) -> dict[str, str]:
    """Environment variables that find this checkout, and do not change the tables."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    }
    return {**kept, "PYTHONPATH": str(root)}


@pytest.fixture
def edgekit(environment: dict[str, str], tmp_path: pathlib.Path) -> Run:
    """Runs ``edgekit`` as a user does, in an empty folder."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "edgekit", *words]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
            check=False,
        )

    return run
