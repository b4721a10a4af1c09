"""What each setting of the quantizer changes, on the calibration and in the runtimes."""

import collections
import pathlib

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.onnx.lowering.lower import lower
from edgekit.quantization.graph import Calibration, calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from tests.processors import exact_session


def signed(outputs: int, *dims: int) -> Signature:
    image = TensorSpec(name="input", dtype="float32", dims=("batch", *dims))
    return Signature(
        inputs=(image,),
        outputs=tuple(
            TensorSpec(name=f"output_{k}", dtype="float32", dims=("batch", 1))
            for k in range(outputs)
        ),
    )


class Small(nn.Module):
    """A convolution, two blocks of linear layers, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().mean((2, 3))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Detector(nn.Module):
    """Boxes of hundreds of pixels and scores below one, in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 3, 1)
        with torch.no_grad():
            self.boxes.weight.mul_(400)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.boxes(x), torch.sigmoid(self.scores(x))], 1
        ).flatten(2)


class Mixed(nn.Module):
    """One convolution whose first four channels are 1,000 times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 7, 1)
        with torch.no_grad():
            self.out.weight[:4].mul_(1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(x).relu()).flatten(2)


DATA = torch.rand(64, 2, 6, 6)


def calibrated(
    network: nn.Module, settings: Settings, data: Tensor = DATA
) -> Calibration:
    return calibrate(
        network.eval(), [(data,)], signed(1, *data.shape[1:]), settings
    )


def results(
    network: nn.Module, settings: Settings, data: Tensor = DATA
) -> tuple[Tensor, Tensor]:
    """Of the simulation, and of the network."""
    graph = simulate(
        network,
        signed(1, *data.shape[1:]),
        calibrated(network, settings, data),
        fold=True,
    )
    with torch.no_grad():
        return graph(data), network(data)


def optimized(
    network: nn.Module,
    settings: Settings,
    folder: pathlib.Path,
    data: Tensor = DATA,
) -> collections.Counter[str]:
    """The operators that ONNX Runtime runs; its results are the simulation's, within a
    hundredth of their range.
    """
    signature = signed(1, *data.shape[1:])
    with torch.no_grad():
        dims = ("batch", *network(data).shape[1:])
    signature = signature.model_copy(
        update={
            "outputs": (signature.outputs[0].model_copy(update={"dims": dims}),)
        }
    )
    graph = simulate(
        network,
        signature,
        calibrate(network, [(data,)], signature, settings),
        fold=True,
    )
    model = export(graph, signature)
    lower(model)
    onnx_graph.write(model, folder / "main.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = (
        3,
        str(folder / "run.onnx"),
    )
    session = onnxruntime.InferenceSession(
        str(folder / "main.onnx"), options, providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        expected = graph(data[:4]).numpy()
    exact = exact_session(session, str(folder / "main.onnx"))
    (result,) = exact.run(None, {"input": data[:4].numpy()})
    assert numpy.abs(result - expected).max() <= 0.01 * numpy.ptp(expected)
    return collections.Counter(
        node.op_type for node in onnx.load(str(folder / "run.onnx")).graph.node
    )


def test_a_kept_module_stays_float_with_all_below_it() -> None:
    """Every operator of it is named with the reason; its neighbours are still int8."""
    network = Small()
    plain, kept = (
        calibrated(network, Settings()),
        calibrated(network, Settings(keep=("blocks.1", "head"))),
    )
    kept_operators = {
        (item.op, item.module)
        for item in kept.left_float
        if item.reason == "kept in float"
    }
    assert kept_operators == {
        ("linear.default", "blocks.1.0"),
        ("linear.default", "blocks.1.2"),
        ("linear.default", "head"),
    }
    assert kept.quantized_ops == plain.quantized_ops - 4, (
        "three layers, and the sum that one of them enters"
    )
    assert kept.output_scales == (None,)


def test_a_module_that_was_folded_away_may_be_kept() -> None:
    """A batch normalization has no separate operator any more; naming it is not a mistake."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    assert calibrated(network, Settings(keep=("1",))).quantized_ops == 1


@pytest.mark.parametrize(
    "settings", [Settings(keep=("block.1",)), Settings(split=(("block.1", 2),))]
)
def test_an_unknown_module_gets_a_hint(settings: Settings) -> None:
    """A typo must not be ignored silently."""
    with pytest.raises(
        StepError, match=r"Unknown module 'block\.1'.*blocks\.1"
    ):
        calibrated(Small(), settings)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (("blocks", 2), "not a convolution or linear layer"),
        (("head", 4), "has 4 channels"),
        (("head", 0), "channel 0"),
    ],
)
def test_an_impossible_split_is_refused(
    split: tuple[str, int], message: str
) -> None:
    """Only a layer with weights can be split, and only between two of its channels."""
    with pytest.raises(StepError, match=message):
        calibrated(Small(), Settings(split=(split,)))


