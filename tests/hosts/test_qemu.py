"""An emulated ARM machine, installed by the real apt and pip: the numbers are ARM's, and its
times are refused.
"""

import pathlib
import shutil
import time
from collections.abc import Callable

import numpy
import pytest

from edgekit import host
from edgekit.contracts import BenchProtocol
from edgekit.errors import HostError, RunnerError
from edgekit.hosts import debian, install_dirs, lookup, qemu, selftest
from edgekit.hosts.local import LocalHost
from edgekit.hosts.qemu import Qemu
from edgekit.hosts.runner import WorkerHost
from edgekit.progress import Silent

NAME = "qemu-arm64"
on_debian = pytest.mark.skipif(
    shutil.which("apt-get") is None
    or not any(path.is_file() for path in debian.KEYRINGS),
    reason="this machine is not Debian, which this host is built from",
)


@pytest.fixture
def root(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """An empty folder for hosts."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    return tmp_path / "hosts"


def program(folder: pathlib.Path, text: str) -> None:
    """A qemu-aarch64 on the PATH that prints this version."""
    (folder / "qemu-aarch64").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "qemu-aarch64").chmod(0o755)


@on_debian
@pytest.mark.slow
def test_it_is_made_from_nothing_in_bounded_time_and_then_found_at_once(
    ready_host: Callable[[str], WorkerHost],
) -> None:
    """The setup notes its time (measured: 52 s, and 97 s with seven busy processes on two
    cores) and size; once made it is found in less than a second.
    """
    ready_host(NAME)
    folders = [
        path
        for name in ("_userland", "main", "tflite-runtime")
        for path in install_dirs.list_folders(NAME, name)
    ]
    noted = [install_dirs.read_marker(folder) or {} for folder in folders]
    assert len(noted) == 3
    print(
        "seconds:",
        [facts["seconds"] for facts in noted],
        "bytes:",
        [facts["bytes"] for facts in noted],
    )
    assert 0 < sum(facts["seconds"] for facts in noted) < 600
    assert sum(facts["bytes"] for facts in noted) < 5e8
    began = time.monotonic()
    ready_host(NAME)
    assert time.monotonic() - began < 1


@on_debian
@pytest.mark.slow
def test_the_runtimes_on_arm_give_the_numbers_of_this_machine(
    ready_host: Callable[[str], WorkerHost],
) -> None:
    """int8 in LiteRT and ONNX Runtime is bit for bit what it is here; float differs by
    rounding; it is really ARM, and nothing of this machine leaks in.
    """
    arm, here = ready_host(NAME), LocalHost(timeout_s=60)
    hello = arm.hello()
    assert (hello["machine"], hello["versions"]) == (
        "aarch64",
        {"numpy": "2.4.6", "onnxruntime": "1.31.1", "ai-edge-litert": "2.3.0"},
    )
    for name in selftest.list_files(hello["versions"]):
        with (
            arm.open(selftest.load_artifact(name)) as there,
            here.open(selftest.load_artifact(name)) as own,
        ):
            assert there.where.endswith("1 thread, emulated, correctness only")
            (theirs,), (ours,) = (
                runner.infer({"input": selftest.load_images()}).values()
                for runner in (there, own)
            )
        if name.startswith("int8"):
            numpy.testing.assert_array_equal(theirs, ours, err_msg=name)
        else:
            numpy.testing.assert_allclose(theirs, ours, atol=1e-4, err_msg=name)


@on_debian
@pytest.mark.slow
def test_the_old_runtime_on_arm_gives_the_numbers_of_the_old_runtime_here(
    ready_host: Callable[[str], WorkerHost],
) -> None:
    """tflite-runtime 2.14: ARM and x86 agree, int8 within one step."""
    arm, here = (
        ready_host(f"{NAME}/tflite-runtime"),
        ready_host("tflite-runtime"),
    )
    assert (
        arm.hello()["versions"]
        == here.hello()["versions"]
        == {"numpy": "1.26.4", "tflite-runtime": "2.14.0"}
    )
    for name in ("float.tflite", "int8.tflite"):
        with (
            arm.open(selftest.load_artifact(name)) as there,
            here.open(selftest.load_artifact(name)) as own,
        ):
            (theirs,), (ours,) = (
                runner.infer({"input": selftest.load_images()}).values()
                for runner in (there, own)
            )
        step = (
            selftest.load_artifact(name)
            .parts[0]
            .signature.outputs[0]
            .quantization
        )
        assert numpy.abs(theirs - ours).max() <= (
            1.01 * step.scale if step else 1e-4
        ), name


@on_debian
@pytest.mark.slow
def test_an_emulated_machine_is_not_timed(
    ready_host: Callable[[str], WorkerHost],
) -> None:
    """A race there is refused with the reason."""
    with pytest.raises(
        RunnerError, match=f"Times on {NAME} are meaningless: it is emulated"
    ):
        ready_host(NAME).race(
            {"a": selftest.load_artifact("int8.onnx")},
            {"input": selftest.load_images()},
            BenchProtocol(rounds=6),
        )


@on_debian
@pytest.mark.slow
def test_files_outside_the_emulated_root_are_found(
    ready_host: Callable[[str], WorkerHost], tmp_path: pathlib.Path
) -> None:
    """A model file anywhere on this machine is opened by its path, spaces and all, though
    the emulated machine has its own root.
    """
    folder = tmp_path / "a folder"
    shutil.copytree(selftest.FOLDER, folder)
    with ready_host(NAME).open(
        selftest.load_artifact("int8.tflite").model_copy(
            update={"folder": folder}
        )
    ) as runner:
        (outputs,) = runner.infer({"input": selftest.load_images()}).values()
    assert outputs.shape == (8, 10)


def test_it_is_not_ready_before_it_is_set_up(root: pathlib.Path) -> None:
    """Neither environment is; the fix is the command."""
    for name in (NAME, f"{NAME}/tflite-runtime"):
        assert lookup.find_problem(name) == (
            f"the host {NAME} is not set up",
            f"edgekit hosts setup {NAME}",
        )
    with pytest.raises(
        HostError,
        match=rf"The host {NAME} is not set up\.\n  Fix: edgekit hosts setup {NAME}",
    ):
        lookup.open_host(NAME)


def test_the_machines_own_qemu_is_used_where_it_is_new_enough(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 and later are; 7.2 crashes and is not; one that does not run, or prints nothing, is
    not.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu.find_qemu() is None
    for text, good in (
        ("echo qemu-aarch64 version 10.0.13", True),
        ("echo qemu-aarch64 version 7.2.1", False),
        ("echo", False),
        ("exit 1", False),
    ):
        program(tmp_path, text)
        assert (qemu.find_qemu() == str(tmp_path / "qemu-aarch64")) is good, (
            text
        )


def test_a_python_that_no_debian_has_is_reported(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The available versions are named, before anything is fetched."""
    text = (
        "title: x\nkind: qemu\n"
        "environments: {main: {packages: [numpy==2.2.6], version: '3.12'}}\n"
    )
    (tmp_path / "arm.yaml").write_text(text)
    with pytest.raises(
        HostError,
        match=r"No release of Debian has Python 3\.12 for this host\. Available: 3\.11, 3\.13",
    ):
        Qemu(host.load(tmp_path / "arm.yaml")).setup(Silent())
    assert list((root / "arm").glob("*")) == []


@on_debian
@pytest.mark.slow
def test_a_python_of_your_own_is_used(
    ready_host: Callable[[str], WorkerHost],
    own_hosts: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """Where the file names the words that start a Python, no Debian is fetched: packages
    alone are installed.
    """
    started = ready_host(NAME).start.command
    words = ", ".join(f'"{word}"' for word in started[:-1])
    (tmp_path / "arm.yaml").write_text(
        f"title: x\nkind: qemu\nenvironments: {{main: {{python: [{words}],"
        " packages: [numpy==2.2.6], version: '3.11'}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
        patch.setattr(debian, "KEYRINGS", ())
        own = Qemu(host.load(tmp_path / "arm.yaml"))
        own.setup(Silent())
        assert own.problem("main") is None
        hello = own.host("main").hello()
    assert (hello["machine"], hello["versions"]) == (
        "aarch64",
        {"numpy": "2.2.6"},
    )
    assert [
        path.name.partition("-")[0]
        for path in (tmp_path / "hosts" / "arm").iterdir()
    ] == ["main"]


@on_debian
def test_a_failed_setup_leaves_no_half_machine(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Without a signed mirror nothing is left of the userland."""
    empty = tmp_path / "empty.gpg"
    empty.write_bytes(b"")
    monkeypatch.setattr(debian, "KEYRINGS", (empty,))
    with pytest.raises(HostError, match="not signed"):
        lookup.load_kind(lookup.find_host(NAME)).setup(Silent())
    assert list((root / NAME).iterdir()) == []
