"""Networks on disk."""

import json
import pathlib

import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact
from edgekit.errors import ModelError
from edgekit.signature import Signature, TensorSpec
from edgekit.sources.resnet import resnet8
from edgekit.steps import torch_storage

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)


def saved(network: nn.Module, folder: pathlib.Path) -> Artifact:
    """One network as an artifact."""
    return torch_storage.save(
        {"main": network}, {"main": SIGNATURE}, folder, {"note": 1}
    )


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, width)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.embedding.weight


def test_what_is_saved_is_loaded(tmp_path: pathlib.Path) -> None:
    """A network has the same outputs after a round trip to disk, in eval mode."""
    network = resnet8(1, 10, width=8)
    network.train()(torch.rand(4, 1, 8, 8))  # moves the running means
    artifact = saved(network, tmp_path)
    loaded = torch_storage.load(artifact, {"main": resnet8(1, 10, width=8)})[
        "main"
    ]
    x = torch.rand(3, 1, 8, 8)
    assert not loaded.training
    assert torch.equal(loaded(x), network.eval()(x))
    assert artifact.notes == {"note": 1}


def test_a_narrower_network_is_rebuilt_from_the_fresh_one(
    tmp_path: pathlib.Path,
) -> None:
    """Widths and shapes come from the artifact, so that PyTorch's own description is right
    as well.
    """
    narrow = resnet8(1, 10, width=8)
    loaded = torch_storage.load(
        saved(narrow, tmp_path), {"main": resnet8(1, 10, width=32)}
    )["main"]
    assert str(loaded) == str(narrow.eval())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x), narrow(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_nothing_on_disk_can_run_code(tmp_path: pathlib.Path) -> None:
    """Only safetensors and JSON are written."""
    artifact = saved(nn.Linear(2, 2), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "main.json",
        "main.safetensors",
    ]
    assert json.loads(
        artifact.path(artifact.parts[0], "architecture").read_text()
    ) == {"": {"in_features": 2, "out_features": 2}}


def test_tied_weights_stay_tied(tmp_path: pathlib.Path) -> None:
    """A weight that two layers share is one weight after loading, also where its shape
    changed.
    """
    loaded = torch_storage.load(saved(Tied(4), tmp_path), {"main": Tied(6)})[
        "main"
    ]
    assert isinstance(loaded, Tied)
    assert loaded.head.weight is loaded.embedding.weight
    assert loaded.embedding.embedding_dim == 4


def test_normalized_shapes_stay_tuples(tmp_path: pathlib.Path) -> None:
    """JSON has no tuples; layer_norm expects one."""
    loaded = torch_storage.load(
        saved(nn.LayerNorm(4), tmp_path), {"main": nn.LayerNorm(6)}
    )["main"]
    assert loaded.normalized_shape == (4,)
    assert loaded(torch.rand(2, 4)).shape == (2, 4)


def test_another_network_is_refused(tmp_path: pathlib.Path) -> None:
    """An artifact does not load into a network that lacks its modules, tensors or parts."""
    artifact = saved(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tmp_path)
    for other in (
        nn.Sequential(nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2)),
    ):
        with pytest.raises(ModelError, match="source has changed"):
            torch_storage.load(artifact, {"main": other})
    with pytest.raises(ModelError, match="no longer has a part 'main'"):
        torch_storage.load(artifact, {"encoder": nn.Linear(2, 2)})


def test_a_damaged_file_is_reported(tmp_path: pathlib.Path) -> None:
    """A truncated weights file is a ModelError."""
    artifact = saved(nn.Linear(2, 2), tmp_path)
    artifact.path(artifact.parts[0], "weights").write_bytes(b"\xff" * 12)
    with pytest.raises(ModelError, match="cannot be read"):
        torch_storage.load(artifact, {"main": nn.Linear(2, 2)})