def test_outputs_that_mix_ranges_are_split() -> None:
    """Scores keep their own scale next to boxes that are a thousand times as large: joined
    by a concatenation, or by one convolution.
    """
    for network, settings in (
        (Detector(), Settings(split_outputs=True)),
        (Mixed(), Settings(split=(("out", 4),))),
    ):
        joined, expected = results(network, Settings())
        pieces, _ = results(network, settings)
        before, after = (
            (result[:, 4:] - expected[:, 4:]).abs().max()
            for result in (joined, pieces)
        )
        assert after < 0.02 and before > 20 * after
        assert (pieces - expected).abs().max() < 0.02 * expected.abs().max()
        reasons = {
            item.reason for item in calibrated(network, settings).left_float
        }
        assert "its inputs have separate scales" in reasons


def test_a_split_layer_has_exactly_the_weights_of_the_layer() -> None:
    """Both parts are slices: the same int8 weights and scales as without the split."""
    network = Mixed()
    unsplit, split = (
        calibrated(network, Settings()).tensors,
        calibrated(network, Settings(split=(("out", 4),))).tensors,
    )
    parts = [
        tensor.scale
        for key, tensor in split.items()
        if "folded" in key and tensor.axis == 0
    ]
    assert sum(parts, ()) == next(
        tensor.scale
        for key, tensor in unsplit.items()
        if key.endswith("out_weight")
    )


def test_linear_placement_gives_products_with_float_results(
    tmp_path: pathlib.Path,
) -> None:
    """On ONNX Runtime every linear layer, on rows or on sequences, is an integer product
    that returns floats; nothing else is int8.
    """
    settings = Settings(placement="linear", runtime="onnxruntime")
    result = optimized(Small(), settings, tmp_path)
    assert (
        result["QGemm"] == 5
        and result["QLinearConv"] == 1
        and not {"Gemm", "MatMul", "QLinearAdd"} & result.keys()
    )
    assert result["DequantizeLinear"] == 1, (
        "after the convolution, none after a linear layer"
    )
    sequences = nn.Sequential(
        nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6)
    ).eval()
    assert optimized(sequences, settings, tmp_path)["MatMulIntegerToFloat"] == 2


def test_one_scale_for_all_weights() -> None:
    """``per_channel`` false means one scale, true one per output channel."""
    for per_channel, counts in ((False, {1}), (True, {8, 4})):
        tensors = calibrated(Small(), Settings(per_channel=per_channel)).tensors
        assert {
            len(tensor.scale)
            for key, tensor in tensors.items()
            if key.endswith("weight")
        } == counts


def test_sixteen_bits_are_nearly_float() -> None:
    """int16 with zero point 0, and a hundredth of the error of eight bits."""
    network = Small()
    wide = calibrated(network, Settings(activation_bits=16))
    activations = [
        tensor
        for key, tensor in wide.tensors.items()
        if not key.endswith("weight")
    ]
    assert activations and all(
        tensor.dtype == "int16" and tensor.zero_point == (0,)
        for tensor in activations
    )
    narrow_error, wide_error = (
        (first - second).abs().max()
        for first, second in (
            results(network, Settings(activation_bits=bits)) for bits in (8, 16)
        )
    )
    assert wide_error < narrow_error


def test_observers_differ_where_there_are_outliers() -> None:
    """One number in a hundred thousand that is far out widens min-max, and hardly the
    percentile; an average is between.
    """
    data = torch.randn(4, 256, 100)
    data[3, 0, 0] = 1000.0
    network = nn.Sequential(nn.Linear(100, 4)).eval()
    batches = [(part,) for part in data]
    scale = {}
    for observer in ("min-max", "percentile", "moving-average", "histogram"):
        result = calibrate(
            network, batches, signed(1, 100), Settings(observer=observer)
        )
        scale[observer] = next(
            tensor.scale[0]
            for key, tensor in result.tensors.items()
            if key.startswith("inputs")
        )
    assert (
        scale["percentile"]
        < 0.05
        < 0.3
        < scale["moving-average"]
        < 1
        < scale["min-max"]
    )
    assert scale["histogram"] <= scale["min-max"]


@pytest.mark.parametrize(
    "observer", ["histogram", "min-max", "percentile", "moving-average"]
)
def test_constant_data_give_a_usable_scale(observer: str) -> None:
    """All zeros, and one number everywhere, but for one pixel: finite, and the network is
    still right on them.
    """
    for value in (0.0, 0.7):
        data = torch.full((8, 2, 6, 6), value)
        data[0, 0, 0, 0] += 1e-3
        result, expected = results(Small(), Settings(observer=observer), data)
        assert (result - expected).abs().max() < 0.03


def test_sixteen_bits_are_refused_for_tflite() -> None:
    """litert-torch writes wrong numbers for them without a word."""
    with pytest.raises(StepError, match="16-bit activations"):
        calibrated(Small(), Settings(activation_bits=16, runtime="litert"))
