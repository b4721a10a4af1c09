"""The first step."""

import pathlib
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from edgekit.cache import file_digest
from edgekit.contracts import Context
from edgekit.errors import ModelError
from edgekit.sources.cnn import plain_cnn
from edgekit.steps import torch_storage
from edgekit.steps.load_model import LoadModel
from edgekit.task import Task
from edgekit.tasks.digits import digits

Networks = Callable[[], Mapping[str, nn.Module]]


@pytest.fixture(scope="module")
def task() -> Task:
    return digits()


def networks(classes: int = 10) -> Networks:
    """Fresh small networks."""
    return lambda: {"main": plain_cnn(1, classes)}


def context(
    folder: pathlib.Path, task: Task, make: Networks, seed: int = 0
) -> Context:
    """What the step is handed."""
    folder.mkdir()
    return Context(folder=folder, networks=make, task=task, seed=seed)


def test_a_fresh_network_depends_on_the_seed_only(
    tmp_path: pathlib.Path, task: Task
) -> None:
    """Same seed, same weights; another seed, others; the caller's random numbers are left
    alone.
    """
    state = torch.get_rng_state()
    loaded = [
        LoadModel("zoo:cnn").run(
            None, context(tmp_path / str(n), task, networks(), seed)
        )
        for n, seed in enumerate((0, 0, 1))
    ]
    weights = [
        artifact.path(artifact.parts[0], "weights").read_bytes()
        for artifact in loaded
    ]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_signature_and_the_size_are_found(
    tmp_path: pathlib.Path, task: Task
) -> None:
    """Inputs and outputs by name, parameters and multiply-accumulates for the report."""
    step = LoadModel("zoo:cnn")
    loaded = step.run(None, context(tmp_path / "a", task, networks()))
    step.ensures(None, loaded)
    signature = loaded.parts[0].signature
    assert (
        signature.inputs[0].name,
        signature.inputs[0].dims,
        signature.inputs[0].low,
        signature.inputs[0].high,
    ) == ("input", ("batch", 1, 8, 8), 0, 1)
    assert (signature.outputs[0].name, signature.outputs[0].dims) == (
        "output",
        ("batch", 10),
    )
    assert loaded.notes["parameters"]["main"] == sum(
        p.numel() for p in plain_cnn(1, 10).parameters()
    )
    assert (
        loaded.notes["macs"]["main"]
        == 16 * 9 * 16 + 4 * 9 * 16 * 32 + 9 * 32 * 64 + 640
    )


def test_a_checkpoint_is_loaded(tmp_path: pathlib.Path, task: Task) -> None:
    """The artifact holds the checkpoint's weights."""
    network = plain_cnn(1, 10).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    step = LoadModel(
        "zoo:cnn", str(tmp_path / "w.pt"), file_digest(tmp_path / "w.pt")
    )
    loaded = torch_storage.load(
        step.run(None, context(tmp_path / "a", task, networks())), networks()()
    )["main"]
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x), network(x))


def test_a_checkpoint_that_changed_meanwhile_is_refused(
    tmp_path: pathlib.Path, task: Task
) -> None:
    """The cache's key holds the hash; other weights must not be stored under it."""
    torch.save(plain_cnn(1, 10).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="has changed"):
        LoadModel("zoo:cnn", str(tmp_path / "w.pt"), "0" * 64).run(
            None, context(tmp_path / "a", task, networks())
        )


def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: pathlib.Path, task: Task
) -> None:
    """Both shapes are reported."""
    torch.save(plain_cnn(1, 12).state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        ModelError,
        match=r"the network has \[10, 64\], the checkpoint \[12, 64\]",
    ):
        LoadModel("zoo:cnn", str(tmp_path / "w.pt")).run(
            None, context(tmp_path / "a", task, networks())
        )
