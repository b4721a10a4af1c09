"""Linear layers of a float TFLite file prepared for dynamic int8: exact in float, and much
closer to it once quantized.
"""

import pathlib

import numpy
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import edit as tflite_edit
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite.quantize import QuantizeTflite
from edgekit.formats.tflite.tune import TuneTflite
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Task

RANDOM = numpy.random.default_rng(0)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=(1, 8, 64)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=(1, 8, 16)),),
)


class Outliers(nn.Module):
    """A layer norm with a few huge channels before two layers that read it, as in language
    models, and a residual path.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.gate, self.down = (
            nn.LayerNorm(64),
            nn.Linear(64, 128),
            nn.Linear(64, 128),
            nn.Linear(128, 16, bias=False),
        )
        self.near = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return self.down(self.up(y).relu() * self.gate(y)) + self.near(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def data() -> numpy.ndarray:
    values = RANDOM.standard_normal((72, 8, 64)).astype("float32")
    values[:, :, [3, 40]] *= 25
    return values


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("plain")
    litert_conversion.convert(
        Outliers().eval(), (torch.randn(1, 8, 64),), folder / "main.tflite"
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


def run(artifact: Artifact, data: numpy.ndarray) -> numpy.ndarray:
    running = Interpreter(str(artifact.path(artifact.parts[0])), num_threads=1)
    running.allocate_tensors()
    rows = []
    for sample in data:
        running.set_tensor(
            running.get_input_details()[0]["index"], sample[None]
        )
        running.invoke()
        rows.append(
            running.get_tensor(running.get_output_details()[0]["index"])[0]
        )
    return numpy.array(rows)


def run_step(
    step: TuneTflite | QuantizeTflite,
    artifact: Artifact,
    data: numpy.ndarray,
    folder: pathlib.Path,
) -> Artifact:
    folder.mkdir()
    step.requires(artifact)
    task = Task(
        name="none",
        calibration=data[:48],
        test=(data[48:], numpy.zeros(24, "int64")),
    )
    result = step.run(
        artifact, Context(folder=folder, networks=dict, task=task)
    )
    step.ensures(artifact, result)
    return result


def test_smoothing_alone_is_exact(
    plain: Artifact, data: numpy.ndarray, tmp_path: pathlib.Path
) -> None:
    """Factors before a layer and their inverses in its weights change nothing in float."""
    tuned = run_step(
        TuneTflite(rounding="nearest", correct_bias=False),
        plain,
        data,
        tmp_path / "tuned",
    )
    notes = tuned.notes["parts"]["main"]
    assert any(row["alpha"] is not None for row in notes)
    assert numpy.allclose(
        run(tuned, data), run(plain, data), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "step",
    [TuneTflite(), TuneTflite(rounding="nearest", correct_bias=False)],
    ids=["all", "smooth"],
)
def test_dynamic_int8_error_falls(
    plain: Artifact,
    data: numpy.ndarray,
    step: TuneTflite,
    tmp_path: pathlib.Path,
) -> None:
    """On data that calibration has not seen, LiteRT's squared error falls, by more than
    half with all three together.
    """
    test, expected = data[48:], run(plain, data[48:])
    direct = run_step(
        QuantizeTflite("w8-dynamic"), plain, data, tmp_path / "direct"
    )
    tuned = run_step(
        QuantizeTflite("w8-dynamic"),
        run_step(step, plain, data, tmp_path / "tuned"),
        data,
        tmp_path / "quantized",
    )
    before, after = (
        float(numpy.square(run(artifact, test) - expected).mean())
        for artifact in (direct, tuned)
    )
    assert after < (0.5 if step == TuneTflite() else 0.9) * before


def test_rounded_weights_are_found_again(
    plain: Artifact, data: numpy.ndarray, tmp_path: pathlib.Path
) -> None:
    """The quantizer's int8 numbers times its scales are the tuned float weights: it adds no
    further rounding.
    """
    tuned = run_step(TuneTflite(), plain, data, tmp_path / "tuned")
    quantized = run_step(
        QuantizeTflite("w8-dynamic"), tuned, data, tmp_path / "quantized"
    )
    model, stored = (
        tflite_file.read(artifact.path(artifact.parts[0]))
        for artifact in (tuned, quantized)
    )
    groups = [
        operator
        for group in tflite_edit.find_linear_groups(model)
        for operator in group.operators
    ]
    graph = stored.subgraphs[0]
    layers = [
        operator
        for operator in graph.operators
        if tflite_file.operator_name(stored, operator) == "FULLY_CONNECTED"
    ]
    assert len(groups) == len(layers) == 4
    tensor_of = {
        graph.tensors[operator.inputs[1]].name: graph.tensors[
            operator.inputs[1]
        ]
        for operator in layers
    }
    for operator in groups:
        tensor = tensor_of[model.subgraphs[0].tensors[operator.inputs[1]].name]
        steps = numpy.frombuffer(
            bytes(stored.buffers[tensor.buffer].data), "int8"
        ).reshape(tensor.shape)
        scale = numpy.array(tensor.quantization.scale, "float32")[:, None]
        assert numpy.allclose(
            steps * scale,
            tflite_edit.get_weight(model, operator),
            rtol=1e-5,
            atol=1e-7,
        )


def test_kept_and_wrong_input(
    plain: Artifact, data: numpy.ndarray, tmp_path: pathlib.Path
) -> None:
    """Kept modules stay unchanged; no samples, quantized files and infinite data are
    rejected.
    """
    model = tflite_file.read(plain.path(plain.parts[0]))
    assert [
        len(group.operators)
        for group in tflite_edit.find_linear_groups(model, ("gate", "near"))
    ] == [1, 1]
    assert (
        tflite_edit.find_linear_groups(model, ("up", "gate", "near", "down"))
        == []
    )
    with pytest.raises(
        StepError, match="Invalid number of calibration samples: 0"
    ):
        TuneTflite(samples=0).requires(plain)
    with pytest.raises(StepError, match="already quantized"):
        TuneTflite().requires(
            run_step(
                QuantizeTflite("w8-dynamic"),
                plain,
                data,
                tmp_path / "quantized",
            )
        )
    with pytest.raises(StepError, match="infinite or undefined values"):
        run_step(
            TuneTflite(),
            plain,
            data
            * numpy.where(numpy.arange(72) == 5, 1e30, 1).astype("float32")[
                :, None, None
            ],
            tmp_path / "infinite",
        )
