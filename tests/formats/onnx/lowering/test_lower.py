"""Lowering changes how numbers are stored and not what they are, and afterwards everything
fuses.
"""

import pathlib

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.onnx.lowering.lower import LowerOnnx, lower
from edgekit.formats.onnx.lowering.unsigned import never_negative
from edgekit.formats.tensorrt.graph import require_supported
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Task
from tests.processors import saturates

IMAGE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)


class Residual(nn.Module):
    """Adds, normalizes after ReLU, pads by hand, adds a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Conv2d(8, 8, 2),
            nn.BatchNorm2d(8),
        )
        self.shift, self.head = (
            nn.Parameter(torch.randn(1, 8, 1, 1)),
            nn.Linear(8, 10),
        )
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(functional.relu(self.first(x)))
        y = (
            functional.relu(self.second(functional.pad(x, (0, 1, 1, 0))) + x)
            + self.shift
        )
        return self.head(y.mean((2, 3)))


class Clipped(nn.Module):
    """Its activations end at a number that calibration reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(1, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardtanh(
            self.second(functional.hardtanh(self.first(x), 0, 0.2)), 0, 0.05
        )
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def quantized(network: nn.Module, symmetric: bool) -> onnx.ModelProto:
    data = torch.rand(64, 1, 8, 8)
    calibration = calibrate(
        network.eval(), [(data,)], IMAGE, Settings(symmetric=symmetric)
    )
    return export(simulate(network, IMAGE, calibration, fold=True), IMAGE)


def session(
    path: pathlib.Path, optimized: pathlib.Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimized is None:
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
    else:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


def lowered(
    model: onnx.ModelProto, folder: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx_graph.write(model, before)
    lower(model)
    onnx_graph.write(model, after)
    return before, after


def operators(path: pathlib.Path, folder: pathlib.Path) -> dict[str, int]:
    session(path, folder / "optimized.onnx")
    return onnx_graph.operators(onnx.load(str(folder / "optimized.onnx")).graph)


@pytest.mark.parametrize("make", [Residual, Clipped])
def test_asymmetric_graphs_give_bit_identical_numbers(
    make, tmp_path: pathlib.Path
) -> None:
    """int8 with zero point z and uint8 with z + 128 are the same real numbers, also beyond
    what calibration saw.
    """
    before, after = lowered(quantized(make(), symmetric=False), tmp_path)
    for scale in (1, 3):
        data = scale * torch.randn(33, 1, 8, 8).numpy()
        numpy.testing.assert_array_equal(
            session(before).run(None, {"input": data})[0],
            session(after).run(None, {"input": data})[0],
        )


@pytest.mark.parametrize(("channels", "pads"), [(1, 1), (3, 1), (4, 0), (6, 1)])
def test_few_channels_become_a_multiple_of_four_and_no_bit_changes(
    channels: int, pads: int, tmp_path: pathlib.Path
) -> None:
    """The convolution of the input has zeros for the missing channels; the integers' sums
    are the same, also at the padded border.
    """
    image = Signature(
        inputs=(
            IMAGE.inputs[0].model_copy(
                update={"dims": ("batch", channels, 8, 8)}
            ),
        ),
        outputs=IMAGE.outputs,
    )
    network = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    ).eval()
    data = (
        torch.randn(64, channels, 8, 8) + 0.7
    )  # a zero point that is not the middle
    model = export(
        simulate(
            network, image, calibrate(network, [(data,)], image), fold=True
        ),
        image,
    )
    before, after = lowered(model, tmp_path)
    assert operators(after, tmp_path).get("Pad", 0) == pads
    numpy.testing.assert_array_equal(
        *(
            session(each).run(None, {"input": data[:9].numpy()})[0]
            for each in (before, after)
        )
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("make", [Residual, Clipped])
def test_everything_fuses_to_integer_kernels(
    make, symmetric: bool, tmp_path: pathlib.Path
) -> None:
    """No float convolution is left; before lowering, the residual network has some."""
    before, after = lowered(quantized(make(), symmetric), tmp_path)
    operator_counts = operators(after, tmp_path)
    assert operator_counts["QLinearConv"] == (3 if make is Residual else 2)
    assert operator_counts["QGemm"] == 1
    assert not operator_counts.keys() & {
        "Conv",
        "FusedConv",
        "Gemm",
        "MatMul",
        "Add",
        "Relu",
    }
    assert (
        operator_counts["Pad"] == 1
    )  # of the input's one channel to four; the network's own is part of a convolution
    assert operator_counts["DequantizeLinear"] == 1
    assert operator_counts["QuantizeLinear"] == 1
    if make is Residual:
        assert operators(before, tmp_path).keys() & {"Conv", "FusedConv"}


@pytest.mark.parametrize("make", [Residual, Clipped])
def test_symmetric_graphs_stay_within_two_steps(
    make, tmp_path: pathlib.Path
) -> None:
    """Inside the calibrated range only rounding can differ."""
    model = quantized(make(), symmetric=True)
    last = max(
        float(onnx.numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.data_type == 1 and not tensor.dims
    )
    before, after = lowered(model, tmp_path)
    data = torch.rand(33, 1, 8, 8).numpy()
    difference = (
        session(before).run(None, {"input": data})[0]
        - session(after).run(None, {"input": data})[0]
    )
    assert numpy.abs(difference).max() <= 2 * last


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("make", [Residual, Clipped])
def test_the_optimized_file_is_within_two_steps_of_the_quantized_pytorch_graph(
    make, symmetric: bool, tmp_path: pathlib.Path
) -> None:
    """What ships computes what was calibrated, on two batch sizes: batch normalization
    after ReLU and one-sided padding included.

    On a processor that saturates, the fused kernels compute something else wherever an
    activation uses the upper half of uint8, with every version of ONNX Runtime. The file is
    the same on all processors, so there it runs without the fused kernels.
    """
    network, data = make().eval(), torch.rand(64, 1, 8, 8)
    calibration = calibrate(
        network, [(data,)], IMAGE, Settings(symmetric=symmetric)
    )
    reference = simulate(network, IMAGE, calibration, fold=True)
    after = lowered(export(reference, IMAGE), tmp_path)[1]
    optimized = None if saturates() else tmp_path / "optimized.onnx"
    running = session(after, optimized)
    step = next(
        tensor.scale[0]
        for tensor in calibration.tensors.values()
        if tensor.module == "head" and tensor.axis is None
    )
    for batch in (1, 64):
        actual = running.run(None, {"input": data[:batch].numpy()})[0]
        with torch.no_grad():
            expected = reference(data[:batch]).numpy()
        assert numpy.abs(actual - expected).max() <= 2 * step + 1e-6


def test_only_tensors_that_cannot_be_negative_take_zero_point_zero() -> None:
    """A sum with a signed constant is not non-negative, a pool of a ReLU is."""
    graph = onnx.parser.parse_graph("""
        g (float[N,2,4,4] x)
            => (float[N,2,1,1] pooled, float[N,2,4,4] shifted, float[N,2,4,4] doubled)
            <float one = {-1.0}> {
            r = Relu(x)
            pooled = GlobalAveragePool(r)
            shifted = Add(r, one)
            doubled = Add(r, r)
        }""")
    assert never_negative(graph) == {"r", "pooled", "doubled"}


def artifact(model: onnx.ModelProto, folder: pathlib.Path) -> Artifact:
    folder.mkdir()
    onnx_graph.write(model, folder / "main.onnx")
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=IMAGE,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


def context(folder: pathlib.Path) -> Context:
    folder.mkdir()
    return Context(
        folder=folder,
        networks=dict,
        task=Task(
            name="none",
            test=(numpy.zeros((1, 1, 8, 8), "float32"), numpy.zeros(1)),
        ),
    )


def test_the_step_keeps_the_interface_and_its_promise(
    tmp_path: pathlib.Path,
) -> None:
    """Float files pass unchanged, quantized ones lose every signed activation; a broken
    promise is noticed.
    """
    step = LowerOnnx()
    for name, model in (
        ("float", export(Residual().eval(), IMAGE)),
        ("int8", quantized(Residual(), False)),
    ):
        before = artifact(model, tmp_path / name)
        step.requires(before)
        after = step.run(before, context(tmp_path / f"{name}-lowered"))
        step.ensures(before, after)
        assert (after.notes["changes"]["main"]["unsigned_tensors"] > 0) is (
            name == "int8"
        )
        if name == "int8":
            with pytest.raises(StepError, match="left int8"):
                step.ensures(before, before)


def test_tensorrt_accepts_symmetric_graphs_and_refuses_the_rest() -> None:
    """Zero points, uint8 and int32 biases are refused with a fix, before TensorRT reads them."""
    require_supported(quantized(Residual(), True).graph, "main", "export")
    with pytest.raises(StepError, match="its zero point is not 0"):
        require_supported(quantized(Residual(), False).graph, "main", "export")
    unsigned = quantized(Residual(), True)
    lower(unsigned)
    with pytest.raises(StepError, match="its zero point is uint8, not int8"):
        require_supported(unsigned.graph, "main", "export")
    constants = "int32[1] b = {3}, float s = {1.0}, int32 z = {0}"
    nodes = "d = DequantizeLinear(b, s, z) y = Add(x, d)"
    bias = onnx.parser.parse_graph(
        f"g (float[1] x) => (float[1] y) <{constants}> {{ {nodes} }}"
    )
    with pytest.raises(StepError, match="a bias is quantized to int32"):
        require_supported(bias, "main", "export")
