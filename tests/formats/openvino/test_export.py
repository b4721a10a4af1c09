"""An OpenVINO file computes what its ONNX file computes, is the same every time, and records
how it must be executed.
"""

import pathlib

import numpy
import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.device_worker import runtime_onnxruntime, runtime_openvino
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.openvino import export as openvino_export
from edgekit.formats.openvino.export import OnnxToOpenvino
from edgekit.quantization.graph import calibrate, simulate
from edgekit.signature import Signature, TensorSpec
from edgekit.testing import tiny_task

IMAGE = Signature(
    inputs=(
        TensorSpec(
            name="image",
            dtype="float32",
            dims=("batch", 3, 8, 8),
            low=0,
            high=1,
        ),
    ),
    outputs=(TensorSpec(name="logits", dtype="float32", dims=("batch", 10)),),
)
#: The largest difference to the ONNX file, in shares of the outputs' range: rounding of
#: float sums, of half-precision weights, two steps of int8, 8 and 4-bit weights.
DIFFERENCES = {
    "float": 1e-6,
    "fp16": 2e-3,
    "w8a8-static": 2.01 / 255,
    "w8-weight": 2e-2,
    "w4-weight": 1e-1,
}


class Network(nn.Module):
    """Two convolutions, one of them depthwise, a sum, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 5, padding=2, groups=64)
        self.hidden = nn.Linear(64, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.depthwise(x) + x).relu()
        logits: Tensor = self.head(self.hidden(x.mean((2, 3))).relu())
        return logits


def network() -> nn.Module:
    """Few of its weights are large. Without VNNI, OpenVINO's kernels add two products of 8
    bits in 16, which neighbouring large weights make overflow (int8 on AVX2, 2026.4).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Network().eval()
    with torch.no_grad():
        for weights in module.parameters():
            largest = weights.abs().max()
            weights.copy_(largest * (weights / largest) ** 5)
    return module


def onnx_artifact(folder: pathlib.Path, *, quantized: bool = False) -> Artifact:
    """The network as an ONNX file, float or with calibrated Q/DQ."""
    folder.mkdir()
    module = network()
    if quantized:
        images = torch.rand(
            32, 3, 8, 8, generator=torch.Generator().manual_seed(0)
        )
        calibration = calibrate(module, [(images,)], IMAGE)
        module = simulate(module, IMAGE, calibration, fold=True)
    onnx_graph.write(export(module, IMAGE), folder / "main.onnx")
    part = Part(
        name="main", signature=IMAGE, files={"model": File(path="main.onnx")}
    )
    return Artifact(format="onnx", parts=(part,), folder=folder)


def context(folder: pathlib.Path) -> Context:
    folder.mkdir()
    return Context(folder=folder, networks=dict, task=tiny_task())


def convert(
    folder: pathlib.Path, scheme: str, keep: tuple[str, ...] = ()
) -> Artifact:
    """The network as an OpenVINO file of a scheme, checked by the step itself."""
    before = onnx_artifact(folder / "onnx", quantized=scheme == "w8a8-static")
    step = OnnxToOpenvino(scheme=scheme, keep=keep)
    step.requires(before)
    after = step.run(before, context(folder / "openvino"))
    step.ensures(before, after)
    return after


def open_model(artifact: Artifact) -> runtime_openvino.Model:
    return runtime_openvino.Model(
        str(artifact.path(artifact.parts[0])), 1, True
    )


@pytest.mark.parametrize("scheme", DIFFERENCES)
@pytest.mark.parametrize("samples", [1, 5])
def test_it_computes_what_the_onnx_file_computes(
    tmp_path: pathlib.Path, scheme: str, samples: int
) -> None:
    """Every scheme, for one and for several samples, against ONNX Runtime."""
    artifact = convert(tmp_path, scheme)
    # Without VNNI, ONNX Runtime's optimized kernels saturate sums of signed activations.
    original = runtime_onnxruntime.Model(
        str(tmp_path / "onnx" / "main.onnx"), 1, False
    )
    feeds = IMAGE.draw(samples)
    expected = original.bind(feeds)()[0]
    actual = open_model(artifact).bind(feeds)()[0]
    scale = numpy.ptp(original.bind(IMAGE.draw(64))()[0])
    difference = numpy.abs(actual - expected).max() / scale
    assert actual.shape == expected.shape
    assert difference <= DIFFERENCES[scheme]


