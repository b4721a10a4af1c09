"""The ONNX file is small, checked, computes what the network computes, and keeps the
signature.
"""

import pathlib

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import TorchToOnnx, check_interface, export
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.quantize_torch import QuantizeTorch
from edgekit.task import Task

IMAGE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)


class Block(nn.Module):
    """A small residual network."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.norm = (
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv, self.norm_2 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.norm_2(self.conv(x)) + x)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def run(
    path: pathlib.Path, array: numpy.ndarray, name: str = "input"
) -> numpy.ndarray:
    """The file's first output with graph optimization switched off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    ).run(None, {name: array})[0]


def digits_task() -> Task:
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = (data.images[:, None] / 16).astype("float32"), data.target
    return Task(
        name="digits",
        train=(images[:600], labels[:600]),
        test=(images[1000:], labels[1000:]),
    )


def context(folder: pathlib.Path) -> Context:
    folder.mkdir()
    return Context(
        folder=folder, networks=lambda: {"main": Block()}, task=digits_task()
    )


def stored(folder: pathlib.Path) -> Artifact:
    folder.mkdir()
    return torch_storage.save(
        {"main": Block().eval()}, {"main": IMAGE}, folder, {}
    )


def test_a_float_network_is_exported_exactly_for_every_batch_size(
    tmp_path: pathlib.Path,
) -> None:
    """Same numbers as PyTorch, names and a free batch dim from the signature."""
    artifact, step = stored(tmp_path / "torch"), TorchToOnnx()
    exported = step.run(artifact, context(tmp_path / "onnx"))
    step.ensures(artifact, exported)
    network = torch_storage.load(artifact, {"main": Block()})["main"]
    for batch in (1, 5):
        data = torch.rand(batch, 1, 8, 8)
        with torch.no_grad():
            numpy.testing.assert_allclose(
                run(exported.path(exported.parts[0]), data.numpy()),
                network(data).numpy(),
                atol=1e-5,
            )
    assert (
        exported.notes["operators"]["main"]["Conv"] == 2
        and "BatchNormalization" not in exported.notes["operators"]["main"]
    )


def test_a_quantized_network_keeps_its_numbers_and_is_a_quarter_of_the_size(
    tmp_path: pathlib.Path,
) -> None:
    """ONNX Runtime without optimization is within two output steps of the quantized PyTorch
    graph, on two batch sizes.
    """
    from edgekit.quantization.calibration import read
    from edgekit.quantization.graph import simulate

    plain, data = (
        stored(tmp_path / "torch"),
        digits_task().need("test", "the test").inputs["input"],
    )
    quantized = QuantizeTorch(samples=128).run(
        plain, context(tmp_path / "int8")
    )
    files = {}
    for name, artifact in (("float", plain), ("int8", quantized)):
        step = TorchToOnnx()
        exported = step.run(artifact, context(tmp_path / f"onnx-{name}"))
        step.ensures(artifact, exported)
        files[name] = exported.path(exported.parts[0])
    calibration = read(quantized.path(quantized.parts[0], "quantization"))
    reference = simulate(
        torch_storage.load(plain, {"main": Block()})["main"],
        IMAGE,
        calibration,
        fold=True,
    )
    step_size = next(
        tensor.scale[0]
        for tensor in calibration.tensors.values()
        if tensor.module == "head" and tensor.axis is None
    )
    for samples in (data[:1], data[:64]):
        with torch.no_grad():
            difference = numpy.abs(
                run(files["int8"], samples)
                - reference(torch.from_numpy(samples)).numpy()
            ).max()
        assert difference <= 2 * step_size + 1e-6
    assert files["int8"].stat().st_size < 0.4 * files["float"].stat().st_size


def test_node_names_contain_the_module_in_float_and_int8_alike(
    tmp_path: pathlib.Path,
) -> None:
    """A report can compare the same layer in two files, and no other text is shipped."""
    plain = stored(tmp_path / "torch")
    quantized = QuantizeTorch(samples=64).run(plain, context(tmp_path / "int8"))
    names = []
    for number, artifact in enumerate((plain, quantized)):
        exported = TorchToOnnx().run(
            artifact, context(tmp_path / f"onnx-{number}")
        )
        model = onnx.load(str(exported.path(exported.parts[0])))
        names.append({node.name for node in model.graph.node if node.name})
        assert not model.metadata_props and not any(
            node.metadata_props or node.doc_string for node in model.graph.node
        )
    assert (
        names[0] == names[1]
        and {"stem/Conv", "conv/Conv", "head/Gemm"} <= names[0]
    )


