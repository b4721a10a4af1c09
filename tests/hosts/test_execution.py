"""The device's own file and runtime where the device is; what stands in for it, and reports
so, everywhere else.
"""

import pytest

from edgekit.artifact import File, FormatName, Part
from edgekit.hosts.execution import choose_execution
from edgekit.hosts.local import LocalHost
from edgekit.signature import Signature, TensorSpec

SPEC = TensorSpec(name="x", dtype="uint8", dims=(1, 2))
FILES = {
    "model": File(path="m.tflite"),
    "compiled": File(path="m_edgetpu.tflite"),
    "engine": File(path="m.engine"),
}
PART = Part(
    name="main",
    signature=Signature(inputs=(SPEC,), outputs=(SPEC,)),
    files=FILES,
)
STICK = {
    "devices": {"edgetpu": ["usb 1-2 (18d1:9302, ready)"], "gpu": False},
    "versions": {},
}
GPU = {
    "devices": {"edgetpu": [], "gpu": True},
    "versions": {"tensorrt": "10.3.0"},
}


@pytest.mark.parametrize(
    ("format", "capabilities", "role", "runtime"),
    [
        ("edgetpu", STICK, "compiled", "edgetpu"),
        ("edgetpu", GPU, "model", "litert"),
        ("tensorrt", GPU, "engine", "tensorrt"),
        ("tensorrt", {**GPU, "versions": {}}, "model", "onnxruntime"),
        ("tensorrt", STICK, "model", "onnxruntime"),
        ("ethosu", STICK, "model", "litert"),
        ("tflite", STICK, "model", "litert"),
    ],
)
def test_the_way_is_the_devices_own_where_it_is(
    format: FormatName, capabilities: dict[str, object], role: str, runtime: str
) -> None:
    """An Edge TPU loads the compiled file, a GPU with TensorRT the engine; a file that only
    stands in is marked as such.
    """
    choice = choose_execution(format, PART, capabilities)
    assert (choice.role, choice.runtime) == (role, runtime)
    assert bool(choice.stands_in) == (
        format in ("edgetpu", "tensorrt", "ethosu") and role == "model"
    )


def test_a_part_that_was_not_compiled_stands_in() -> None:
    """Without the compiler there is no file for the stick."""
    bare = PART.model_copy(update={"files": {"model": File(path="m.tflite")}})
    assert choose_execution("edgetpu", bare, STICK).stands_in


def test_this_machine_reports_its_devices() -> None:
    """hello of a real worker lists Edge TPUs and reports whether there is a GPU."""
    devices = LocalHost().hello()["devices"]
    assert isinstance(devices["edgetpu"], list) and isinstance(
        devices["gpu"], bool
    )