@pytest.mark.parametrize("scheme", DIFFERENCES)
def test_the_same_network_becomes_the_same_bytes(
    tmp_path: pathlib.Path, scheme: str
) -> None:
    """OpenVINO counts nodes in the process; the files do not depend on it."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        convert(tmp_path / name, scheme)
    for name in ("main.xml", "main.bin"):
        contents = [
            (tmp_path / run / "openvino" / name).read_bytes()
            for run in ("first", "second")
        ]
        assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("scheme", "least"), [("fp16", 1.9), ("w8-weight", 3.4), ("w4-weight", 3.8)]
)
def test_weights_become_smaller(
    tmp_path: pathlib.Path, scheme: str, least: float
) -> None:
    """The .bin file shrinks by about the ratio of the bits."""
    sizes = []
    for name in ("float", scheme):
        (tmp_path / name).mkdir()
        artifact = convert(tmp_path / name, name)
        sizes.append(artifact.path(artifact.parts[0], "weights").stat().st_size)
    assert sizes[0] / sizes[1] > least


def test_the_file_records_how_it_was_verified(tmp_path: pathlib.Path) -> None:
    """Float arithmetic stays float32 and weight-only stays weight-only on every processor."""
    import openvino

    artifact = convert(tmp_path, "w8-weight")
    model = openvino.Core().read_model(artifact.path(artifact.parts[0]))
    assert (
        model.get_rt_info(["edgekit", "inference_precision"]).astype(str)
        == "f32"
    )
    assert model.get_rt_info(["edgekit", "scheme"]).astype(str) == "w8-weight"
    compiled = openvino.Core().compile_model(model, "CPU", {})
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


def test_a_kept_module_stays_float(tmp_path: pathlib.Path) -> None:
    """``keep`` leaves the weights of a module unchanged; the notes list them."""
    (tmp_path / "all").mkdir()
    (tmp_path / "kept").mkdir()
    everything = convert(tmp_path / "all", "w8-weight").notes["parts"]["main"]
    kept = convert(tmp_path / "kept", "w8-weight", keep=("hidden",)).notes[
        "parts"
    ]["main"]
    assert kept["int8"] == everything["int8"] - 1
    assert [name.partition("/")[0] for name in kept["kept_float"]] == ["hidden"]


def test_bfloat16_needs_a_processor_with_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file records bf16 if the processor has it, and is not built if it has not."""
    before = onnx_artifact(tmp_path / "onnx")
    step = OnnxToOpenvino(scheme="bf16")
    monkeypatch.setattr(openvino_export, "has_bfloat16", lambda: False)
    with pytest.raises(NothingToDo, match="no bfloat16 arithmetic"):
        step.requires(before)
    monkeypatch.setattr(openvino_export, "has_bfloat16", lambda: True)
    step.requires(before)
    after = step.run(before, context(tmp_path / "openvino"))
    assert after.notes["parts"]["main"]["inference_precision"] == "bf16"


def test_an_invalid_onnx_file_is_refused(tmp_path: pathlib.Path) -> None:
    """Before any work, by the ONNX checker."""
    before = onnx_artifact(tmp_path / "onnx")
    before.path(before.parts[0]).write_bytes(b"not a model")
    with pytest.raises(StepError, match="not a valid ONNX file"):
        OnnxToOpenvino().requires(before)


def test_another_interface_is_refused(tmp_path: pathlib.Path) -> None:
    """A file whose inputs are not those of the signature fails the step's own check."""
    after = convert(tmp_path, "float")
    part = after.parts[0]
    spec = part.signature.inputs[0].model_copy(
        update={"dims": ("batch", 4, 8, 8)}
    )
    signature = part.signature.model_copy(update={"inputs": (spec,)})
    changed = part.model_copy(update={"signature": signature})
    with pytest.raises(StepError, match="has the interface"):
        OnnxToOpenvino().ensures(
            after, after.model_copy(update={"parts": (changed,)})
        )
