"""The report that is drawn."""

import importlib.util
import pathlib
import sys
from collections.abc import Callable

import pytest

from edgekit.report import Report


@pytest.fixture(scope="session")
def sample() -> Callable[..., Report]:
    """Makes the report of ``sample_report.py``."""
    path = pathlib.Path(__file__).parent / "sample_report.py"
    spec = importlib.util.spec_from_file_location("sample_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sample_report"] = module
    spec.loader.exec_module(module)
    sample: Callable[..., Report] = module.sample
    return sample
