"""torch to TFLite: the same numbers, channel-last, int8 throughout, quiet, and errors that
say how to fix them.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn
from torch.nn import functional

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite.export import TorchToTflite
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.sources.resnet import resnet8
from edgekit.steps import torch_storage
from edgekit.task import Task

IMAGES = TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8))
LOGITS = TensorSpec(name="output", dtype="float32", dims=("batch", 10))
TASK = Task(
    name="none", test=(numpy.zeros((1, 1), "float32"), numpy.zeros(1, "int64"))
)


class Awkward(nn.Module):
    """What converters often fail on: even kernels, padded and ceil-mode pools, BN after ReLU, a
    flattened map, a spatial mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 4, 1, "same")
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 4, 2, 1)
        self.flat = nn.Linear(8 * 2 * 2, 10)
        self.mean = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(
            self.norm(functional.relu(self.first(x))), 3, 1, 1
        )
        x = functional.relu(self.second(x))
        pooled = functional.avg_pool2d(x, 3, 2, ceil_mode=True)
        result: torch.Tensor = self.flat(
            pooled.view(x.size(0), -1)
        ) + self.mean(x.mean((2, 3)))
        return result


def random_norms(network: nn.Module) -> nn.Module:
    """Batch normalizations with numbers that matter, as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def stored(
    network: nn.Module,
    folder: pathlib.Path,
    signature: Signature,
    batches: torch.Tensor | None = None,
) -> Artifact:
    """The network as a torch artifact; quantized if there are calibration ``batches``."""
    folder.mkdir()
    artifact = torch_storage.save(
        {"main": network}, {"main": signature}, folder, {}
    )
    if batches is None:
        return artifact
    calibration = calibrate(
        network,
        [(batches,)],
        signature,
        Settings(symmetric=False, observer="min-max"),
    )
    (folder / "main.quantization.json").write_text(
        calibration.model_dump_json()
    )
    part = artifact.parts[0]
    files = {**part.files, "quantization": File(path="main.quantization.json")}
    return artifact.model_copy(
        update={"parts": (part.model_copy(update={"files": files}),)}
    )


def exported(
    artifact: Artifact, make: Callable[[], nn.Module], folder: pathlib.Path
) -> Artifact:
    """The step as the runner calls it: requires, run, ensures."""
    step, context = (
        TorchToTflite(),
        Context(folder=folder, networks=lambda: {"main": make()}, task=TASK),
    )
    folder.mkdir()
    step.requires(artifact)
    result = step.run(artifact, context)
    step.ensures(artifact, result)
    return result


def run(artifact: Artifact, *arrays: numpy.ndarray) -> list[numpy.ndarray]:
    """The outputs in LiteRT for the first 8 samples, in the task's layout."""
    part = artifact.parts[0]
    running = Interpreter(
        str(artifact.path(part)),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    running.allocate_tensors()
    inputs, outputs = (
        sorted(details, key=lambda detail: detail["name"])
        for details in (
            running.get_input_details(),
            running.get_output_details(),
        )
    )
    rows = []
    for k in range(8):
        for spec, detail, array in zip(
            part.signature.inputs, inputs, arrays, strict=True
        ):
            running.set_tensor(detail["index"], spec.encode(array[k : k + 1]))
        running.invoke()
        rows.append(
            [
                spec.decode(running.get_tensor(detail["index"]))
                for spec, detail in zip(
                    part.signature.outputs, outputs, strict=True
                )
            ]
        )
    return [numpy.concatenate(column) for column in zip(*rows, strict=True)]


def operators(artifact: Artifact) -> list[str]:
    """The operators of the file, in order."""
    model = tflite_file.read(artifact.path(artifact.parts[0]))
    return [
        tflite_file.operator_name(model, operator)
        for operator in model.subgraphs[0].operators
    ]


@dataclasses.dataclass
class Case:
    """A network, some data, its float and its int8 file, and what they must compute."""

    network: nn.Module
    data: torch.Tensor
    source: Artifact
    plain: Artifact
    int8: Artifact
    simulated: nn.Module


def case(make: Callable[[], nn.Module], folder: pathlib.Path) -> Case:
    torch.manual_seed(0)
    network, data = random_norms(make()), torch.randn(64, 1, 8, 8)
    signature = Signature(inputs=(IMAGES,), outputs=(LOGITS,))
    source = stored(network, folder / "int8-source", signature, data)
    calibration = calibrate(
        network,
        [(data,)],
        signature,
        Settings(symmetric=False, observer="min-max"),
    )
    plain = exported(
        stored(network, folder / "float-source", signature),
        make,
        folder / "float",
    )
    return Case(
        network,
        data,
        source,
        plain,
        exported(source, make, folder / "int8"),
        simulate(network, signature, calibration, fold=False),
    )


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case(lambda: resnet8(1, 10, 8), tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case(Awkward, tmp_path_factory.mktemp("awkward"))


@pytest.mark.parametrize("name", ["residual", "awkward"])
def test_float_file_computes_the_same(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The float file computes torch's numbers."""
    case: Case = request.getfixturevalue(name)
    with torch.no_grad():
        expected = case.network(case.data[:8]).numpy()
    numpy.testing.assert_allclose(
        run(case.plain, case.data.numpy())[0],
        expected,
        atol=1e-5 * numpy.abs(expected).max(),
    )


@pytest.mark.parametrize("name", ["residual", "awkward"])
def test_int8_file_computes_what_was_simulated(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The int8 file is within two output steps of the quantized torch graph."""
    case: Case = request.getfixturevalue(name)
    with torch.no_grad():
        expected = case.simulated(case.data[:8]).numpy()
    quantization = case.int8.parts[0].signature.outputs[0].quantization
    assert quantization is not None
    assert (
        numpy.abs(run(case.int8, case.data.numpy())[0] - expected).max()
        <= 2.01 * quantization.scale
    )


@pytest.mark.parametrize("name", ["residual", "awkward"])
def test_int8_file_is_int8_throughout(
    name: str, request: pytest.FixtureRequest
) -> None:
    """No operator reads or writes a float; inputs and outputs are int8, also in the notes."""
    case: Case = request.getfixturevalue(name)
    part = case.int8.parts[0]
    assert tflite_file.count_layers(case.int8.path(part)).float_operators == {}
    assert {
        spec.dtype for spec in (*part.signature.inputs, *part.signature.outputs)
    } == {"int8"}
    assert case.int8.notes["parts"]["main"]["float_inputs_and_outputs"] == []


@pytest.mark.parametrize("name", ["residual", "awkward"])
def test_no_transposes_are_left(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Neither the channel-first input, nor a spatial mean, nor a flattened map leaves a
    TRANSPOSE.
    """
    case: Case = request.getfixturevalue(name)
    assert "TRANSPOSE" not in operators(case.plain) + operators(case.int8)


def test_signature_contains_the_layout(residual: Case) -> None:
    """The file accepts one channel-last sample, and the signature contains the axes."""
    spec = residual.plain.parts[0].signature.inputs[0]
    assert (spec.name, spec.dims, spec.axes, spec.dtype) == (
        "input",
        (1, 8, 8, 1),
        (0, 2, 3, 1),
        "float32",
    )


def test_rewrites_are_counted_in_the_notes(
    residual: Case, awkward: Case
) -> None:
    """The notes count the flattened maps that were rewritten for a channel-last runtime."""
    assert (
        residual.plain.notes["parts"]["main"]["rewritten_for_channel_last"] == 0
    )
    assert (
        awkward.plain.notes["parts"]["main"]["rewritten_for_channel_last"] == 1
    )


def test_silent_float_file_is_refused(
    residual: Case, tmp_path: pathlib.Path
) -> None:
    """A graph with Q/DQ that the converter wrote as a float file is not accepted as a
    quantized one.
    """
    litert_conversion.convert(
        residual.simulated,
        (residual.data[:1],),
        tmp_path / "main.tflite",
        channel_last_inputs=(0,),
        quantized=False,
    )
    wrong = residual.int8.model_copy(update={"folder": tmp_path})
    with pytest.raises(
        StepError,
        match=r"main\.tflite is not int8: 10 of 10 layers compute in float",
    ):
        TorchToTflite().ensures(residual.source, wrong)


class Several(nn.Module):
    """Two inputs of different kinds and three outputs, one of them an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.table = nn.Embedding(7, 4)

    def forward(
        self, images: torch.Tensor, words: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        features = self.body(images)
        return {
            "score": self.table(words).sum(1),
            "map": features,
            "next": words + 1,
        }


def test_inputs_and_outputs_keep_their_order(tmp_path: pathlib.Path) -> None:
    """Named outputs come in the signature's order, images channel-last on both ends, 64-bit
    integers as 32-bit.
    """
    signature = Signature(
        inputs=(
            TensorSpec(name="images", dtype="float32", dims=("batch", 3, 6, 5)),
            TensorSpec(
                name="words", dtype="int64", dims=("batch", 2), low=0, high=7
            ),
        ),
        outputs=(
            TensorSpec(name="map", dtype="float32", dims=("batch", 4, 6, 5)),
            TensorSpec(name="score", dtype="float32", dims=("batch", 4)),
            TensorSpec(name="next", dtype="int64", dims=("batch", 2)),
        ),
    )
    network = Several().eval()
    artifact = exported(
        stored(network, tmp_path / "source", signature),
        Several,
        tmp_path / "made",
    )
    images, words = torch.randn(8, 3, 6, 5), torch.randint(0, 7, (8, 2))
    with torch.no_grad():
        expected = network(images, words)
    outputs = run(artifact, images.numpy(), words.numpy())
    for name, output in zip(("map", "score", "next"), outputs, strict=True):
        numpy.testing.assert_allclose(output, expected[name].numpy(), atol=1e-5)
    part = artifact.parts[0].signature
    assert [spec.dtype for spec in part.inputs] == ["float32", "int32"]
    assert part.outputs[0].dims == (1, 6, 5, 4)


def test_unsupported_operator_has_a_fix(tmp_path: pathlib.Path) -> None:
    """A transposed convolution that TFLite lacks is reported with those that it has."""
    spec, result = (
        TensorSpec(name=name, dtype="float32", dims=("batch", *dims))
        for name, dims in (("x", (8, 7, 7)), ("y", (4, 14, 14)))
    )
    signature = Signature(inputs=(spec,), outputs=(result,))
    network = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
    source = stored(network.eval(), tmp_path / "source", signature)
    with pytest.raises(
        StepError,
        match="main: TFLite has no transposed convolution with this kernel"
        r".*\n.*kernel 4, stride 2, padding 1",
    ):
        exported(
            source,
            lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
            tmp_path / "made",
        )


def test_free_dims_are_refused_before_work() -> None:
    """A free dim that is not the number of samples cannot be written."""
    signature = Signature(
        inputs=(
            TensorSpec(name="ids", dtype="int64", dims=("batch", "length")),
        ),
        outputs=(LOGITS,),
    )
    artifact = Artifact(
        format="torch",
        parts=(Part(name="main", signature=signature, files={}),),
    )
    with pytest.raises(StepError, match="ids has the free dims length"):
        TorchToTflite().requires(artifact)


def test_nothing_reaches_the_user() -> None:
    """Import and conversion print nothing and warn of nothing: no progress, no warnings, no
    logs of the C++ parts.
    """
    code = """
import warnings; warnings.simplefilter("always")
import pathlib, tempfile, torch
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import export, interpreter as litert
from edgekit.signature import Signature, TensorSpec
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "main.tflite"
    network = torch.nn.Conv2d(1, 2, 3)
    samples = (torch.zeros(1, 1, 8, 8),)
    litert_conversion.convert(network, samples, path, channel_last_inputs=(0,))
    spec = TensorSpec(name="x", dtype="float32", dims=(1,))
    litert.read_signature(path, Signature(inputs=(spec,), outputs=(spec,)))
import logging, os; assert not logging.root.handlers and "TF_CPP_MIN_LOG_LEVEL" not in os.environ
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "TF_CPP_MIN_LOG_LEVEL"
    }  # other packages of this process set it
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
