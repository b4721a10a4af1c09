"""Which file of a part a host loads, and in which runtime: the device's own where the
device is there, else what stands in for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekit.artifact import FormatName, Part
from edgekit.device_worker.runtimes import RUNTIME_OF

#: Forms whose file on a processor only stands in for what the device runs.
STANDS_IN: Mapping[FormatName, str] = {
    "tensorrt": "same Q/DQ graph; TensorRT engine not executed",
    "edgetpu": "CPU; Edge TPU not executed",
    "ethosu": "CPU; Ethos-U not executed",
}
#: Runtime -> the packages that bring it, any of which will do; named as ``hello`` names
#: them.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "litert": ("ai-edge-litert", "tflite-runtime"),
}
PACKAGES = tuple(name for names in _PACKAGES.values() for name in names)


@dataclasses.dataclass(frozen=True)
class Way:
    """How one part is loaded.

    ``stands_in``: why its times say nothing of the device; empty where it runs on the
    device.
    """

    role: str
    runtime: str
    stands_in: str = ""
    #: What is told of the device, behind the runtime.
    note: str = ""


def runs(format: FormatName, versions: Mapping[str, str]) -> list[str]:
    """The packages of a host that run files of a format; none where it cannot."""
    return [name for name in _PACKAGES[RUNTIME_OF[format]] if versions.get(name)]


def way(format: FormatName, part: Part, told: Mapping[str, Any]) -> Way:
    """How a part of an artifact is loaded on a host that has told this of itself
    (``WorkerHost.hello``).
    """
    devices = told.get("devices") or {}
    sticks, gpu = devices.get("edgetpu") or [], bool(devices.get("gpu"))
    if format == "edgetpu" and sticks and "compiled" in part.files:
        return Way("compiled", "edgetpu", note=f"Edge TPU: {sticks[0]}")
    if (
        format == "tensorrt"
        and gpu
        and "engine" in part.files
        and {"tensorrt", "tensorrt-rtx"} & set(told.get("versions", ()))
    ):
        return Way("engine", "tensorrt", note="engine on the GPU")
    return Way("model", RUNTIME_OF[format], STANDS_IN.get(format, ""))
