"""Half precision halves the file and keeps its interface and its answers."""

import pathlib

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import onnx_graph
from edgekit.steps.quantize_onnx import QuantizeOnnx
from edgekit.steps.torch_to_onnx import export
from edgekit.task import Task

IMAGE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),), outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),)
)


def artifact(folder: pathlib.Path) -> Artifact:
    layers = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = 1e-9  # below half precision's range: the converter's note must not reach the user
    folder.mkdir()
    onnx_graph.write(export(network, IMAGE), folder / "main.onnx")
    return Artifact(form="onnx", parts=(Part(name="main", signature=IMAGE, files={"model": File(path="main.onnx")}),), folder=folder)


def made(before: Artifact, folder: pathlib.Path) -> Artifact:
    folder.mkdir()
    task = Task(name="none", test=(numpy.zeros((1, 1, 8, 8), "float32"), numpy.zeros(1)))
    return QuantizeOnnx().run(before, Context(folder=folder, networks=dict, task=task))


def test_the_file_is_half_as_large_and_answers_alike(tmp_path: pathlib.Path) -> None:
    """32-bit inputs and outputs, 16-bit weights, answers within half precision."""
    before = artifact(tmp_path / "float")
    after = made(before, tmp_path / "half")
    QuantizeOnnx().requires(before)
    QuantizeOnnx().ensures(before, after)
    paths = [item.path(item.parts[0]) for item in (before, after)]
    assert paths[1].stat().st_size < 0.6 * paths[0].stat().st_size
    data = numpy.random.default_rng(0).random((4, 1, 8, 8), "float32")
    first, second = (onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"input": data})[0] for path in paths)
    assert second.dtype == numpy.float32
    numpy.testing.assert_allclose(first, second, atol=1e-2)


def test_nodes_out_of_order_and_float_weights_are_noticed(tmp_path: pathlib.Path) -> None:
    """The promise can fail."""
    before = artifact(tmp_path / "float")
    with pytest.raises(StepError, match="no float weights"):
        QuantizeOnnx().ensures(before, before)


def test_sorting_puts_every_node_behind_its_inputs() -> None:
    """onnx's own reference cannot run a graph that is out of order."""
    graph = onnx.parser.parse_graph("g (float[1] x) => (float[1] y) { a = Relu(x) y = Neg(a) }")
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    assert not onnx_graph.is_sorted(graph)
    onnx_graph.sort(graph)
    assert onnx_graph.is_sorted(graph) and [node.op_type for node in graph.node] == ["Relu", "Neg"]


def test_a_calibrated_scheme_is_refused(tmp_path: pathlib.Path) -> None:
    """It is made on the PyTorch graph."""
    with pytest.raises(StepError, match="not made on an ONNX file"):
        QuantizeOnnx(scheme="w8a8-static").requires(artifact(tmp_path / "float"))
