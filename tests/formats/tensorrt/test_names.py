"""The names of TensorRT's Python API that edgekit uses are there in TensorRT 10.3, 11.4 and
TensorRT-RTX.

tensorrt_names.json was listed from the classes of NVIDIA's own bindings
(tensorrt_cu12_bindings 10.3.0, tensorrt_cu13_bindings 11.4.0.106), imported against empty
libraries, since the real ones are not available; the functions of their __init__.py
(nptype) were read there. Only names: nothing was called.
"""

import ast
import json
import pathlib
from collections.abc import Iterator

import pytest

from edgekit.device_worker import runtime_tensorrt
from edgekit.formats.tensorrt import build as tensorrt_build

LISTED = {
    version: {owner: set(names.split()) for owner, names in owners.items()}
    for version, owners in json.loads(
        pathlib.Path(__file__).with_name("tensorrt_names.json").read_text()
    ).items()
}
#: The name of an object in the code -> its class; "" is the module itself.
OBJECTS = {
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "library": "",
    "self._library": "",
    "runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "mode": "TensorIOMode",
    "trt.ILogger": "ILogger",
    "library.ILogger": "ILogger",
    "trt.ProfilingVerbosity": "ProfilingVerbosity",
    "trt.NetworkDefinitionCreationFlag": "NetworkDefinitionCreationFlag",
    "trt.ComputeCapability": "ComputeCapability",
}
#: Only in tensorrt_rtx; used only after hasattr(config, "num_compute_capabilities").
RTX_ONLY = {
    ("", "ComputeCapability"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}
#: Python's own, on every enumeration and module.
PLAIN = {"__members__", "__init__", "__name__"}


def used(path: str) -> Iterator[tuple[str, str]]:
    """(class, name) of every attribute that the file takes of one of the objects.

    ``error`` in an except clause is Python's own.
    """
    for node in ast.walk(ast.parse(pathlib.Path(path).read_text())):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if (
                owner in OBJECTS
                and node.attr not in PLAIN
                and not node.attr.startswith("cuda")
            ):
                yield OBJECTS[owner], node.attr


USED = sorted(
    {*used(tensorrt_build.__file__), *used(runtime_tensorrt.__file__)}
)


def test_the_uses_are_found() -> None:
    """The walk over the code sees the builder, the parser, the engine and the context; else
    the test below would prove nothing.
    """
    expected = {
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "node_operator"),
        ("Runtime", "deserialize_cuda_engine"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "get_tensor_mode"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("", "nptype"),
    } | RTX_ONLY
    assert expected <= set(USED) and len(USED) >= 35


@pytest.mark.parametrize("version", LISTED)
def test_every_name_is_there(version: str) -> None:
    """In classic TensorRT all but the compute capabilities, in TensorRT-RTX all."""
    missing = [
        row for row in USED if row[1] not in LISTED[version].get(row[0], ())
    ]
    assert set(missing) <= (set() if "rtx" in version else RTX_ONLY)


@pytest.mark.parametrize(
    "name", ["FP16", "int8_calibrator", "device_memory_size", "supports_model"]
)
def test_what_11_took_away_is_not_used(name: str) -> None:
    """Precision flags, calibrators and the old calls are gone in 11."""
    assert name not in {attribute for _, attribute in USED}


def test_the_installed_tensorrt_rtx_is_as_listed() -> None:
    """Each name that is used, looked up in the library itself."""
    trt = pytest.importorskip("tensorrt_rtx")
    for owner, name in USED:
        assert hasattr(getattr(trt, owner) if owner else trt, name), (
            owner,
            name,
        )
