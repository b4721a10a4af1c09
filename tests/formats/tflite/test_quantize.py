"""Weights of a float TFLite file as int8 or half floats."""

import pathlib

import numpy
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite.quantize import RECIPES, QuantizeTflite
from edgekit.signature import Quantization, Signature, TensorSpec
from edgekit.task import Task

TASK = Task(
    name="none", test=(numpy.zeros((1, 1), "float32"), numpy.zeros(1, "int64"))
)
SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="input", dtype="float32", dims=(1, 8, 8, 4), axes=(0, 2, 3, 1)
        ),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=(1, 10)),),
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A float file with convolutions and a linear layer, large enough that every quantizer
    quantizes their weights.
    """
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(4, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    network = nn.Sequential(
        *layers, nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 10)
    ).eval()
    folder = tmp_path_factory.mktemp("plain")
    litert_conversion.convert(
        network,
        (torch.randn(1, 4, 8, 8),),
        folder / "main.tflite",
        channel_last_inputs=(0,),
    )
    return Artifact(
        format="tflite",
        parts=(
            Part(
                name="main",
                signature=SIGNATURE,
                files={"model": File(path="main.tflite")},
            ),
        ),
        folder=folder,
    )


def quantized(plain: Artifact, scheme: str, folder: pathlib.Path) -> Artifact:
    step = QuantizeTflite(scheme)
    step.requires(plain)
    result = step.run(plain, Context(folder=folder, networks=dict, task=TASK))
    step.ensures(plain, result)
    return result


def run(
    artifact: Artifact, images: numpy.ndarray, kernels: OpResolverType
) -> numpy.ndarray:
    running = Interpreter(
        str(artifact.path(artifact.parts[0])),
        experimental_op_resolver_type=kernels,
    )
    running.allocate_tensors()
    rows = []
    for image in images:
        running.set_tensor(running.get_input_details()[0]["index"], image[None])
        running.invoke()
        rows.append(
            running.get_tensor(running.get_output_details()[0]["index"])[0]
        )
    return numpy.array(rows)


@pytest.mark.parametrize(
    ("scheme", "tolerance"),
    [
        ("fp16", 0.002),
        ("w8-dynamic", 0.03),
        ("w8-dynamic-tensor", 0.03),
        ("w8-weight", 0.03),
        ("w4-weight", 0.3),
    ],
)
def test_numbers_stay_near(
    plain: Artifact, scheme: str, tolerance: float, tmp_path: pathlib.Path
) -> None:
    """The outputs are close to those of the float file, with LiteRT's plain kernels, and the
    file is smaller.
    """
    result = quantized(plain, scheme, tmp_path)
    images = (
        numpy.random.default_rng(0)
        .standard_normal((16, 8, 8, 4))
        .astype("float32")
    )
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    expected, actual = run(plain, images, kernels), run(result, images, kernels)
    assert (
        0
        < numpy.abs(actual - expected).max()
        < tolerance * numpy.abs(expected).max()
    )
    assert (
        result.path(result.parts[0]).stat().st_size
        < 0.8 * plain.path(plain.parts[0]).stat().st_size
    )
    assert [
        spec.dtype
        for spec in (
            *result.parts[0].signature.inputs,
            *result.parts[0].signature.outputs,
        )
    ] == ["float32", "float32"]


def test_dynamic_files_suit_old_runtimes(
    plain: Artifact, tmp_path: pathlib.Path
) -> None:
    """FULLY_CONNECTED has per-tensor scales (per-channel is silently wrong in tflite-runtime
    2.14), convolutions per-channel (wrong in LiteRT 2.3 otherwise).
    """
    result = quantized(plain, "w8-dynamic-tensor", tmp_path)
    model = tflite_file.read(result.path(result.parts[0]))
    graph = model.subgraphs[0]
    scales: dict[str, list[int]] = {}
    for operator in graph.operators:
        name = tflite_file.operator_name(model, operator)
        if name in tflite_file.WEIGHT_INPUTS:
            scales.setdefault(name, []).append(
                len(graph.tensors[operator.inputs[1]].quantization.scale)
            )
    assert scales == {
        "CONV_2D": [16],
        "DEPTHWISE_CONV_2D": [16],
        "FULLY_CONNECTED": [1, 1],
    }
    part_notes = result.notes["parts"]["main"]
    assert (
        part_notes["int8_weights"],
        part_notes["float_weights"],
        part_notes["operators"],
    ) == (4, 0, 4)


def test_a_half_precision_file_suits_gpu_delegates(
    plain: Artifact, tmp_path: pathlib.Path
) -> None:
    """The layout that LiteRT documents for its GPU delegate: float16 weights, each with a
    DEQUANTIZE, float inputs and outputs.
    """
    result = quantized(plain, "fp16", tmp_path)
    model = tflite_file.read(result.path(result.parts[0]))
    graph = model.subgraphs[0]
    halves = {
        index
        for index, tensor in enumerate(graph.tensors)
        if tensor.type == schema.TensorType.FLOAT16
    }
    readers = [
        operator
        for operator in graph.operators
        if halves & {int(index) for index in operator.inputs}
    ]
    assert halves and {
        tflite_file.operator_name(model, operator) for operator in readers
    } == {"DEQUANTIZE"}
    assert {
        graph.tensors[int(index)].type
        for index in (*graph.inputs, *graph.outputs)
    } == {schema.TensorType.FLOAT32}
    weights = [
        operator.inputs[1]
        for operator in graph.operators
        if tflite_file.operator_name(model, operator)
        in tflite_file.WEIGHT_INPUTS
    ]
    assert set(map(int, weights)) <= {
        int(index) for operator in readers for index in operator.outputs
    }


def test_the_float_file_is_untouched(
    plain: Artifact, tmp_path: pathlib.Path
) -> None:
    """A step never changes its input."""
    before = plain.path(plain.parts[0]).read_bytes()
    quantized(plain, "fp16", tmp_path)
    assert plain.path(plain.parts[0]).read_bytes() == before


def test_nothing_is_printed(
    plain: Artifact, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ai-edge-quantizer's own report does not reach the user."""
    quantized(plain, "w8-dynamic", tmp_path)
    assert capfd.readouterr() == ("", "")


