"""The registry: literal tables that name code which exists, and installs that mend what is
missing.
"""

import ast
import dataclasses
import pathlib
import tomllib

import pytest

from edgekit import registry
from edgekit.errors import EdgekitError, MissingBackend
from edgekit.formats import FORMATS
from edgekit.formats.record import Implementation
from edgekit.registry import Registry

TABLES = {
    "steps": registry.STEPS,
    "sources": registry.SOURCES,
    "tasks": registry.TASKS,
    "runtimes": registry.RUNTIMES,
    "audits": registry.AUDITS,
}
ENTRIES = [
    pytest.param(table.entry(name), id=f"{kind}/{name}")
    for kind, table in TABLES.items()
    for name in table
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_names_code_that_exists(
    entry: Implementation, root: pathlib.Path
) -> None:
    """The module of each entry lies in the checkout and defines what the entry names; told
    without importing it.
    """
    module, _, attribute = entry.where.partition(":")
    path = root / f"{module.replace('.', '/')}.py"
    assert path.is_file(), (
        f"{entry.where}: there is no {path.relative_to(root)}"
    )
    defined = {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert attribute in defined


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entrys_extra_brings_what_it_needs(
    entry: Implementation, root: pathlib.Path
) -> None:
    """The command that is told for a missing package would install it: the extra is in
    pyproject.toml and lists it.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    if not entry.needs:
        return
    brought = distributions(entry.extra, project["optional-dependencies"])
    names = {
        "sklearn": "scikit-learn",
        "tensorrt_rtx": "tensorrt-rtx",
        "ethosu.vela": "ethos-u-vela",
    }
    for need in entry.needs:
        wanted = {
            names.get(module, module.replace("_", "-"))
            for module in need.split("|")
        }
        assert wanted & brought, f"edgekit[{entry.extra}] does not bring {need}"


def distributions(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """The names of all that an extra brings, through the extras that it names."""
    found: set[str] = set()
    for line in extras[extra]:
        if line.startswith("edgekit["):
            for inner in line[len("edgekit[") : -1].split(","):
                found |= distributions(inner, extras)
        else:
            found.add(
                line.split("[")[0]
                .split(">")[0]
                .split("<")[0]
                .split("=")[0]
                .strip()
            )
    return found


def test_every_step_of_every_route_is_known() -> None:
    """The plan names no step that the registry lacks."""
    for record in FORMATS.values():
        assert set(record.route) <= set(registry.STEPS)


@pytest.mark.parametrize("name", list(registry.STEPS))
def test_every_step_keeps_the_contract(name: str) -> None:
    """Each step is a frozen dataclass with the class variables of contracts.Step, and takes
    what it is planned with.
    """
    step = registry.STEPS.load(name)
    assert dataclasses.is_dataclass(step)
    assert step.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert step.version >= 1
    for variable in ("takes", "packages", "reads"):
        assert isinstance(getattr(step, variable), tuple), variable
    assert isinstance(step.gives, str)
    assert set(step.reads) <= {
        "train",
        "calibration",
        "test",
        "metric",
        "teacher",
    }
    # load_model reads the test data's shapes only, so that a task without training data can
    # be verified.
    assert name == "load_model" or "test" not in step.reads, (
        "a step that reads the test data makes their numbers worthless"
    )
    assert all(
        callable(getattr(step, method))
        for method in ("requires", "run", "ensures")
    )
    assert (step.__doc__ or "").strip()


def test_a_missing_package_is_told_with_the_command_that_installs_it() -> None:
    """Loading code whose package is not installed is a MissingBackend, not an ImportError."""
    table = Registry(
        "step",
        {
            "x": Implementation(
                "edgekit_test_no_such_package.module:Thing", extra="onnx"
            )
        },
    )
    with pytest.raises(MissingBackend) as caught:
        table.load("x")
    assert "edgekit_test_no_such_package" in str(caught.value)
    assert caught.value.fix == "pip install 'edgekit[onnx]'"


def test_a_hole_in_edgekit_itself_is_not_called_a_missing_package() -> None:
    """A module of edgekit that is not there is our bug and stays an ImportError."""
    with pytest.raises(ModuleNotFoundError):
        Registry("step", {"x": Implementation("edgekit.nothing:Thing")}).load(
            "x"
        )


def test_either_of_two_packages_is_enough() -> None:
    """`tensorrt_rtx|tensorrt` is missing only where both are."""
    table = Registry("step", {"x": Implementation("a:b", ("onnx", "one|two"))})
    assert table.missing("x", {"onnx", "two"}.__contains__) == ()
    assert table.missing("x", set[str]().__contains__) == ("onnx", "one|two")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """The table tells the nearest word."""
    with pytest.raises(EdgekitError, match="Did you mean 'zoo:resnet8'"):
        registry.SOURCES.entry("zoo:resnet")


def test_installed_looks_and_does_not_import() -> None:
    """A package is found without being imported, and a broken name is simply not installed."""
    assert registry.installed("yaml")
    assert not registry.installed("edgekit_test_no_such_package")
    assert not registry.installed("edgekit_test_no_such_package.inner")
    assert not registry.installed("")
