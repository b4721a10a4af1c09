"""Edge TPUs are found without a library; errors contain a fix."""

import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.device_worker import edgetpu
from edgekit.device_worker.edgetpu import (
    EdgeTpuError,
    create_delegate,
    find_devices,
    find_library,
)


def plug_in(root: pathlib.Path, place: str, vendor: str, product: str) -> None:
    folder = root / "sys/bus/usb/devices" / place
    folder.mkdir(parents=True)
    (folder / "idVendor").write_text(f"{vendor}\n")
    (folder / "idProduct").write_text(f"{product}\n")


def test_usb_sticks_before_and_after_their_first_use(
    tmp_path: pathlib.Path,
) -> None:
    """Both ids of a stick are known; other devices, and ports without ids, are not taken
    for one.
    """
    plug_in(tmp_path, "1-1", "1a6e", "089a")
    plug_in(tmp_path, "2-1", "18d1", "9302")
    plug_in(tmp_path, "2-2", "18d1", "4ee7")
    (tmp_path / "sys/bus/usb/devices/1-0:1.0").mkdir()
    assert find_devices(tmp_path) == [
        "usb 1-1 (1a6e:089a, not used since it was connected)",
        "usb 2-1 (18d1:9302, ready)",
    ]


def test_pcie_cards(tmp_path: pathlib.Path) -> None:
    """The driver's devices, with the chip's temperature if it is reported."""
    (tmp_path / "dev").mkdir()
    for name in ("apex_0", "apex_1", "null"):
        (tmp_path / "dev" / name).touch()
    (tmp_path / "sys/class/apex/apex_0").mkdir(parents=True)
    (tmp_path / "sys/class/apex/apex_0/temp").write_text("46300\n")
    assert find_devices(tmp_path) == [
        "pcie apex_0 (46 degrees Celsius)",
        "pcie apex_1 (temperature not reported)",
    ]


def test_nothing_is_here(tmp_path: pathlib.Path) -> None:
    """An empty folder has none."""
    assert find_devices(tmp_path) == []


def test_this_machine_has_none() -> None:
    """Without a stick the answer is empty; with one, this test is skipped."""
    if find_devices():
        pytest.skip(f"an Edge TPU is connected: {find_devices()}")
    assert find_devices() == []


def test_a_missing_library_is_reported() -> None:
    """The error names the library and where it comes from."""
    with pytest.raises(
        EdgeTpuError,
        match=r"libedgetpu is not installed\. Fix: install libedgetpu1-std from Google's own"
        r" package archive",
    ):
        create_delegate(_no_delegate, library_finder=lambda: None)


def test_a_missing_device_is_reported() -> None:
    """The library without a stick: what to plug in."""
    with pytest.raises(EdgeTpuError, match=r"No Edge TPU is connected\. Fix: "):
        create_delegate(
            _no_delegate, library_finder=lambda: "libedgetpu.so.1", devices=[]
        )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "usb 1-1 (1a6e:089a, not used since it was connected)",
            "/dev/bus/usb",
        ),
        ("pcie apex_0 (46 degrees Celsius)", "group plugdev or apex"),
    ],
)
def test_a_library_that_gives_no_delegate(
    device: str, message: str, tmp_path: pathlib.Path
) -> None:
    """LiteRT's own load_delegate on a library that refuses, as libedgetpu does without the
    right to the device: an error with a fix.
    """
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    source, library_file = tmp_path / "refuses.c", tmp_path / "librefuses.so"
    source.write_text(
        "void *tflite_plugin_create_delegate(char **k, char **v, int n, void *e)"
        " { return 0; }\nvoid tflite_plugin_destroy_delegate(void *d) {}\n"
    )
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library_file), str(source)],
        check=True,
    )
    with pytest.raises(
        EdgeTpuError,
        match=rf"libedgetpu failed to create a delegate for {re.escape(device)}: .*{message}",
    ):
        create_delegate(
            interpreter.load_delegate,
            library_finder=lambda: str(library_file),
            devices=[device],
        )


def test_a_runtime_that_cannot_load_is_reported() -> None:
    """Whatever a runtime raises for a library that it cannot use."""

    def refuses(*_: object) -> None:
        raise OSError("libedgetpu.so.1: cannot open shared object file")

    with pytest.raises(
        EdgeTpuError, match="cannot open shared object file. Fix: "
    ):
        create_delegate(
            refuses,
            library_finder=lambda: "libedgetpu.so.1",
            devices=["pcie apex_0"],
        )


def test_what_reaches_the_runtime() -> None:
    """The library's name and the options, as libedgetpu reads them."""
    got = create_delegate(
        lambda name, options: (name, options),
        {"device": "usb:0"},
        library_finder=lambda: "libedgetpu.so.1",
        devices=["usb"],
    )
    assert got == ("libedgetpu.so.1", {"device": "usb:0"})


def test_a_library_that_the_loader_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the loader under the name that it is given; one that is not there is None."""
    monkeypatch.setitem(edgetpu.LIBRARIES, sys.platform, "libc.so.6")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert find_library() == "libc.so.6"
    monkeypatch.setitem(
        edgetpu.LIBRARIES, sys.platform, "libedgetpu_that_is_not_there.so.1"
    )
    assert find_library() is None


def test_it_runs_alone(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The file on its own, in a Python without any package: that is how a device gets it."""
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['find_devices'](sys.argv[2]))"
    plug_in(tmp_path, "1-1", "18d1", "9302")
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            code,
            str(root / "edgekit/device_worker/edgetpu.py"),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['usb 1-1 (18d1:9302, ready)']"


def _no_delegate(*_: Any) -> Callable[..., Any]:
    raise AssertionError("no delegate may be loaded here")
