"""The constraints files are complete and within the bounds of pyproject.toml."""

import importlib.metadata
import os
import pathlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from scripts import constraints

ROOT = constraints.ROOT
FILES = {
    version: constraints.path_for(version) for version in constraints.VERSIONS
}
LINE = re.compile(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*")


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads(
        (ROOT / "pyproject.toml").read_text()
    )["project"]
    return table


def declared(version: str) -> Iterator[Requirement]:
    """The requirements of the core and of the extras that the constraints cover."""
    table = project()
    waiting, seen = list(constraints.EXTRAS.split(",")), set[str]()
    texts = list(table["dependencies"])
    while waiting:
        extra = waiting.pop()
        if extra not in seen:
            seen.add(extra)
            texts += table["optional-dependencies"][extra]
            waiting += extras_of_edgekit(table["optional-dependencies"][extra])
    environment = {"python_version": version, "extra": ""}
    for requirement in map(Requirement, texts):
        applies = requirement.marker is None or requirement.marker.evaluate(
            environment
        )
        if applies and requirement.name != "edgekit":
            yield requirement


def extras_of_edgekit(texts: list[str]) -> list[str]:
    """``onnx`` and ``tflite`` for ``edgekit[onnx,tflite]``."""
    return [
        extra
        for requirement in map(Requirement, texts)
        if requirement.name == "edgekit"
        for extra in requirement.extras
    ]


@pytest.mark.parametrize("version", FILES)
def test_every_declared_requirement_is_pinned_within_its_bounds(
    version: str,
) -> None:
    """A new dependency, or a bound that excludes the pinned version, needs `make constraints`."""
    pinned = constraints.read(FILES[version])
    for requirement in declared(version):
        name = constraints.normalized(requirement.name)
        assert name in pinned, f"{name} is not pinned. Fix: make constraints"
        assert requirement.specifier.contains(pinned[name], prereleases=True), (
            name
        )


def test_a_missing_and_an_excluded_version_are_noticed(
    tmp_path: pathlib.Path,
) -> None:
    """The check above can fail: neither an empty file nor an old torch satisfies pyproject."""
    path = tmp_path / "py311.txt"
    path.write_text("# empty\ntorch==1.0\n")
    pinned = constraints.read(path)
    torch = next(row for row in declared("3.11") if row.name == "torch")
    assert "onnx" not in pinned
    assert not torch.specifier.contains(pinned["torch"])


@pytest.mark.parametrize("version", FILES)
def test_a_file_holds_pins_and_nothing_else(version: str) -> None:
    """Sorted names with public versions: no index, no hash, no local build, no CUDA package."""
    lines = FILES[version].read_text().splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    assert [row for row in rows if not LINE.fullmatch(row)] == []
    names = [row.partition("==")[0] for row in rows]
    assert names == sorted(set(names))
    assert [
        name for name in names if constraints.UNPINNED.fullmatch(name)
    ] == []


def test_there_is_a_file_for_each_supported_python() -> None:
    """requires-python, the classifiers and the files name the same versions."""
    prefix = "Programming Language :: Python :: "
    classifiers = [row.removeprefix(prefix) for row in project()["classifiers"]]
    minor = [row for row in classifiers if re.fullmatch(r"3\.\d+", row)]
    assert minor == list(constraints.VERSIONS)
    assert sorted(constraints.FOLDER.glob("*")) == sorted(FILES.values())


def required_by(
    name: str, extras: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    """What an installed distribution requires here, with these extras of it."""
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        environments = [
            {**default_environment(), "extra": extra} for extra in ("", *extras)
        ]
        marker = requirement.marker
        if marker is None or any(marker.evaluate(row) for row in environments):
            yield (
                constraints.normalized(requirement.name),
                frozenset(requirement.extras),
            )


def test_everything_that_is_installed_with_edgekit_is_pinned() -> None:
    """Also what the requirements require: an unpinned package could change under our feet."""
    pinned = constraints.read(constraints.path_for(constraints.this_python()))
    waiting = [("edgekit", frozenset({"all", "dev"}))]
    seen, missing = set(waiting), set()
    while waiting:
        for row in required_by(*waiting.pop()):
            if row not in seen and constraints.installed_version(row[0]):
                seen.add(row)
                waiting.append(row)
                if row[0] not in pinned and not constraints.UNPINNED.fullmatch(
                    row[0]
                ):
                    missing.add(row[0])
    assert len(seen) > 50
    assert missing == set(), "Fix: make constraints"


@pytest.mark.skipif(
    "EDGEKIT_CONSTRAINED" not in os.environ,
    reason="only `make test` installs with the constraints",
)
def test_the_pinned_versions_are_installed() -> None:
    """What is tested is what the file names."""
    pinned = constraints.read(constraints.path_for(constraints.this_python()))
    assert constraints.different(pinned) == []


REPORT = {
    "install": [
        {"metadata": {"name": "torch", "version": "2.13.0+cpu"}},
        {"metadata": {"name": "nvidia-cublas", "version": "13.1"}},
        {"metadata": {"name": "edgekit", "version": "0.1.0"}},
        {"metadata": {"name": "PyYAML_env.tag", "version": "1.1"}},
    ]
}


def test_the_pins_of_a_report() -> None:
    """Normalized names and public versions; edgekit and torch's CUDA packages are left out."""
    assert constraints.pins(REPORT) == {
        "pyyaml-env-tag": "1.1",
        "torch": "2.13.0",
    }


def test_what_differs_is_named_with_both_versions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`make test-newest` prints it after a failure; what is not installed does not count."""
    pinned = {"onnxruntime": "1.31.1", "numpy": "2.4.6", "mkdocs": "1.6.1"}
    versions = {"onnxruntime": "1.32.0", "numpy": "2.4.6"}
    rows = constraints.different(pinned, lambda name: versions.get(name, ""))
    assert rows == [("onnxruntime", "1.31.1", "1.32.0")]
    constraints.print_rows(rows)
    assert "constrained 1.31.1" in capsys.readouterr().out
    constraints.print_rows([])
    assert "No installed package differs" in capsys.readouterr().out


def test_a_missing_python_is_an_error_with_a_fix() -> None:
    """Version 3.99 is neither on the PATH nor in pyenv."""
    with pytest.raises(
        SystemExit, match="no Python 3.99. Fix: pyenv install 3.99"
    ):
        constraints.find_python("3.99")
