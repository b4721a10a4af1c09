"""Hosts with pinned packages: installed by the real pip, complete or absent, and separate
from edgekit's own packages.
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from edgekit import host
from edgekit.errors import HostError
from edgekit.hosts import install_dirs, lookup, packages, selftest
from edgekit.hosts.runner import WorkerHost
from edgekit.hosts.venv import Venv
from edgekit.progress import Silent

#: A version that edgekit itself does not run with, in edgekit's own Python: a leak of its
#: packages would be seen.
OTHER = "2.2.6"
SMALL = f"""\
title: a small one
kind: venv
environments: {{main: {{packages: [numpy=={OTHER}], python: ['{sys.executable}']}}}}
"""


@pytest.fixture
def root(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """An empty folder for hosts."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    return tmp_path / "hosts"


def kind(folder: pathlib.Path, text: str = SMALL) -> Venv:
    """A host of a file of the user's."""
    (folder / "board.yaml").write_text(text)
    return Venv(host.load(folder / "board.yaml"))


def folder_names(root: pathlib.Path) -> list[str]:
    """The names in the host's folder, without the keys."""
    return sorted(
        path.name.partition("-")[0] for path in (root / "board").iterdir()
    )


def setup(folder: pathlib.Path) -> "subprocess.Popen[str]":
    """``edgekit hosts setup`` in a separate process."""
    words = [
        sys.executable,
        "-m",
        "edgekit",
        "hosts",
        "setup",
        str(folder / "board.yaml"),
    ]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(host.__file__).parent.parent,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is there; ten minutes at most, for a busy machine."""
    until = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_host_is_made_from_its_pins_and_kept(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """It is not ready before; then its worker sees the pinned package and none of edgekit's
    own; a second setup does nothing, at once.
    """
    venv = kind(tmp_path)
    assert venv.problem("main") == (
        "the host board is not set up",
        "edgekit hosts setup board",
    )
    venv.setup(Silent())
    assert venv.problem("main") is None
    assert venv.host("main").hello()["versions"] == {"numpy": OTHER}
    assert importlib.metadata.version(
        "numpy"
    ) != OTHER and importlib.metadata.version("onnxruntime")
    (marker,) = [
        install_dirs.read_marker(path)
        for path in install_dirs.list_folders("board", "main")
    ]
    assert (
        marker is not None
        and marker["installed"] == [f"numpy=={OTHER}"]
        and marker["bytes"] > 10**7
    )
    began = time.monotonic()
    venv.setup(Silent())
    assert time.monotonic() - began < 1


@pytest.mark.slow
def test_other_pins_are_installed_and_the_old_ones_removed(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A changed file has its own message; after the setup only the new packages are
    there.
    """
    kind(tmp_path).setup(Silent())
    changed = kind(tmp_path, SMALL.replace(OTHER, "2.2.5"))
    assert changed.problem("main") == (
        "the packages of board have changed since it was set up",
        "edgekit hosts setup board",
    )
    changed.setup(Silent())
    assert folder_names(root) == ["main"]
    assert changed.host("main").hello()["versions"] == {"numpy": "2.2.5"}


