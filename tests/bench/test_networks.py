"""The bench's networks: they build, give logits of the right shape, train the same way
twice, and export.
"""

import pathlib

import numpy
import pytest
import torch

from bench import exports, timing
from bench.networks import NETWORKS, Training, train
from edgekit.task import Split

TRAINED = [
    name for name, network in NETWORKS.items() if network.training is not None
]


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_takes_its_task_and_gives_ten_logits(name: str) -> None:
    """Every trained network runs on its own data, which hold a test split of some hundreds."""
    network = NETWORKS[name]
    task = network.task()
    test = task.need("test", "this test")
    (batch,) = (torch.from_numpy(array[:3]) for array in test.inputs.values())
    with torch.no_grad():
        assert network._fresh().eval()(batch).shape == (3, 10)
    assert len(test) >= 700
    assert task.classes == 10


def test_the_sentence_encoder_gives_unit_vectors() -> None:
    """The published weights load, and an embedding has length 1; it needs transformers and
    the weights' package.
    """
    pytest.importorskip("transformers")
    try:
        from bench import minilm

        network = minilm.model()
    except SystemExit as missing:
        pytest.skip(str(missing))
    rows = minilm.tokens(
        [
            "A sentence about nothing.",
            "Another one, which is longer than the first.",
        ]
    )
    with torch.no_grad():
        made = network(*(torch.from_numpy(array) for array in rows.values()))
    assert made.shape == (2, 384)
    assert torch.allclose(made.norm(dim=1), torch.ones(2), atol=1e-5)


def test_training_is_the_same_twice_and_learns() -> None:
    """One epoch from one seed gives the same weights, and fewer mistakes than guessing."""
    split = NETWORKS["lstm"].task().need("train", "this test").take(1500)
    made = [
        train(
            NETWORKS["lstm"]._fresh(),
            split,
            Training(epochs=1, learning_rate=5e-3),
        )
        for _ in range(2)
    ]
    assert all(
        torch.equal(a, b)
        for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True)
    )
    with torch.no_grad():
        right = (
            made[0](torch.from_numpy(split.inputs["input"])).argmax(1).numpy()
            == split.labels
        )
    assert right.mean() > 0.3


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
@pytest.mark.filterwarnings("ignore")
def test_the_plain_export_computes_the_network(
    runtime: timing.Runtime, tmp_path: pathlib.Path
) -> None:
    """The float file, wrapped as an artifact and run sample by sample, gives what torch
    gives.
    """
    network = NETWORKS["resnet"]
    task = network.task()
    test = task.need("test", "this test").take(5)
    made, path = network._fresh().eval(), tmp_path / f"model.{runtime}"
    if runtime == "onnx":
        exports.to_onnx(made, test, path)
    else:
        exports.to_tflite(made, test, path, images=True)
    artifact = timing.wrap(path, runtime, test, images=True)
    with torch.no_grad():
        wanted = made(torch.from_numpy(test.inputs["input"])).numpy()
    with timing.LocalHost().open(artifact) as runner:
        (given,) = runner.infer(test.inputs).values()
    assert numpy.allclose(given, wanted, atol=1e-4)
    assert isinstance(test, Split)
