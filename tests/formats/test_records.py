"""The records of the formats agree with the schemes, the steps, the runtimes and the files."""

import importlib
import importlib.util
import pathlib
import tomllib

import pytest

from edgekit import registry
from edgekit.formats import (
    FORMATS,
    PROVIDERS,
    kernels_of,
    runtimes,
)
from edgekit.planning.routes import route
from edgekit.registry import STEP_RECORDS
from edgekit.scheme import SCHEMES


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_names_what_exists(name: str) -> None:
    """Its schemes, its steps and its routes are known, and its key is its name."""
    record = FORMATS[name]
    assert record.name == name
    assert set(record.schemes) <= set(SCHEMES)
    assert set(record.route) <= set(STEP_RECORDS)
    assert set(record.steps) <= set(STEP_RECORDS)
    for scheme, steps in record.other_routes.items():
        assert scheme in record.schemes
        assert set(steps) <= set(STEP_RECORDS)
    for step in (record.compile_step, record.compile_on_device_step):
        assert step == "" or step in record.steps


@pytest.mark.parametrize("name", FORMATS)
def test_every_scheme_of_a_record_has_a_route(name: str) -> None:
    """Each scheme leads to a file of the format: its route is not empty."""
    for scheme in FORMATS[name].schemes:
        assert route(SCHEMES[scheme], name)


@pytest.mark.parametrize("name", FORMATS)
def test_a_records_code_exists(name: str) -> None:
    """The audit, the reader and the steps can be found in the format's folder."""
    record = FORMATS[name]
    folder = pathlib.Path(registry.__file__).parent / "formats" / name
    implementations = [record.audit, *record.steps.values()]
    if record.inspect is not None:
        implementations.append(record.inspect)
    for implementation in implementations:
        module, _, attribute = implementation.where.partition(":")
        path = folder.joinpath(*module.split(".")).with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        assert f"def {attribute}(" in source or f"class {attribute}" in source


def test_no_two_records_share_a_step() -> None:
    """A step belongs to one format."""
    names = [step for record in FORMATS.values() for step in record.steps]
    names += [provider.step_name for provider in PROVIDERS.values()]
    names += registry.TORCH_STEPS
    assert sorted(names) == sorted(STEP_RECORDS)


def test_the_worker_loads_what_the_records_name() -> None:
    """Every runtime that loads a file on a host is one of the worker's, and names the format."""
    for record in FORMATS.values():
        names = [record.loaded_by]
        if record.accelerator is not None:
            names.append(record.accelerator.runtime)
        for name in names:
            assert importlib.util.find_spec(
                f"edgekit.device_worker.runtime_{name}"
            )
        loader = importlib.import_module(
            f"edgekit.device_worker.runtime_{record.loaded_by}"
        )
        assert record.name in loader.FORMATS


def test_every_extra_is_one_of_the_package(root: pathlib.Path) -> None:
    """The command that a message suggests exists."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    for record in FORMATS.values():
        for implementation in (
            record.audit,
            record.run,
            *record.steps.values(),
        ):
            assert implementation.extra in extras


@pytest.mark.parametrize("runtime", runtimes())
def test_every_runtime_has_operators(runtime: str) -> None:
    """The quantizer knows which operators are int8 in each runtime."""
    assert kernels_of(runtime)


def test_no_runtime_has_no_operators_of_its_own() -> None:
    """Quantizing for no runtime in particular asks for no rows."""
    assert kernels_of(None) == ()
