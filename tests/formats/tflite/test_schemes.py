"""Every TFLite scheme on every operator with weights: LiteRT computes what a simulation of
the same arithmetic in torch does.
"""

import copy
import dataclasses
import pathlib

import numpy
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite.calibrate import CalibrateTflite
from edgekit.formats.tflite.quantize import RECIPES, QuantizeTflite
from edgekit.quantization.capture import capture
from edgekit.quantization.tuning.dynamic import quantize_rows
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Task

SAMPLES = 12


class Cell(nn.Module):
    """An LSTM over four steps, its gates in linear layers whose weights all steps share."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h, self.end = (
            nn.Linear(32, 128),
            nn.Linear(32, 128, bias=False),
            nn.Linear(32, 40),
        )

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros_like(sequence[:, 0])
        for step in range(4):
            i, f, g, o = (self.x(sequence[:, step]) + self.h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        result: torch.Tensor = self.end(h)
        return result


class Attention(nn.Module):
    """Two products of activations, and sums and products of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.q(x) @ self.k(x).transpose(1, 2) / 6).softmax(-1)
        return weights @ self.v(x) + x * 0.5


class Words(nn.Module):
    """Looked-up rows, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.end = nn.Embedding(100, 32), nn.Linear(32, 40)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.end(self.table(index).mean(1))
        return result


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 40))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 128, 3, groups=32),
        nn.ReLU(),
        nn.Conv2d(128, 16, 1),
    )


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 5, groups=128)
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
    )


NETWORKS = {
    "linear": (linear, (32,)),
    "convolutions": (convolutions, (8, 6, 6)),
    "depthwise": (depthwise, (8, 6, 6)),
    "transposed": (transposed, (8, 6, 6)),
    "cell": (Cell, (4, 32)),
    "attention": (Attention, (12, 32)),
    "words": (Words, (6,)),
}
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


class Case:
    """A network, its data, and its float file."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        build, shape = NETWORKS[name]
        torch.manual_seed(0)
        self.network = build().eval()
        random = numpy.random.default_rng(0)
        words = name == "words"
        self.data = (
            random.integers(0, 100, (SAMPLES, *shape))
            if words
            else random.standard_normal((SAMPLES, *shape)).astype("float32")
        )
        tensor = torch.from_numpy(self.data)
        image = (0,) if len(shape) == 3 else ()
        with torch.no_grad():
            self.float = self.network(tensor).numpy()
        spec = TensorSpec(name="input", dtype="float32", dims=("batch", *shape))
        if words:
            update = {"dtype": "int64", "low": 0, "high": 100}
            spec = spec.model_copy(update=update)
        dims = ("batch", *self.float.shape[1:])
        output = TensorSpec(name="output", dtype="float32", dims=dims)
        path = folder / "main.tflite"
        self._convert(
            Signature(inputs=(spec,), outputs=(output,)),
            tensor[:1],
            path,
            image,
        )
        axes = (0, 2, 3, 1) if image else None
        update = {"dims": (1, *shape), "axes": axes, "low": None, "high": None}
        fixed = Signature(
            inputs=(spec.model_copy(update=update),),
            outputs=(output.model_copy(update={"dims": (1, *dims[1:])}),),
        )
        part = Part(
            name="main",
            signature=litert.read_signature(path, fixed),
            files={"model": File(path=path.name)},
        )
        self.artifact = Artifact(format="tflite", parts=(part,), folder=folder)
        self.task = Task(
            name="none",
            calibration=self.data,
            test=(self.data[:1] * 0, numpy.zeros(1, "int64")),
        )

    def _convert(
        self,
        signature: Signature,
        sample: torch.Tensor,
        path: pathlib.Path,
        channel_last: tuple[int, ...],
    ) -> None:
        """Write the float file of the network."""
        captured = capture(self.network, signature).module(check_guards=False)
        program = torch.export.export(captured, (sample,), strict=False)
        graph = program.module(check_guards=False)
        litert_conversion.convert(
            graph, (sample,), path, channel_last_inputs=channel_last
        )


