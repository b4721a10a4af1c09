"""neural-compressor's schemes through the step, on real networks and data, in ONNX Runtime."""

import pathlib
from collections.abc import Mapping

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekit import testing
from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError, TaskError
from edgekit.formats.onnx import audit as audit_onnx
from edgekit.formats.onnx.lowering.lower import LowerOnnx
from edgekit.planning.plan import plan
from edgekit.recipe import Recipe
from edgekit.scheme import SCHEMES
from edgekit.signature import Signature, TensorSpec
from edgekit.sources.cnn import plain_cnn
from edgekit.steps import torch_storage
from edgekit.target import Limits, Target
from edgekit.task import Task
from edgekit.tasks.digits import digits

pytest.importorskip(
    "neural_compressor",
    reason="neural-compressor is not installed: pip install 'edgekit[intel]'",
)

from edgekit.formats.neural_compressor import blocks
from edgekit.formats.neural_compressor.export import (
    NeuralCompressorToOnnx,
    held_out,
    mean_score,
)
from edgekit.formats.neural_compressor.nodes import read_grid

LM = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WORDS = 12


def spec(name: str, *dims: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", dims=("batch", *dims))


def cnn() -> dict[str, nn.Module]:
    return {"model": plain_cnn(1, 10)}


def stored(
    networks: Mapping[str, nn.Module],
    signatures: Mapping[str, Signature],
    folder: pathlib.Path,
) -> Artifact:
    folder.mkdir()
    return torch_storage.save(networks, signatures, folder, {})


def context(folder: pathlib.Path, task: Task, networks: object) -> Context:
    folder.mkdir()
    return Context(folder=folder, networks=networks, task=task)  # type: ignore[arg-type]


def predict(artifact: Artifact, data: object) -> numpy.ndarray:
    session = onnxruntime.InferenceSession(
        str(artifact.path(artifact.parts[0]))
    )
    result: numpy.ndarray = session.run(None, {"input": data})[0]
    return result


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """The small convolutional network, trained for a few seconds on digits."""
    torch.manual_seed(0)
    network, train = plain_cnn(1, 10), digits().need("train", "the test")
    inputs, labels = (
        torch.from_numpy(train.inputs["input"].copy()),
        torch.from_numpy(numpy.asarray(train.labels)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(12):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(
                network(inputs[rows]), labels[rows]
            ).backward()
            optimizer.step()
    return network.eval()


@pytest.mark.slow
def test_static_int8_keeps_the_accuracy_and_runs_in_int8(
    trained: nn.Module, tmp_path: pathlib.Path
) -> None:
    """On digits the tuned file is as accurate as float within 2 points, all its
    convolutions are int8, and it is far smaller.
    """
    task, signature = (
        digits(),
        Signature(
            inputs=(spec("input", 1, 8, 8),), outputs=(spec("output", 10),)
        ),
    )
    start = stored({"model": trained}, {"model": signature}, tmp_path / "start")
    step = NeuralCompressorToOnnx(scheme="w8a8-static-inc")
    step.requires(start)
    quantized_file = step.run(start, context(tmp_path / "made", task, cnn))
    step.ensures(start, quantized_file)
    lowering = LowerOnnx()
    lowered = lowering.run(
        quantized_file, context(tmp_path / "lowered", task, cnn)
    )
    lowering.ensures(quantized_file, lowered)
    test = task.need("test", "the test")
    float_right = mean_score({"model": trained}, start.parts, task, test)
    right = float(
        (predict(lowered, test.inputs["input"]).argmax(1) == test.labels).mean()
    )
    assert float_right > 0.95
    assert right >= float_right - 0.02
    audit = audit_onnx.audit(lowered, Limits())
    share = next(
        row for row in audit.measurements if row.name == "int8_mac_share"
    )
    # Its quantizer leaves the output of the last linear layer in float, and ONNX Runtime
    # then the layer.
    assert share.detail["all"] - share.detail["int8"] <= 64 * 10
    assert (
        lowered.path(lowered.parts[0]).stat().st_size
        < 0.4 * start.path(start.parts[0], "weights").stat().st_size
    )
    notes = quantized_file.notes["parts"]["model"]
    assert notes["scored_samples"] == 512
    assert notes["float_score"] - max(notes["scores"]) <= 0.01


@pytest.mark.parametrize(
    "scheme",
    [
        name
        for name, scheme in SCHEMES.items()
        if scheme.provider == "neural-compressor"
    ],
)
def test_the_step_takes_what_it_is_planned_with(scheme: str) -> None:
    """The plan's parameters are the step's own, for each of its schemes."""
    target = Target(
        name="board",
        title="",
        format="onnx",
        runtime="onnxruntime",
        schemes=(scheme, "float"),
    )
    recipe = Recipe.model_validate(
        {"compress": [{"quantize": {"scheme": scheme}}]}
    )
    (row,) = plan(recipe, [target], lambda module: True).targets
    step = NeuralCompressorToOnnx(**row.candidates[0].steps[0].parameters)
    assert step.scheme == scheme


def test_held_out_samples_are_labelled_training_data_that_calibration_does_not_use() -> (
    None
):
    """No held-out sample is a test sample or one of those that calibration draws; where too
    few are left there are none.
    """
    task = digits()
    used = task.need("calibration", "the test").draw(256, 0)
    held = held_out(task, used, 0)
    assert held is not None
    assert held.labels is not None

    def rows(split: object) -> set[bytes]:
        return {row.tobytes() for row in split.inputs["input"]}  # type: ignore[attr-defined]

    assert not rows(held) & rows(used)
    assert rows(held) <= rows(task.need("train", "the test"))
    assert not rows(held) & rows(task.need("test", "the test"))
    everything = task.need("calibration", "the test").draw(10**6, 0)
    assert held_out(task, everything, 0) is None


@pytest.mark.slow
def test_parts_in_a_chain_are_each_quantized(tmp_path: pathlib.Path) -> None:
    """Two parts become two files; the second is calibrated on the output of the first, and the
    entire chain is scored.
    """
    torch.manual_seed(0)
    signatures = {
        "encoder": Signature(
            inputs=(spec("input", 8),), outputs=(spec("code", 16),)
        ),
        "decoder": Signature(
            inputs=(spec("code", 16),), outputs=(spec("output", 3),)
        ),
    }

    def fresh() -> dict[str, nn.Module]:
        return {
            "encoder": nn.Sequential(nn.Linear(8, 16), nn.ReLU()),
            "decoder": nn.Sequential(nn.Linear(16, 3)),
        }

    start = stored(fresh(), signatures, tmp_path / "start")
    step = NeuralCompressorToOnnx(samples=64)
    quantized_file = step.run(
        start, context(tmp_path / "made", testing.tiny_task(), fresh)
    )
    step.ensures(start, quantized_file)
    assert [part.name for part in quantized_file.parts] == [
        "encoder",
        "decoder",
    ]
    for notes in quantized_file.notes["parts"].values():
        assert notes["scored_samples"] > 0
        assert len(notes["scores"]) >= 1


class Words(nn.Module):
    """A tiny random Llama; word numbers in, scores of the next word out."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip(
            "transformers", reason="transformers is not installed"
        )
        torch.manual_seed(0)
        self.llama = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**LM, max_position_embeddings=32)
        )

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.llama(input_ids=ids, use_cache=False).logits
        return logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme", ["w4-weight-rtn", "w4-weight-awq", "w4-weight-hqq"]
)
def test_a_language_model_keeps_the_grid_that_was_chosen(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    """The file holds, bit for bit, the weights that neural-compressor chose for all seven
    linear layers, and computes what torch does with them.
    """

    def fresh() -> dict[str, nn.Module]:
        return {"model": Words().eval()}

    ids = numpy.random.default_rng(0).integers(0, LM["vocab_size"], (40, WORDS))
    task = Task(
        "words", train=(ids[:30], ids[:30, 0]), test=(ids[30:], ids[30:, 0])
    )
    takes = TensorSpec(
        name="input",
        dtype="int64",
        dims=("batch", WORDS),
        low=0,
        high=LM["vocab_size"],
    )
    signature = Signature(
        inputs=(takes,), outputs=(spec("output", WORDS, LM["vocab_size"]),)
    )
    networks = fresh()
    start = stored(networks, {"model": signature}, tmp_path / "start")
    step = NeuralCompressorToOnnx(scheme=scheme, samples=30)
    step.requires(start)
    quantized_file = step.run(start, context(tmp_path / "made", task, fresh))
    step.ensures(start, quantized_file)
    data = task.need("calibration", "the test").draw(30, 0).inputs["input"]
    chosen = {
        "w4-weight-rtn": blocks.rtn,
        "w4-weight-hqq": blocks.hqq,
        "w4-weight-awq": lambda network: blocks.awq(
            network, lambda: network(torch.from_numpy(data))
        ),
    }[scheme](networks["model"])
    graph = onnx.load(str(quantized_file.path(quantized_file.parts[0]))).graph
    written = [
        read_grid(graph, node)
        for node in graph.node
        if node.op_type == "MatMulNBits"
    ]
    assert len(written) == quantized_file.notes["parts"]["model"]["nodes"] == 7
    assert {grid.weights().tobytes() for grid in written} == {
        grid.weights().tobytes() for grid in chosen.values()
    }
    got = predict(quantized_file, ids[30:])
    with torch.no_grad():
        same, plain = (
            networks["model"](torch.from_numpy(ids[30:])).numpy(),
            fresh()["model"](torch.from_numpy(ids[30:])).numpy(),
        )
    assert numpy.abs(got - same).max() < 1e-4 * numpy.ptp(same)
    assert (
        1e-3 * numpy.ptp(plain)
        < numpy.abs(got - plain).max()
        < 0.15 * numpy.ptp(plain)
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            NeuralCompressorToOnnx(scheme="w8a8-static"),
            "is not neural-compressor's",
        ),
        (
            NeuralCompressorToOnnx(samples=0),
            "Calibration on 0 samples is not possible",
        ),
    ],
)
def test_what_the_step_cannot_do_is_refused_before_any_work(
    step: NeuralCompressorToOnnx, message: str, tmp_path: pathlib.Path
) -> None:
    """Another provider's scheme, and calibration on nothing."""
    start = stored(
        {"model": testing.tiny_network()},
        {
            "model": Signature(
                inputs=(spec("input", 8),), outputs=(spec("output", 3),)
            )
        },
        tmp_path / "start",
    )
    with pytest.raises(StepError, match=message):
        step.requires(start)


def test_a_network_without_linear_layers_and_a_task_without_data_are_refused(
    tmp_path: pathlib.Path,
) -> None:
    """Nothing to store in 4 bits, or nothing to calibrate on, is an error with a fix."""

    def fresh() -> dict[str, nn.Module]:
        return {
            "model": nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
        }

    signature = Signature(
        inputs=(spec("input", 1, 8, 8),), outputs=(spec("output", 3),)
    )
    start = stored(fresh(), {"model": signature}, tmp_path / "start")
    with pytest.raises(StepError, match="no linear layer"):
        NeuralCompressorToOnnx(scheme="w4-weight-rtn").run(
            start, context(tmp_path / "a", testing.tiny_images(), fresh)
        )
    test_only = Task(
        "bare",
        test=(numpy.zeros((4, 1, 8, 8), "float32"), numpy.zeros(4, "int64")),
    )
    with pytest.raises(TaskError, match="no calibration data"):
        NeuralCompressorToOnnx().run(
            start, context(tmp_path / "b", test_only, fresh)
        )
