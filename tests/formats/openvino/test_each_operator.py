"""Every row of the quantizer's table in OpenVINO: the file computes what the simulation in
PyTorch computes, within two output steps. The int8 kernels are not used, because they
saturate on processors without VNNI.
"""

import importlib.util
import pathlib
import sys
from types import ModuleType

import numpy
import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.device_worker import runtime_openvino
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.openvino.export import OnnxToOpenvino
from edgekit.quantization.graph import simulate
from edgekit.quantization.settings import Settings
from edgekit.testing import tiny_task

#: Outputs that OpenVINO 2026.4 computes wrongly: it removes the abs of a quantized constant.
WRONG = {"numbers": {6}}
STEPS = 2.001


def load_cases() -> ModuleType:
    """The test module with the networks and their simulation."""
    path = (
        pathlib.Path(__file__).parents[2] / "quantization/test_each_operator.py"
    )
    spec = importlib.util.spec_from_file_location("each_operator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["each_operator"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


CASES = load_cases()


@pytest.mark.parametrize("case", CASES.CASES)
def test_openvino_computes_what_torch_simulates(
    case: str, tmp_path: pathlib.Path
) -> None:
    """Every output of every operator, but one that OpenVINO has an error in."""
    quantized = CASES.quantized(CASES.CASES[case], Settings(runtime="openvino"))
    signature = quantized.signature
    simulated = simulate(
        quantized.case, signature, quantized.calibration, fold=True
    )
    onnx_graph.write(export(simulated, signature), tmp_path / "main.onnx")
    files = {"model": File(path="main.onnx")}
    part = Part(name="main", signature=signature, files=files)
    before = Artifact(format="onnx", parts=(part,), folder=tmp_path)
    (tmp_path / "openvino").mkdir()
    context = Context(
        folder=tmp_path / "openvino", networks=dict, task=tiny_task()
    )
    OnnxToOpenvino(scheme="w8a8-static").run(before, context)
    path = str(tmp_path / "openvino/main.xml")
    model = runtime_openvino.Model(path, 1, optimize=False)
    names = [spec.name for spec in signature.inputs]
    feeds = dict(
        zip(names, map(numpy.ascontiguousarray, quantized.feeds), strict=True)
    )
    outputs = model.bind(
        {row["name"]: feeds[row["name"]] for row in model.inputs}
    )()
    steps = CASES.differences(quantized, outputs)
    too_far = {place for place, step in enumerate(steps) if step > STEPS}
    assert too_far == WRONG.get(case, set()), [round(step, 2) for step in steps]
