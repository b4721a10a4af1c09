"""Edge TPUs that are plugged in here, and the library that a TFLite interpreter needs to
use one. The standard library only.

    found = sticks()                                  # empty: none is here
    with_it = delegate(interpreter_module.load_delegate)
    Interpreter(model_path="main_edgetpu.tflite", experimental_delegates=[with_it])

Where the ids and paths come from: coral.ai, "Get started with the USB Accelerator" and "...
M.2 or Mini PCIe Accelerator".
"""

from __future__ import annotations

import ctypes.util
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

#: A USB stick has the first id (Global Unichip) until libedgetpu has sent it its program
#: for the first time, then Google's.
USB_IDS = {"1a6e:089a": "not used since it was plugged in", "18d1:9302": "ready"}
#: Its PCIe driver makes these, the Dev Board's too.
PCIE_DEVICES = "apex_*"
LIBRARIES = {
    "linux": "libedgetpu.so.1",
    "darwin": "libedgetpu.1.dylib",
    "win32": "edgetpu.dll",
}
INSTALL = (
    "install libedgetpu1-std from Google's own package archive (coral.ai/software), or build google-coral/libedgetpu; "
    "the packages of that name elsewhere are not it"
)


class EdgeTpuError(Exception):
    """An Edge TPU cannot be used; the message says why, and the way out."""


def sticks(root: str | os.PathLike[str] = "/") -> list[str]:
    """What Edge TPUs are here, one line each, found in ``root``'s /sys and /dev (Linux).

    Empty elsewhere, and where there is none.
    """
    base = pathlib.Path(root)
    found = []
    for device in _listed(base / "sys/bus/usb/devices", "*"):
        name = ":".join(_read(device / part) for part in ("idVendor", "idProduct"))
        if name in USB_IDS:
            found.append(f"usb {device.name} ({name}, {USB_IDS[name]})")
    found += [
        f"pcie {device.name} ({_temperature(base, device.name)})"
        for device in _listed(base / "dev", PCIE_DEVICES)
    ]
    return found


def library() -> str | None:
    """The name under which the loader finds libedgetpu here, or None."""
    name = LIBRARIES.get(sys.platform)
    if name is None:
        return None
    known = ctypes.util.find_library("edgetpu")
    for candidate in dict.fromkeys((name, *([known] if known else []))):
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return candidate
    return None


def delegate(
    load_delegate: Callable[..., Any],
    options: Mapping[str, str] | None = None,
    *,
    find: Callable[[], str | None] = library,
    found: list[str] | None = None,
) -> Any:
    """The delegate for a TFLite interpreter: ``load_delegate`` is the runtime's own
    function (ai_edge_litert.interpreter, tflite_runtime.interpreter).

    ``options`` go to libedgetpu: ``{"device": "usb:0"}`` or ``{"device": "pci:1"}`` where
    there are several. Raises EdgeTpuError.
    """
    name = find()
    if name is None:
        raise EdgeTpuError(f"libedgetpu is not installed here. Fix: {INSTALL}")
    here = sticks() if found is None else found
    if not here and sys.platform == "linux":
        raise EdgeTpuError(
            "No Edge TPU is plugged in here. Fix: plug in a Coral USB Accelerator, or load its PCIe driver (gasket-dkms), which makes /dev/apex_0"
        )
    try:
        return load_delegate(name, dict(options or {}))
    except (
        ValueError,
        RuntimeError,
        OSError,
        AttributeError,
    ) as error:  # AttributeError: the library is something else
        raise EdgeTpuError(
            f"libedgetpu gives no delegate for {', '.join(here) or 'this device'}: {str(error).strip() or 'it says no more'}. Fix: {_way_out(here)}"
        ) from error


def _way_out(found: list[str]) -> str:
    """libedgetpu itself says nothing of why it failed."""
    tried = "let this user use the device (group plugdev or apex, udev rules of libedgetpu1-std), plug it in again, and end other programs that use it"
    if any(line.startswith("usb") and "not used" in line for line in found):
        return f"{tried}; in a container, pass on all of /dev/bus/usb, since the stick gets another id at its first use"
    return tried


def _listed(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _temperature(base: pathlib.Path, name: str) -> str:
    """The PCIe driver tells the chip's temperature, in thousandths of a degree."""
    told = _read(base / "sys/class/apex" / name / "temp")
    return (
        f"{int(told) / 1000:.0f} degrees Celsius"
        if told.lstrip("-").isdigit()
        else "temperature not told"
    )