def test_an_operator_without_translation_is_named() -> None:
    """The user reads which operation to replace, not an exporter's trace."""

    class Histogram(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.histc(x, bins=10)

    signature = Signature(
        inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 10)),),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 10)),
        ),
    )
    with pytest.raises(
        StepError, match=r"no translation of the operator aten[:.]+histc"
    ):
        export(Histogram().eval(), signature)


def test_a_file_with_another_interface_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """The step's own promise is checked on the written file."""
    path = tmp_path / "main.onnx"
    onnx_graph.write(export(Block().eval(), IMAGE), path)
    check_interface(path, IMAGE)
    renamed = Signature(
        inputs=IMAGE.inputs,
        outputs=(
            TensorSpec(name="scores", dtype="float32", dims=("batch", 10)),
        ),
    )
    with pytest.raises(StepError, match="interface"):
        check_interface(path, renamed)


def test_several_inputs_and_outputs_keep_their_names(
    tmp_path: pathlib.Path,
) -> None:
    """Integer inputs too; the order is the signature's."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.left, self.right = (
                nn.Embedding(12, 6),
                nn.Linear(6, 4),
                nn.Linear(6, 3),
            )

        def forward(self, tokens: Tensor, weights: Tensor) -> dict[str, Tensor]:
            mean = (self.table(tokens) * weights[..., None]).sum(1)
            return {"right": self.right(mean), "left": self.left(mean)}

    ids = TensorSpec(
        name="tokens", dtype="int64", dims=("batch", 5), low=0, high=12
    )
    outputs = (
        TensorSpec(name="left", dtype="float32", dims=("batch", 4)),
        TensorSpec(name="right", dtype="float32", dims=("batch", 3)),
    )
    signature = Signature(
        inputs=(
            ids,
            TensorSpec(name="weights", dtype="float32", dims=("batch", 5)),
        ),
        outputs=outputs,
    )
    network, path = Two().eval(), tmp_path / "main.onnx"
    onnx_graph.write(export(network, signature), path)
    check_interface(path, signature)
    feeds = signature.draw(3)
    results = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    ).run(["left", "right"], dict(feeds))
    with torch.no_grad():
        expected = network(
            *(torch.from_numpy(feeds[name]) for name in ("tokens", "weights"))
        )
    for result, name in zip(results, ("left", "right"), strict=True):
        numpy.testing.assert_allclose(result, expected[name].numpy(), atol=1e-5)


def test_an_opset_that_cannot_be_written_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """Before any work."""
    with pytest.raises(StepError, match="opset"):
        TorchToOnnx(opset=9).requires(stored(tmp_path / "torch"))


class Sequence(nn.Module):
    """An LSTM, then attention heads split with reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.mix, self.head = (
            nn.LSTM(8, 16, batch_first=True),
            nn.Linear(16, 16),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        heads = self.mix(x).reshape(x.shape[0], 6, 4, 4).transpose(1, 2)
        mixed = torch.softmax(heads @ heads.transpose(2, 3), -1) @ heads
        return self.head(
            mixed.transpose(1, 2).reshape(x.shape[0], 6, 16).mean(1)
        )


def test_weights_are_arranged_once_and_shapes_with_a_free_batch_are_constants(
    tmp_path: pathlib.Path,
) -> None:
    """An LSTM's weights are stored as its node expects them, no node computes a shape for a
    reshape, and any batch is right.
    """
    signature = Signature(
        inputs=(
            TensorSpec(name="input", dtype="float32", dims=("batch", 6, 8)),
        ),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 10)),
        ),
    )
    network = Sequence().eval()
    model = export(network, signature)
    constants = onnx_graph.constants(model.graph)
    (lstm,) = (node for node in model.graph.node if node.op_type == "LSTM")
    assert all(name in constants for name in lstm.input[1:4])
    assert all(
        node.input[1] in constants
        for node in model.graph.node
        if node.op_type == "Reshape" and "mix" not in node.name
    )
    onnx_graph.write(model, tmp_path / "main.onnx")
    for batch in (1, 7):
        data = torch.randn(batch, 6, 8)
        with torch.no_grad():
            numpy.testing.assert_allclose(
                run(tmp_path / "main.onnx", data.numpy()),
                network(data).numpy(),
                atol=1e-5,
            )