def test_wrong_input_is_refused(
    plain: Artifact, tmp_path: pathlib.Path
) -> None:
    """An unknown scheme, a quantized file, and a damaged file are each reported."""
    with pytest.raises(
        StepError,
        match="does not support the scheme 'w8-dynamics'. Did you mean 'w8-dynamic'",
    ):
        QuantizeTflite("w8-dynamics").requires(plain)
    part = plain.parts[0]
    spec = part.signature.inputs[0].model_copy(
        update={
            "quantization": Quantization(scale=0.1, zero_point=0),
            "dtype": "int8",
        }
    )
    signature = part.signature.model_copy(update={"inputs": (spec,)})
    with pytest.raises(
        StepError, match="already quantized"
    ):  # weights of a file whose inputs and outputs are float
        QuantizeTflite("w4-weight").requires(
            quantized(plain, "w8-weight", tmp_path)
        )
    with pytest.raises(StepError, match="already quantized"):
        QuantizeTflite("fp16").requires(
            plain.model_copy(
                update={
                    "parts": (part.model_copy(update={"signature": signature}),)
                }
            )
        )
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "main.tflite").write_bytes(plain.path(part).read_bytes()[:1000])
    with pytest.raises(StepError, match="ai-edge-quantizer failed"):
        QuantizeTflite("fp16").run(
            plain.model_copy(update={"folder": folder}),
            Context(folder=tmp_path, networks=dict, task=TASK),
        )


def test_a_file_that_did_not_change_is_refused(plain: Artifact) -> None:
    """ensures sees that no weights were quantized."""
    for scheme in RECIPES:
        with pytest.raises(StepError, match="changed no weights"):
            QuantizeTflite(scheme).ensures(plain, plain)
