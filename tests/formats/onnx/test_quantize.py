"""Quantized ONNX files compute what their arithmetic defines, are smaller, and keep their
interface; what cannot be quantized is refused.
"""

import pathlib
from collections.abc import Callable

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.onnx.quantize import QuantizeOnnx
from edgekit.scheme import find
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Task
from tests.processors import exact_options, saturates

INT8 = ("w8-dynamic", "w8-dynamic-tensor", "w8-weight")
SCHEMES = (*INT8, "w4-weight", "fp16")


def signature(
    inputs: tuple[int, ...], outputs: tuple[int, ...], tokens: int = 0
) -> Signature:
    taken = TensorSpec(
        name="input",
        dtype="int64" if tokens else "float32",
        dims=("batch", *inputs),
        low=0,
        high=tokens or None,
    )
    return Signature(
        inputs=(taken,),
        outputs=(
            TensorSpec(
                name="output", dtype="float32", dims=("batch", *outputs)
            ),
        ),
    )


def artifact(
    network: nn.Module, shape: Signature, folder: pathlib.Path
) -> Artifact:
    folder.mkdir()
    onnx_graph.write(export(network.eval(), shape), folder / "main.onnx")
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=shape,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


def quantize(
    before: Artifact,
    step: QuantizeOnnx,
    calibration: numpy.ndarray | None = None,
) -> Artifact:
    folder = before.folder.with_name(
        f"{step.scheme}-{len(step.keep)}-{step.outliers}-{step.samples}"
    )
    folder.mkdir()
    spec = before.parts[0].signature.inputs[0]
    test = numpy.zeros(spec.shape(1), spec.dtype)
    task = Task(
        name="none", test=(test, numpy.zeros(1)), calibration=calibration
    )
    step.requires(before)
    after = step.run(before, Context(folder=folder, networks=dict, task=task))
    step.ensures(before, after)
    return after


def predict(item: Artifact, data: numpy.ndarray) -> numpy.ndarray:
    session = onnxruntime.InferenceSession(
        str(item.path(item.parts[0])),
        exact_options(),
        providers=["CPUExecutionProvider"],
    )
    return numpy.asarray(session.run(None, {"input": data})[0])


def graph(item: Artifact) -> onnx.GraphProto:
    return onnx_graph.read(item.path(item.parts[0])).graph


def close(
    actual: numpy.ndarray, expected: numpy.ndarray, steps: float = 2
) -> None:
    """Within so many steps, a step being the output's range divided by 255."""
    assert (
        numpy.abs(actual - expected).max()
        <= steps * (expected.max() - expected.min()) / 255
    )


class Tokens(nn.Module):
    """Three layers on one input, an embedding, a layer norm, a GELU, and the embedding's
    table again as the last layer's weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(600, 48)
        self.q, self.k, self.v = (
            nn.Linear(48, 48),
            nn.Linear(48, 48),
            nn.Linear(48, 48, bias=False),
        )
        self.norm, self.up, self.down = (
            nn.LayerNorm(48),
            nn.Linear(48, 160),
            nn.Linear(160, 48),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        x = self.norm(
            x
            + torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 7, -1)
            @ self.v(x)
        )
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return x @ self.table.weight.t()


def images() -> nn.Module:
    """Convolutions, then linear layers on [batch, features]."""
    first = [
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    ]
    network = nn.Sequential(
        *first, nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)
    )
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = (
            1e-9  # below half precision's range: the converter's note must not reach the user
        )
    return network


class Recurrent(nn.Module):
    """An LSTM in both directions, then a linear layer."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.inner = kind(24, 32, batch_first=True, bidirectional=True)
        self.last = nn.Linear(64, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(x)[0])


CASES: dict[str, tuple[Callable[[], nn.Module], Signature]] = {
    "tokens": (Tokens, signature((12,), (12, 600), tokens=600)),
    "images": (images, signature((1, 8, 8), (32,))),
    "lstm": (Recurrent, signature((9, 24), (9, 40))),
}