@pytest.mark.slow
def test_a_python_that_has_gone_is_noticed_and_mended(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A host whose Python was removed is not ready; its setup uses one that exists."""
    venv = kind(tmp_path)
    venv.setup(Silent())
    (folder,) = install_dirs.list_folders("board", "main")
    marker = json.loads((folder / install_dirs.MARKER).read_text())
    (folder / install_dirs.MARKER).write_text(
        json.dumps({**marker, "python": str(tmp_path / "python3.11")})
    )
    assert venv.problem("main") == (
        f"the host board needs {tmp_path / 'python3.11'}, which no longer exists",
        "edgekit hosts setup board",
    )
    venv.setup(Silent())
    assert venv.problem("main") is None and folder_names(root) == ["main"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)]
)
def test_a_setup_that_is_ended_in_the_middle_leaves_nothing_ready(
    root: pathlib.Path, tmp_path: pathlib.Path, number: int, code: int
) -> None:
    """Killed while pip works, nothing counts as ready; asked to end, nothing is left; the
    next setup completes it.
    """
    venv = kind(tmp_path)
    running = setup(tmp_path)
    wait_for(lambda: any((root / "board").glob("partial-*/site")))
    running.send_signal(number)
    running.communicate(timeout=600)
    assert running.returncode == code
    assert folder_names(root) == (
        ["partial"] if number == signal.SIGKILL else []
    )
    assert venv.problem("main") == (
        "the host board is not set up",
        "edgekit hosts setup board",
    )
    venv.setup(Silent())
    assert venv.problem("main") is None and folder_names(root) == ["main"]


@pytest.mark.slow
def test_two_setups_at_once_make_one_host(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Both end well; the second waits for the first and finds its work done."""
    kind(tmp_path)
    both = [setup(tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("board: main is ready" in errors for _, errors in outputs) == 1
    assert folder_names(root) == ["main"]


def test_a_package_that_does_not_exist_leaves_nothing(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The error names it; the command ends with 1 and no traceback; no folder is left."""
    kind(tmp_path, SMALL.replace(f"numpy=={OTHER}", "numpy==99.0"))
    running = setup(tmp_path)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert (
        "pip found no wheel of numpy==99.0" in errors
        and "Traceback" not in errors
    )
    assert folder_names(root) == []


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """On a disk of 20 MB, which numpy does not fit, the error reports it and nothing partial
    counts.
    """
    kind(tmp_path)
    root.mkdir()
    setup_command = (
        f"{sys.executable} -m edgekit hosts setup {tmp_path / 'board.yaml'}"
    )
    code = (
        f"mount -t tmpfs -o size=20m none {root} &&"
        f" {{ {setup_command}; echo code $?; ls {root}/board; }}"
    )
    namespace = [
        "unshare",
        "--mount",
        *([] if os.getuid() == 0 else ["--map-root-user"]),
        "sh",
        "-c",
    ]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*namespace, f"mount -t tmpfs none {root}"],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("a small disk cannot be mounted here")
    done = subprocess.run(
        [*namespace, code],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(host.__file__).parent.parent,
        timeout=120,
    )
    assert (
        "The disk is full" in done.stderr
        and "EDGEKIT_HOSTS" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert done.stdout == "code 1\n"


def test_a_python_that_is_missing_is_reported_before_and_in_the_setup(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """tflite-runtime needs Python 3.11: where edgekit runs in another one and there is no
    python3.11, that is reported.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages, "running_version", lambda: "3.13")
    problem = lookup.find_problem("tflite-runtime")
    assert problem is not None
    assert problem[0].startswith(
        "Python 3.11 is not installed on this machine"
    ) and problem[0].endswith("edgekit runs in 3.13")
    assert "python3.11 is on the PATH" in problem[1]
    with pytest.raises(HostError, match=r"Python 3\.11 is not installed"):
        lookup.load_kind(lookup.find_host("tflite-runtime")).setup(Silent())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "versions"),
    [
        ("tflite-runtime", {"numpy": "1.26.4", "tflite-runtime": "2.14.0"}),
        ("onnxruntime-oldest", {"numpy": "2.2.6", "onnxruntime": "1.20.1"}),
    ],
)
def test_the_shipped_hosts_give_the_right_numbers(
    ready_host: Callable[[str], WorkerHost], name: str, versions: dict[str, str]
) -> None:
    """Old runtimes load edgekit's float and int8 files: float within 1e-4, int8 within the
    step that is allowed; only their own packages are seen.
    """
    reached = ready_host(name)
    assert reached.hello()["versions"] == versions
    trials = [
        selftest.run_file(reached, file)
        for file in selftest.list_files(versions)
    ]
    assert len(trials) == 2 and all(done.passed for done in trials), trials
    assert all(
        done.where.startswith(f"{name}: {name.removesuffix('-oldest')} ")
        for done in trials
    )
