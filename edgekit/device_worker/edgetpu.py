"""Finds Edge TPUs connected to this machine, and the library that TFLite needs to use one.

The standard library only; the file also works on its own:

    devices = find_devices()                          # empty if there is none
    delegate = create_delegate(interpreter_module.load_delegate)
    Interpreter(model_path="main_edgetpu.tflite", experimental_delegates=[delegate])

Source of the ids and paths: coral.ai, "Get started with the USB Accelerator" and "... M.2 or
Mini PCIe Accelerator".
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

#: A USB accelerator has the first id (Global Unichip) until libedgetpu has sent it its
#: program for the first time, then Google's.
USB_IDS = {"1a6e:089a": "not used since it was connected", "18d1:9302": "ready"}
#: The device files of the PCIe driver, also on the Dev Board.
PCIE_DEVICES = "apex_*"
LIBRARIES = {
    "linux": "libedgetpu.so.1",
    "darwin": "libedgetpu.1.dylib",
    "win32": "edgetpu.dll",
}
INSTALL = (
    "install libedgetpu1-std from Google's own package archive (coral.ai/software), or build"
    " google-coral/libedgetpu; packages of that name from other sources are different"
    " software"
)


class EdgeTpuError(Exception):
    """An Edge TPU cannot be used; the message contains the reason and a fix."""


def find_devices(root: str | os.PathLike[str] = "/") -> list[str]:
    """The Edge TPUs of this machine, one line each; Linux only, empty elsewhere.

    ``root``: the folder that contains /sys and /dev.
    """
    base = pathlib.Path(root)
    devices = []
    for device in _list_folder(base / "sys/bus/usb/devices", "*"):
        usb_id = f"{_read(device / 'idVendor')}:{_read(device / 'idProduct')}"
        if usb_id in USB_IDS:
            devices.append(f"usb {device.name} ({usb_id}, {USB_IDS[usb_id]})")
    for device in _list_folder(base / "dev", PCIE_DEVICES):
        devices.append(
            f"pcie {device.name} ({_describe_temperature(base, device.name)})"
        )
    return devices


def find_library() -> str | None:
    """The name under which the dynamic loader finds libedgetpu, or None."""
    default = LIBRARIES.get(sys.platform)
    if default is None:
        return None
    candidates = [default]
    listed = ctypes.util.find_library("edgetpu")
    if listed and listed != default:
        candidates.append(listed)
    for name in candidates:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def create_delegate(
    load_delegate: Callable[..., Any],
    options: Mapping[str, str] | None = None,
    *,
    library_finder: Callable[[], str | None] = find_library,
    devices: list[str] | None = None,
) -> Any:
    """Create the delegate for a TFLite interpreter.

    ``load_delegate`` is the runtime's own function (ai_edge_litert.interpreter,
    tflite_runtime.interpreter). ``options`` are passed to libedgetpu: ``{"device":
    "usb:0"}`` or ``{"device": "pci:1"}`` selects one of several. Raises EdgeTpuError.
    """
    library = library_finder()
    if library is None:
        raise EdgeTpuError(f"libedgetpu is not installed. Fix: {INSTALL}")
    if devices is None:
        devices = find_devices()
    if not devices and sys.platform == "linux":
        raise EdgeTpuError(
            "No Edge TPU is connected. Fix: connect a Coral USB Accelerator, or load its"
            " PCIe driver (gasket-dkms), which creates /dev/apex_0"
        )
    try:
        return load_delegate(library, dict(options or {}))
    # AttributeError: the library is not libedgetpu.
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        target = ", ".join(devices) or "this device"
        reason = str(error).strip() or "no reason reported"
        raise EdgeTpuError(
            f"libedgetpu failed to create a delegate for {target}: {reason}."
            f" Fix: {_suggest_fix(devices)}"
        ) from error


def _suggest_fix(devices: list[str]) -> str:
    """What usually helps; libedgetpu itself reports no reason for a failure."""
    usual = (
        "give this user access to the device (group plugdev or apex, udev rules of"
        " libedgetpu1-std), reconnect it, and end other programs that use it"
    )
    if any(line.startswith("usb") and "not used" in line for line in devices):
        return (
            f"{usual}; in a container, pass through all of /dev/bus/usb, because the"
            " accelerator changes its id at its first use"
        )
    return usual


def _list_folder(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _describe_temperature(base: pathlib.Path, name: str) -> str:
    """The chip's temperature; the PCIe driver reports thousandths of a degree Celsius."""
    reading = _read(base / "sys/class/apex" / name / "temp")
    if not reading.lstrip("-").isdigit():
        return "temperature not reported"
    return f"{int(reading) / 1000:.0f} degrees Celsius"
