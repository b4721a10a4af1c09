"""Every row of the quantizer's table, in every runtime: the file computes what the torch
simulation computes, within two output steps.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.formats.ethosu import vela
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.onnx.lowering.lower import lower
from edgekit.formats.tensorrt.export import OnnxToTensorrt
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite.export import TorchToTflite
from edgekit.quantization.capture import capture
from edgekit.quantization.decompose import decompose
from edgekit.quantization.graph import Calibration, calibrate, simulate
from edgekit.quantization.operators import OPERATORS, operator_name
from edgekit.quantization.rewrite import rewrite
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.task import Task
from tests.processors import exact_session

TASK = Task(
    name="none", test=(numpy.zeros((1, 1), "float32"), numpy.zeros(1, "int64"))
)
SAMPLES = 6
#: The int8 kernels that ONNX Runtime must have chosen.
KERNELS = {
    "weighted": {"QLinearConv", "QGemm", "MatMulIntegerToFloat"},
    "volumes": {
        "QLinearConv",
        "QLinearAveragePool",
        "QLinearGlobalAveragePool",
    },
    "joined": {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearMatMul"},
    "numbers": {"QLinearAdd", "QLinearMul", "QGemm"},
    "pieces": {"QLinearAdd", "QLinearMul"},
    "pooled": {"QLinearAveragePool", "QLinearGlobalAveragePool"},
    "curved": {"QLinearLeakyRelu", "QLinearSigmoid", "QLinearMul"},
}
#: Cases of which LiteRT computes everything in int8.
INTEGER = {"weighted", "pooled", "moved", "reshaped", "units"}


class Case(nn.Module):
    """Layers, and what is done with them: each output is one operator fed by int8 inputs,
    so that no other operator's step is in its difference.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        forward: Callable[..., Any],
        *inputs: Tensor,
    ) -> None:
        super().__init__()
        self.layers, self.work, self.data = (
            nn.ModuleDict(layers),
            forward,
            inputs,
        )

    def forward(self, *inputs: Tensor) -> Any:
        return self.work(self.layers, *inputs)


def image(channels: int = 4, size: int = 8) -> Tensor:
    return torch.randn(32, channels, size, size)


def features(*dims: int) -> Tensor:
    return torch.randn(32, *(dims or (16,)))


def _weighted() -> Case:
    def work(
        layer: Any, x: Tensor, y: Tensor, z: Tensor, w: Tensor
    ) -> tuple[Tensor, ...]:
        return (
            layer.wide(x),
            layer.deep(x).relu(),
            layer.same(x),
            layer.line(y),
            layer.padded(y),
            layer.head(z),
            layer.rows(w),
        )

    layers = {
        "wide": nn.Conv2d(4, 8, 3, padding=1),
        "deep": nn.Conv2d(4, 4, 3, 2, groups=4),
        "same": nn.Conv2d(4, 6, 3, padding="same"),
        "line": nn.Conv1d(4, 6, 3),
        "padded": nn.Conv1d(4, 6, 3, padding="same"),
        "head": nn.Linear(16, 10),
        "rows": nn.Linear(16, 10),
    }
    return Case(
        layers, work, image(), features(4, 16), features(), features(5, 16)
    )


def _volumes() -> Case:
    layers = {
        "volume": nn.Conv3d(2, 4, 3),
        "same": nn.Conv3d(2, 4, 3, padding="same"),
        "head": nn.Linear(16, 4),
    }
    return Case(
        layers,
        lambda layer, x, y: (
            layer.volume(x),
            layer.same(x),
            functional.max_pool3d(x, 2),
            functional.avg_pool3d(x, 2),
            functional.adaptive_avg_pool3d(x, 1),
            layer.head(y),
        ),
        torch.randn(32, 2, 4, 4, 4),
        features(),
    )


def _transposed() -> Case:
    layers = {
        "up": nn.ConvTranspose2d(4, 6, 4, 2, 1),
        "twice": nn.ConvTranspose2d(4, 6, 2, 2),
        "line": nn.ConvTranspose1d(4, 6, 2, 2),
        "head": nn.Conv2d(4, 4, 1),
    }
    return Case(
        layers,
        lambda layer, x, y: (
            layer.up(x),
            layer.twice(x).relu(),
            layer.line(y),
            layer.head(x),
        ),
        image(),
        features(4, 8),
    )


