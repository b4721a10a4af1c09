"""Pinned packages by the real pip, and the Python that a version asks for."""

import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

from edgekit import registry
from edgekit.errors import HostError
from edgekit.hosts import packages
from edgekit.hosts.setup_steps import HostSetup, host_setup
from edgekit.progress import Silent


@pytest.fixture
def session(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HostSetup]:
    """A setup that is at work."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    with host_setup("board", Silent()) as session:
        yield session


def script(folder: pathlib.Path, name: str, text: str) -> None:
    """A program on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_this_python_is_the_one_without_a_virtual_environment() -> None:
    """A host outlives the environment that edgekit runs in."""
    interpreter = packages.find_interpreter("")
    assert (
        interpreter
        == packages.find_interpreter(packages.running_version())
        == sys._base_executable
    )
    assert pathlib.Path(interpreter).is_file()


def test_a_python_is_taken_only_if_it_is_one_of_that_version(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name on the PATH that does not work (pyenv's), or has another version, is skipped;
    with none left the error has a fix.
    """
    script(tmp_path / "dead", "python3.10", "exit 127")
    script(tmp_path / "liar", "python3.10", f'exec {sys.executable} "$@"')
    script(
        tmp_path / "good",
        "python3.10",
        "echo /opt/my python/bin/python3.10 3 10",
    )
    monkeypatch.setenv(
        "PATH",
        os.pathsep.join(
            str(tmp_path / name) for name in ("none", "dead", "liar")
        ),
    )
    assert packages.may_exist("3.10") and not packages.may_exist("3.9")
    with pytest.raises(
        HostError,
        match=r"Python 3\.10 is not installed on this machine(.|\n)*install Python 3\.10",
    ):
        packages.find_interpreter("3.10")
    monkeypatch.setenv("PATH", str(tmp_path / "good"), prepend=os.pathsep)
    assert packages.find_interpreter("3.10") == "/opt/my python/bin/python3.10"


def test_packages_are_installed_and_listed(
    session: HostSetup, tmp_path: pathlib.Path
) -> None:
    """The folder holds the pinned wheel and nothing else, whatever edgekit's own Python
    has.
    """
    packages.install(
        session,
        ["six==1.16.0"],
        tmp_path / "site",
        packages.find_interpreter(""),
    )
    assert packages.list_installed(tmp_path / "site") == ["six==1.16.0"]
    assert (tmp_path / "site" / "six.py").is_file()


def test_packages_for_arm_are_taken_for_arm(
    session: HostSetup, tmp_path: pathlib.Path
) -> None:
    """The libraries are for 64-bit ARM; nothing was compiled by this Python."""
    packages.install_aarch64(
        session, ["ml-dtypes==0.5.4", "numpy==2.4.6"], tmp_path / "site", "3.11"
    )
    libraries = list((tmp_path / "site").rglob("*.so"))
    assert libraries and all(
        "aarch64" in path.name for path in libraries if "cpython" in path.name
    )
    assert all(
        path.read_bytes()[18:20] == b"\xb7\x00" for path in libraries
    )  # e_machine: EM_AARCH64
    assert not list((tmp_path / "site").rglob("*.pyc"))


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        (["six==99.0"], "pip found no wheel of six==99.0"),
        (["numpy==1.26.4", "onnxruntime==1.20.1", "numpy==2.0.0"], "conflict"),
    ],
)
def test_unavailable_packages_are_reported(
    session: HostSetup,
    tmp_path: pathlib.Path,
    requirements: list[str],
    message: str,
) -> None:
    """A version that does not exist, and versions that conflict."""
    with pytest.raises(HostError, match=message):
        packages.install(
            session,
            requirements,
            tmp_path / "site",
            packages.find_interpreter(""),
        )


def test_no_network_is_reported(
    session: HostSetup,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An index that does not answer is not taken for a package that does not exist."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HostError, match="pip cannot reach its package index"):
        packages.install(
            session,
            ["six==1.16.0"],
            tmp_path / "site",
            packages.find_interpreter(""),
        )


def test_a_python_without_pip_is_reported(
    session: HostSetup,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """edgekit's own environment may have been created without pip."""
    monkeypatch.setattr(registry, "installed", lambda module: module != "pip")
    with pytest.raises(HostError, match=r"has no pip(.|\n)*-m ensurepip"):
        packages.install(
            session,
            ["six==1.16.0"],
            tmp_path / "site",
            packages.find_interpreter(""),
        )