@pytest.mark.parametrize(
    ("case", "scheme"),
    [
        (case, scheme)
        for case in CASES
        for scheme in SCHEMES
        if (case, scheme) != ("lstm", "fp16")
    ],
)
def test_the_file_is_smaller_and_answers_alike_for_any_batch(
    case: str, scheme: str, tmp_path: pathlib.Path
) -> None:
    """The scheme's own tolerance against torch, on one sample and on five; float inputs and
    outputs; the interface of before.
    """
    build, shape = CASES[case]
    network = build().eval()
    before = artifact(network, shape, tmp_path / "float")
    after = quantize(before, QuantizeOnnx(scheme))
    sizes = [
        item.path(item.parts[0]).stat().st_size for item in (before, after)
    ]
    assert (
        sizes[1]
        < sizes[0] * {"tokens": 0.6, "images": 0.85, "lstm": 0.95}[case]
    )
    if (
        "DynamicQuantizeLSTM" in onnx_graph.operators(graph(after))
        and saturates()
    ):
        pytest.skip(
            "ONNX Runtime's DynamicQuantizeLSTM saturates on this processor"
        )
    for batch in (1, 5):
        data = shape.inputs[0].encode(shape.inputs[0].sample(batch, seed=batch))
        with torch.no_grad():
            expected = network(torch.from_numpy(data)).numpy()
        close(predict(after, data), expected, find(scheme).parity_steps)