@pytest.fixture(scope="module", params=NETWORKS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def run(
    artifact: Artifact,
    data: numpy.ndarray,
    kernels: OpResolverType = OpResolverType.AUTO,
) -> numpy.ndarray:
    part = artifact.parts[0]
    running = Interpreter(
        str(artifact.path(part)),
        experimental_op_resolver_type=kernels,
        num_threads=1,
    )
    running.allocate_tensors()
    rows = []
    for index in range(len(data)):
        running.set_tensor(
            running.get_input_details()[0]["index"],
            part.signature.inputs[0].encode(data[index : index + 1]),
        )
        running.invoke()
        rows.append(
            part.signature.outputs[0].decode(
                running.get_tensor(running.get_output_details()[0]["index"])
            )
        )
    return numpy.concatenate(rows)


def simulated(case: Case, scheme: str) -> numpy.ndarray:
    """The network in torch with weights on their grid, and inputs of its layers rounded as
    in the runtime.
    """
    network = copy.deepcopy(case.network)
    for layer in network.modules():
        if isinstance(layer, LAYERS):
            per_tensor = scheme == "w8-dynamic-tensor" and isinstance(
                layer, nn.Linear
            )
            _round_weight(
                layer,
                4
                if scheme == "w4-weight" and isinstance(layer, nn.Linear)
                else 8,
                per_tensor,
            )
            if "dynamic" in scheme and not isinstance(layer, nn.Embedding):
                layer.register_forward_pre_hook(_rounded_input)
    with torch.no_grad():
        result: numpy.ndarray = network(torch.from_numpy(case.data)).numpy()
    return result


def _round_weight(layer: nn.Module, bits: int, per_tensor: bool) -> None:
    weight, axis = (
        layer.weight.data,
        1 if isinstance(layer, nn.ConvTranspose2d) else 0,
    )  # type: ignore[union-attr]
    axes = [k for k in range(weight.dim()) if per_tensor or k != axis]
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(axes, keepdim=True) / most  # type: ignore[operator]
    if (
        bits == 4
        # ai-edge-quantizer's estimate of the scale of the least squared error, for normally
        # distributed weights
    ):
        scale = 0.37755 * weight.square().mean(axes, keepdim=True).sqrt()
    layer.weight.data = (weight / scale).round().clamp(-most, most) * scale  # type: ignore[union-attr]


def _rounded_input(
    layer: nn.Module, actual: tuple[torch.Tensor]
) -> tuple[torch.Tensor]:
    """Per-row scales for linear layers, per-sample scales for convolutions."""
    values = actual[0].numpy()
    rows = (
        values.reshape(-1, values.shape[-1])
        if isinstance(layer, nn.Linear)
        else values.reshape(len(values), -1)
    )
    return (
        torch.from_numpy(
            quantize_rows(rows).astype("float32").reshape(values.shape)
        ),
    )


def quantized(
    case: Case, scheme: str, folder: pathlib.Path, keep: tuple[str, ...] = ()
) -> Artifact:
    step = (
        CalibrateTflite(samples=SAMPLES, keep=keep)
        if scheme == "w8a16-static"
        else QuantizeTflite(scheme, keep=keep)
    )
    step.requires(case.artifact)
    result = step.run(
        case.artifact, Context(folder=folder, networks=dict, task=case.task)
    )
    step.ensures(case.artifact, result)
    return result


@pytest.mark.parametrize("scheme", [*RECIPES, "w8a16-static"])
def test_litert_computes_what_torch_does(
    case: Case, scheme: str, tmp_path: pathlib.Path
) -> None:
    """Within two steps of 1/255 of the output's range, and the file is smaller."""
    result = quantized(case, scheme, tmp_path)
    expected, actual = (
        case.float if scheme == "fp16" else simulated(case, scheme),
        run(result, case.data),
    )
    step = (case.float.max() - case.float.min()) / 255
    assert numpy.abs(actual - expected).max() < 2 * step
    part = result.parts[0]
    assert (
        result.path(part).stat().st_size
        < case.artifact.path(case.artifact.parts[0]).stat().st_size
    )


def test_kept_modules_stay_float(case: Case, tmp_path: pathlib.Path) -> None:
    """A module to keep has float weights, in the static scheme too; one that the file does
    not have is an error.
    """
    name = next(
        name
        for name, layer in case.network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    )
    one = (
        tflite_file.count_layers(
            case.artifact.path(case.artifact.parts[0])
        ).float_weights
        == 1
    )  # and an embedding, which 16-bit files keep in float
    for scheme in ("w8-dynamic",) if one else ("w8-dynamic", "w8a16-static"):
        folder = tmp_path / scheme
        folder.mkdir()
        all_quantized = tflite_file.count_layers(
            quantized(case, scheme, folder).path(case.artifact.parts[0])
        )
        counts = tflite_file.count_layers(
            quantized(case, scheme, folder, keep=(name,)).path(
                case.artifact.parts[0]
            )
        )
        assert counts.float_weights >= 1 + all_quantized.float_weights
        assert (
            counts.int8_weights + counts.float_weights
            == all_quantized.int8_weights + all_quantized.float_weights
        )
    with pytest.raises(
        StepError,
        match=r"no operators of the modules to keep in float: nowhere\.at\.all",
    ):
        quantized(case, "w8-dynamic", tmp_path, keep=("nowhere.at.all",))


def test_nothing_to_quantize_is_refused(tmp_path: pathlib.Path) -> None:
    """A network without weights supports no scheme but float."""
    litert_conversion.convert(
        nn.ReLU(), (torch.randn(1, 4),), tmp_path / "main.tflite"
    )
    spec = TensorSpec(name="input", dtype="float32", dims=(1, 4))
    part = Part(
        name="main",
        signature=Signature(inputs=(spec,), outputs=(spec,)),
        files={"model": File(path="main.tflite")},
    )
    artifact = Artifact(format="tflite", parts=(part,), folder=tmp_path)
    data = numpy.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    context = Context(
        folder=tmp_path,
        networks=dict,
        task=Task(
            name="none",
            calibration=data[:4],
            test=(data[4:], numpy.zeros(4, "int64")),
        ),
    )
    for name, step in (
        *((name, QuantizeTflite(name)) for name in RECIPES),
        ("w8a16", CalibrateTflite()),
    ):
        (folder := tmp_path / name).mkdir()
        step.requires(artifact)
        result = step.run(artifact, dataclasses.replace(context, folder=folder))
        with pytest.raises(StepError, match="changed no weights"):
            step.ensures(artifact, result)


def test_static_ranges_cut_nothing_off(tmp_path: pathlib.Path) -> None:
    """One sample with a far larger range than the others is still computed correctly
    (ai-edge-quantizer's own moving average would clip it).
    """
    case = Case("linear", tmp_path)
    data = numpy.concatenate([case.data, 20 * case.data[:1]])
    case.task = Task(
        name="none",
        calibration=data,
        test=(case.data[:1] * 0, numpy.zeros(1, "int64")),
    )
    (folder := tmp_path / "made").mkdir()
    step = CalibrateTflite(samples=len(data))
    result = step.run(
        case.artifact, Context(folder=folder, networks=dict, task=case.task)
    )
    expected, actual = run(case.artifact, data[-1:]), run(result, data[-1:])
    assert numpy.abs(expected - actual).max() < 0.01 * numpy.abs(expected).max()