def _joined() -> Case:
    def work(
        layer: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, ...]:
        return (
            x + y,
            (x * y).relu(),
            x - y,
            torch.maximum(x, y),
            torch.minimum(x, y),
            torch.cat([x, 2.0 * y], 1),
            torch.stack([x, y], 1),
            torch.matmul(a, b),
            torch.bmm(a, b),
            layer.head(x),
        )

    return Case(
        {"head": nn.Conv2d(4, 4, 1)},
        work,
        image(),
        image() * 3,
        features(5, 6),
        features(6, 7),
    )


def _numbers() -> Case:
    def work(layer: Any, x: Tensor) -> tuple[Tensor, ...]:
        return (
            x * 2.5,
            x + 0.5,
            x - 0.7,
            x / 3.0,
            -x,
            1.5 - x,
            x / layer.table.weight[0].abs().add(1.0),
            torch.addmm(layer.added.bias, x, layer.added.weight.t()),
            torch.matmul(x, layer.bare.weight.t()),
            layer.head(x),
        )

    layers = {
        "head": nn.Linear(16, 10),
        "added": nn.Linear(16, 10),
        "bare": nn.Linear(16, 10, bias=False),
        "table": nn.Embedding(3, 16),
    }
    return Case(layers, work, features())


def _pieces() -> Case:
    def work(layer: Any, x: Tensor) -> tuple[Tensor, ...]:
        chunks, pieces, sized, rows = (
            x.chunk(2, 1),
            x.split(8, 1),
            x.split([4, 12], 1),
            x.reshape(-1, 2, 8).unbind(1),
        )
        return (
            chunks[0] * chunks[1],
            pieces[0] + pieces[1],
            sized[1] * 0.5,
            rows[0] + rows[1],
            layer.head(x),
        )

    return Case({"head": nn.Linear(16, 10)}, work, features())