@pytest.mark.parametrize("scheme", ["w8-dynamic", "w8-dynamic-tensor"])
def test_every_layer_of_a_transformer_multiplies_integers(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    """Five linear layers and the table as weights (a stored matrix and a Transpose); the
    table's rows are int8 as well.
    """
    before = artifact(Tokens(), CASES["tokens"][1], tmp_path / "float")
    after = quantize(before, QuantizeOnnx(scheme))
    operators = onnx_graph.operators(graph(after))
    assert operators["MatMulIntegerToFloat"] == 6
    assert operators["MatMul"] == 2, (
        "only the two products of activations are float"
    )
    assert after.notes["parts"]["main"]["int8"] == {"Linear": 6, "Embedding": 1}
    rounded = (
        "QuantizeLinear" if scheme == "w8-dynamic" else "DynamicQuantizeLinear"
    )
    assert operators[rounded] == 4, (
        "three layers share one rounded input, and the last product has its own"
    )
    assert {
        onnx_graph.module(node)
        for node in graph(after).node
        if node.op_type == "MatMulIntegerToFloat"
    } >= {"q", "k", "v", "up", "down"}


@pytest.mark.parametrize(
    ("scheme", "bits"), [("w8-weight", 8), ("w4-weight", 4)]
)
def test_weight_only_covers_every_layer_in_the_bits_of_its_name(
    scheme: str, bits: int, tmp_path: pathlib.Path
) -> None:
    """Six MatMulNBits with integer sums, and no float weight but the small ones."""
    after = quantize(
        artifact(Tokens(), CASES["tokens"][1], tmp_path / "float"),
        QuantizeOnnx(scheme),
    )
    nodes = [
        onnx_graph.attributes(node)
        for node in graph(after).node
        if node.op_type == "MatMulNBits"
    ]
    assert len(nodes) == 6
    assert {(node["bits"], node["accuracy_level"]) for node in nodes} == {
        (bits, 4)
    }
    assert all(
        len(tensor.dims) < 2 or min(tensor.dims) == 1
        for tensor in graph(after).initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_kept_module_stays_in_float_bit_for_bit(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    """The weights of ``down`` and ``k`` are in the file as they were; those of ``up`` are
    not.
    """
    network = Tokens()
    before = artifact(network, CASES["tokens"][1], tmp_path / "float")
    after = quantize(before, QuantizeOnnx(scheme, keep=("down", "k")))
    stored = [
        array
        for tensor in graph(after).initializer
        if (array := onnx.numpy_helper.to_array(tensor)).dtype == numpy.float32
    ]

    def holds(weight: torch.Tensor) -> bool:
        return any(
            array.size == weight.numel()
            and numpy.array_equal(
                numpy.sort(array.ravel()),
                numpy.sort(weight.detach().numpy().ravel()),
            )
            for array in stored
        )

    assert holds(network.down.weight)
    assert holds(network.k.weight)
    assert not holds(network.up.weight)


def test_a_path_that_names_nothing_is_refused_with_the_nearest(
    tmp_path: pathlib.Path,
) -> None:
    """A typo in ``keep`` is reported before any work."""
    before = artifact(Tokens(), CASES["tokens"][1], tmp_path / "float")
    with pytest.raises(
        StepError, match="belongs to the module 'dwon'.*Did you mean 'down'"
    ):
        quantize(before, QuantizeOnnx("w8-dynamic", keep=("dwon",)))


def test_lstm_is_int8_and_gru_is_reported_to_stay_float(
    tmp_path: pathlib.Path,
) -> None:
    """ONNX Runtime has one int8 recurrent operator; what it lacks is in the notes."""
    shape = CASES["lstm"][1]
    after = quantize(
        artifact(Recurrent(), shape, tmp_path / "lstm"),
        QuantizeOnnx("w8-dynamic-tensor"),
    )
    assert onnx_graph.operators(graph(after))["DynamicQuantizeLSTM"] == 1
    (tmp_path / "other").mkdir()
    gated = quantize(
        artifact(Recurrent(nn.GRU), shape, tmp_path / "other" / "gru"),
        QuantizeOnnx("w8-dynamic-tensor"),
    )
    assert onnx_graph.operators(graph(gated))["GRU"] == 1
    (left,) = gated.notes["parts"]["main"]["left_float"]
    assert left["op"] == "GRU"
    assert left["reason"] == "ONNX Runtime has no int8 GRU"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantized_file_is_refused(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    """Whatever wrote it."""
    after = quantize(
        artifact(images(), CASES["images"][1], tmp_path / "float"),
        QuantizeOnnx(scheme),
    )
    for again in SCHEMES:
        with pytest.raises(StepError, match="already quantized.*"):
            QuantizeOnnx(again).requires(after)


@pytest.mark.parametrize("scheme", INT8)
def test_a_graph_without_linear_layers_is_refused_with_a_fix(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    """Convolutions are no work for these schemes."""
    before = artifact(
        nn.Conv2d(1, 8, 3), signature((1, 8, 8), (8, 6, 6)), tmp_path / "float"
    )
    with pytest.raises(
        StepError,
        match=r"(?s)nothing to quantize.*Conv.*Fix: choose the scheme 'float', or w8a8-static",
    ):
        quantize(before, QuantizeOnnx(scheme))


def test_calibration_finds_a_channel_that_outgrows_the_others_and_saves_the_accuracy(
    tmp_path: pathlib.Path,
) -> None:
    """One channel 300 times as large: it goes through float, and the error falls to less
    than a fifth.
    """
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        network[0].weight[7] *= 300
        network[1].weight[:, 7] /= 300
    shape = signature((5, 64), (5, 64))
    before = artifact(network, shape, tmp_path / "float")
    data = shape.inputs[0].sample(40)
    plain, with_float_channels = (
        quantize(before, QuantizeOnnx("w8-dynamic", outliers=most), data)
        for most in (0, 4)
    )
    assert with_float_channels.notes["parts"]["main"]["float_channels"] == {
        "1": 1
    }
    assert plain.notes["parts"]["main"]["float_channels"] == {}
    with torch.no_grad():
        expected = network(torch.from_numpy(data)).numpy()
    errors = [
        numpy.abs(predict(item, data) - expected).mean()
        for item in (plain, with_float_channels)
    ]
    assert errors[1] < errors[0] / 5


def test_the_same_file_and_data_give_the_same_bytes(
    tmp_path: pathlib.Path,
) -> None:
    """Nothing in the rewrite depends on the run."""
    shape = CASES["tokens"][1]
    before = artifact(Tokens(), shape, tmp_path / "float")
    data = shape.inputs[0].sample(16)
    first, again = (
        quantize(before, QuantizeOnnx("w8-dynamic", samples=samples), data)
        for samples in (16, 17)
    )
    assert (
        first.path(first.parts[0]).read_bytes()
        == again.path(again.parts[0]).read_bytes()
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (QuantizeOnnx("w8a8-static"), "cannot be applied to an ONNX file"),
        (QuantizeOnnx("w4-weight-awq"), "cannot be applied to an ONNX file"),
        (QuantizeOnnx("w8-dynamic", outliers=-1), "must not be"),
        (QuantizeOnnx("w8-dynamic", samples=0), "must not be"),
    ],
)
def test_other_schemes_and_impossible_numbers_are_refused(
    step: QuantizeOnnx, message: str, tmp_path: pathlib.Path
) -> None:
    """A calibrated scheme, another provider's, and numbers that mean nothing."""
    with pytest.raises(StepError, match=message):
        step.requires(
            artifact(images(), CASES["images"][1], tmp_path / "float")
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_promise_can_fail(scheme: str, tmp_path: pathlib.Path) -> None:
    """A float file in place of the quantized one, and a quantized module that was to be
    kept, are noticed.
    """
    before = artifact(images(), CASES["images"][1], tmp_path / "float")
    with pytest.raises(StepError, match="No weights were quantized"):
        QuantizeOnnx(scheme).ensures(before, before)
    after = quantize(before, QuantizeOnnx(scheme))
    with pytest.raises(
        StepError, match="6 of main is to be kept in float and was quantized"
    ):
        QuantizeOnnx(scheme, keep=("6",)).ensures(before, after)
    with pytest.raises(StepError, match="did not become smaller"):
        QuantizeOnnx(scheme).ensures(after, after)