def _pooled() -> Case:
    def work(layer: Any, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        return (
            functional.max_pool2d(x, 2),
            functional.max_pool2d(x, 3, 2, 1),
            functional.avg_pool2d(x, 2),
            functional.adaptive_avg_pool2d(x, 4),
            x.mean((2, 3)),
            x.mean(1),
            functional.max_pool1d(y, 2),
            functional.avg_pool1d(y, 2),
            functional.adaptive_avg_pool1d(y, 1).squeeze((2,)),
            layer.head(z),
        )

    return Case(
        {"head": nn.Linear(16, 4)}, work, image(), features(4, 16), features()
    )


def _moved() -> Case:
    def work(layer: Any, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        return (
            functional.pixel_shuffle(x, 2),
            functional.interpolate(x, scale_factor=2, mode="nearest"),
            functional.pad(x, (1, 0, 2, 1)),
            x.permute(0, 2, 3, 1),
            x.transpose(1, 2).contiguous(),
            x[:, :1].expand(-1, 3, -1, -1),
            x[:, 1:3, ::2],
            functional.interpolate(y, scale_factor=2, mode="nearest"),
            layer.head(z),
        )

    return Case(
        {"head": nn.Linear(16, 4)}, work, image(), features(4, 16), features()
    )


def _reshaped() -> Case:
    def work(layer: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            x.flatten(1),
            x.flatten(2).unflatten(2, (4, 16)),
            y.view(-1, 8, 8),
            x.reshape(-1, 4, 64),
            x.select(1, 2).unsqueeze(1).clone(),
            x[:, :1].squeeze(1),
            x[:, :1].squeeze().reshape(-1, 64),
            layer.head(x),
        )

    return Case({"head": nn.Conv2d(4, 4, 1)}, work, image(), features(4, 16))


def _curved() -> Case:
    def work(layer: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            functional.leaky_relu(x, 0.1),
            functional.hardswish(x),
            functional.gelu(x),
            functional.gelu(y, approximate="tanh"),
            x.sigmoid(),
            x.tanh(),
            y.softmax(-1),
            functional.silu(x),
            functional.hardsigmoid(x),
            layer.head(y),
        )

    return Case({"head": nn.Linear(16, 8)}, work, image() * 2, features() * 2)


def _clipped() -> Case:
    def work(layer: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            x.relu(),
            functional.relu6(x),
            functional.hardtanh(x),
            functional.hardtanh(x, -0.5, 0.7),
            x.abs(),
            x.clamp(-0.6, 0.9),
            functional.relu6(layer.head(y)),
            functional.hardtanh(layer.other(y)),
        )

    return Case(
        {"head": nn.Linear(16, 8), "other": nn.Linear(16, 8)},
        work,
        image() * 2,
        features() * 2,
    )


def _units() -> Case:
    """Clips to [0, 1]: after a layer, after a sum, of a network's input."""

    def work(layer: Any, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        return (
            layer.wide(x).clamp(0, 1),
            functional.hardtanh(layer.head(y), 0, 1),
            (x + z).clamp(0, 1),
            x.clamp(0, 1),
        )

    return Case(
        {"wide": nn.Conv2d(4, 8, 3), "head": nn.Linear(16, 8)},
        work,
        image(),
        features(),
        image(),
    )


def _attention() -> Case:
    def work(
        layer: Any, query: Tensor, key: Tensor, value: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        return (
            functional.scaled_dot_product_attention(query, key, value),
            layer.table(index),
            layer.head(value),
        )

    parts = [features(2, 5, 8) for _ in range(3)]
    return Case(
        {"table": nn.Embedding(12, 8), "head": nn.Linear(8, 8)},
        work,
        *parts,
        torch.randint(0, 12, (32, 5)),
    )


def _floats() -> Case:
    def work(layer: Any, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            layer.norm(y),
            layer.groups(x),
            layer.root(y),
            layer.places(x),
            functional.elu(y),
            layer.slope(y),
            functional.log_softmax(y, -1),
            layer.head(y),
        )

    layers = {
        "norm": nn.LayerNorm(16),
        "groups": nn.GroupNorm(2, 4),
        "places": nn.InstanceNorm1d(4),
        "root": nn.RMSNorm(16),
        "slope": nn.PReLU(),
        "head": nn.Linear(16, 8),
    }
    return Case(layers, work, features(4, 8), features())


def _recurrent() -> Case:
    layers = {
        "lstm": nn.LSTM(4, 6, batch_first=True),
        "gru": nn.GRU(4, 6, batch_first=True),
        "rnn": nn.RNN(4, 6, batch_first=True),
        "head": nn.Linear(4, 3),
    }
    return Case(
        layers,
        lambda layer, x: (
            layer.lstm(x)[0],
            layer.gru(x)[0],
            layer.rnn(x)[0],
            layer.head(x),
        ),
        features(3, 4),
    )


CASES = {
    "weighted": _weighted,
    "volumes": _volumes,
    "transposed": _transposed,
    "joined": _joined,
    "numbers": _numbers,
    "pieces": _pieces,
    "pooled": _pooled,
    "moved": _moved,
    "reshaped": _reshaped,
    "curved": _curved,
    "clipped": _clipped,
    "units": _units,
    "attention": _attention,
    "floats": _floats,
    "recurrent": _recurrent,
}


@dataclasses.dataclass
class Quantized:
    """One case, calibrated, with what torch simulates for a few samples."""

    case: Case
    signature: Signature
    calibration: Calibration
    expected: list[numpy.ndarray]

    @property
    def feeds(self) -> list[numpy.ndarray]:
        return [tensor[:SAMPLES].numpy() for tensor in self.case.data]


def signed(case: Case) -> Signature:
    """The signature that fits a case's data and results."""

    def spec(label: str, tensor: Tensor) -> TensorSpec:
        drawn = (
            {} if tensor.dtype.is_floating_point else {"low": 0.0, "high": 8.0}
        )
        return TensorSpec(
            name=label,
            dtype=str(tensor.dtype).removeprefix("torch."),
            dims=("batch", *tensor.shape[1:]),
            **drawn,
        )

    with torch.no_grad():
        results = case(*case.data)
    return Signature(
        inputs=tuple(
            spec(f"input_{k}", tensor) for k, tensor in enumerate(case.data)
        ),
        outputs=tuple(
            spec(f"output_{k}", tensor) for k, tensor in enumerate(results)
        ),
    )


def quantized(make: Callable[[], Case], settings: Settings) -> Quantized:
    case = make().eval()
    signature = signed(case)
    calibration = calibrate(case, [case.data], signature, settings)
    with torch.no_grad():
        results = simulate(case, signature, calibration, fold=True)(
            *(tensor[:SAMPLES] for tensor in case.data)
        )
    return Quantized(
        case, signature, calibration, [result.numpy() for result in results]
    )


def in_onnxruntime(
    quantized_case: Quantized, folder: pathlib.Path
) -> tuple[list[numpy.ndarray], Counter[str]]:
    """The outputs, and the operators that ONNX Runtime really runs."""
    model = export(
        simulate(
            quantized_case.case,
            quantized_case.signature,
            quantized_case.calibration,
            fold=True,
        ),
        quantized_case.signature,
    )
    lower(model)
    onnx_graph.write(model, folder / "main.onnx")
    options = onnxruntime.SessionOptions()
    (
        options.intra_op_num_threads,
        options.log_severity_level,
        options.optimized_model_filepath,
    ) = 1, 3, str(folder / "run.onnx")
    session = onnxruntime.InferenceSession(
        str(folder / "main.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [spec.name for spec in quantized_case.signature.inputs]
    used = {value.name for value in session.get_inputs()}
    feeds = {
        label: array
        for label, array in zip(names, quantized_case.feeds, strict=True)
        if label in used
    }
    exact = exact_session(session, str(folder / "main.onnx"))
    return exact.run(None, feeds), Counter(
        node.op_type for node in onnx.load(str(folder / "run.onnx")).graph.node
    )


def in_litert(
    quantized_case: Quantized, folder: pathlib.Path
) -> tuple[list[numpy.ndarray], Counter[str]]:
    """The outputs, and the operators that compute in float."""
    for name_ in ("before", "after"):
        (folder / name_).mkdir()
    artifact = torch_storage.save(
        {"main": quantized_case.case},
        {"main": quantized_case.signature},
        folder / "before",
        {},
    )
    (folder / "before" / "main.quantization.json").write_text(
        quantized_case.calibration.model_dump_json()
    )
    part = artifact.parts[0]
    part = part.model_copy(
        update={
            "files": {
                **part.files,
                "quantization": File(path="main.quantization.json"),
            }
        }
    )
    artifact = artifact.model_copy(update={"parts": (part,)})
    context = Context(
        folder=folder / "after",
        networks=lambda: {"main": quantized_case.case},
        task=TASK,
    )
    step = TorchToTflite()
    file: Artifact = step.run(artifact, context)
    step.ensures(artifact, file)
    return _run(file, quantized_case.feeds), Counter(
        dict(tflite_file.count_layers(file.path(file.parts[0])).float_operators)
    )


def _run(file: Artifact, feeds: list[numpy.ndarray]) -> list[numpy.ndarray]:
    signature = file.parts[0].signature
    running = Interpreter(str(file.path(file.parts[0])), num_threads=1)
    running.allocate_tensors()
    by_number = lambda detail: litert.natural_key(str(detail["name"]))  # noqa: E731
    inputs, outputs = (
        sorted(details, key=by_number)
        for details in (
            running.get_input_details(),
            running.get_output_details(),
        )
    )
    rows: list[list[numpy.ndarray]] = [[] for _ in outputs]
    for k in range(SAMPLES):
        for detail, spec, array in zip(
            inputs, signature.inputs, feeds, strict=True
        ):
            running.set_tensor(detail["index"], spec.encode(array[k : k + 1]))
        running.invoke()
        for row, detail, spec in zip(
            rows, outputs, signature.outputs, strict=True
        ):
            row.append(spec.decode(running.get_tensor(detail["index"])))
    return [numpy.concatenate(row) for row in rows]


#: What may stay float on a device without floats: an embedding, and a weight that is
#: unpacked once.
ROWS = {"CAST", "EMBEDDING_LOOKUP", "RESHAPE", "MUL", "DEQUANTIZE"}
RUNTIMES = {"onnxruntime": in_onnxruntime, "litert": in_litert}


def differences(
    quantized_case: Quantized, runtime_outputs: list[numpy.ndarray]
) -> list[float]:
    """The largest difference of each output in its steps; where it is float, in 255ths of
    its range.
    """
    steps = []
    for got, expected, scale in zip(
        runtime_outputs,
        quantized_case.expected,
        quantized_case.calibration.output_scales,
        strict=True,
    ):
        unit = scale or (float(expected.max() - expected.min()) / 255)
        steps.append(float(numpy.abs(got - expected).max()) / unit)
    return steps


def test_the_cases_hold_every_operator_of_the_table() -> None:
    """No row goes without its run in each runtime, but for one that has no format in
    TFLite, and one whose statistics come from the batch (TFLite's is 1).
    """
    met = set()
    for make in CASES.values():
        case = make().eval()
        graph = capture(case, signed(case)).module(check_guards=False)
        met |= {node.target for node in graph.graph.nodes}
        rewrite(graph)
        decompose(graph, Settings())
        met |= {node.target for node in graph.graph.nodes}
    assert [
        operator_name(target) for target in OPERATORS if target not in met
    ] == [
        "conv_transpose3d.input",
        "batch_norm",
    ]


def agrees(
    make: Callable[[], Case],
    runtime: str,
    settings: Settings,
    folder: pathlib.Path,
) -> Counter[str]:
    """The operators of the file, which was within two steps of the simulation at every
    output.
    """
    quantized_case = quantized(make, settings)
    runtime_outputs, operators = RUNTIMES[runtime](quantized_case, folder)
    steps = differences(quantized_case, runtime_outputs)
    assert max(steps) <= 2.001, [round(step, 2) for step in steps]
    return operators


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_computes_what_torch_simulates(
    runtime: str, case: str, tmp_path: pathlib.Path
) -> None:
    """Within two steps of each output, for every operator, in int8 if the table has it."""
    operators = agrees(
        CASES[case], runtime, Settings(runtime=runtime), tmp_path
    )
    if runtime == "onnxruntime":
        assert KERNELS.get(case, set()) <= operators.keys()
    elif case in INTEGER:
        assert operators.keys() <= {"DEQUANTIZE"}


@pytest.mark.parametrize("case", ["weighted", "joined", "curved"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_symmetric_graphs_that_fit_every_runtime_are_computed_alike(
    runtime: str, case: str, tmp_path: pathlib.Path
) -> None:
    """Zero point 0 everywhere, one scale a weight, placed for no runtime in particular."""
    agrees(
        CASES[case],
        runtime,
        Settings(symmetric=True, per_channel=False),
        tmp_path,
    )


@pytest.mark.parametrize("case", ["attention", "joined", "curved"])
def test_a_device_without_floats_gets_attention_in_int8(
    case: str, tmp_path: pathlib.Path
) -> None:
    """What LiteRT computes faster in float is int8 for the Edge TPU, within two steps."""
    assert (
        agrees(
            CASES[case], "litert", Settings(runtime="edgetpu"), tmp_path
        ).keys()
        <= ROWS
    )


@pytest.mark.parametrize(
    "case",
    [
        "weighted",
        "joined",
        "pooled",
        "reshaped",
        "curved",
        "units",
        "attention",
    ],
)
def test_an_ethos_u_runs_what_is_int8(
    case: str, tmp_path: pathlib.Path
) -> None:
    """Vela leaves to the CPU only what touches a float: the rows of an embedding, and
    conversions.
    """
    pytest.importorskip("ethosu.vela")
    floats = agrees(CASES[case], "litert", Settings(runtime="ethosu"), tmp_path)
    assert floats.keys() <= ROWS
    setting = vela.Setting(
        accelerator="ethos-u55-128",
        system_config="Ethos_U55_High_End_Embedded",
        memory_mode="Shared_Sram",
    )
    vela.compile_file(
        tmp_path / "after" / "main.tflite",
        setting,
        tmp_path / "compiled.tflite",
    )
    model = tflite_file.read(tmp_path / "compiled.tflite")
    left = Counter(
        tflite_file.operator_name(model, operator)
        for operator in model.subgraphs[0].operators
    )
    assert left.keys() - {tflite_graph.ETHOS_U} <= {*floats, "QUANTIZE"}


@pytest.mark.parametrize("case", ["weighted", "joined", "pooled", "curved"])
def test_tensorrt_builds_what_is_placed_for_it(
    case: str, tmp_path: pathlib.Path
) -> None:
    """An engine whose convolutions and products are int8; it cannot be run here."""
    pytest.importorskip("tensorrt_rtx")
    quantized_case = quantized(
        CASES[case], Settings(symmetric=True, runtime="tensorrt")
    )
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    onnx_graph.write(
        export(
            simulate(
                quantized_case.case,
                quantized_case.signature,
                quantized_case.calibration,
                fold=True,
            ),
            quantized_case.signature,
        ),
        tmp_path / "before" / "main.onnx",
    )
    part = Part(
        name="main",
        signature=quantized_case.signature,
        files={"model": File(path="main.onnx")},
    )
    before = Artifact(format="onnx", parts=(part,), folder=tmp_path / "before")
    step = OnnxToTensorrt(compute_capabilities=("SM86",))
    step.requires(before)
    step.ensures(
        before,
        step.run(
            before, Context(folder=tmp_path / "after", networks=dict, task=TASK)
        ),
    )
