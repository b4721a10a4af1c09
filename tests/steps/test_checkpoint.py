"""Reading other people's checkpoints."""

import pathlib
import pickle
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.steps import checkpoint


class Evil:
    """Runs a call when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (pathlib.Path.touch, (self.path,))


def same(network: nn.Module, path: pathlib.Path) -> bool:
    """Whether a fresh network has the weights after reading."""
    fresh = nn.Linear(3, 2)
    checkpoint.fit({"main": fresh}, checkpoint.read(path), path)
    return all(
        torch.equal(value, fresh.state_dict()[key])
        for key, value in network.state_dict().items()
    )


def test_every_usual_kind_is_read(tmp_path: pathlib.Path) -> None:
    """safetensors, a state dict, one inside a training checkpoint, one of DataParallel."""
    network = nn.Linear(3, 2)
    state = network.state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pth")
    torch.save({"model": state}, tmp_path / "d.bin")
    torch.save(
        {f"module.{key}": value for key, value in state.items()},
        tmp_path / "e.pt",
    )
    for path in sorted(tmp_path.iterdir()):
        assert same(network, path), path


def test_half_precision_is_widened(tmp_path: pathlib.Path) -> None:
    """A float16 checkpoint fits a float32 network."""
    torch.save(
        {
            key: value.half()
            for key, value in nn.Linear(3, 2).state_dict().items()
        },
        tmp_path / "a.pt",
    )
    fresh = nn.Linear(3, 2)
    checkpoint.fit(
        {"main": fresh}, checkpoint.read(tmp_path / "a.pt"), tmp_path / "a.pt"
    )
    assert fresh.weight.dtype == torch.float32


def test_parts_are_distinguished_by_their_prefix(
    tmp_path: pathlib.Path,
) -> None:
    """With several parts, names begin with the part's."""
    parts = {"first": nn.Linear(3, 2), "second": nn.Linear(2, 3)}
    tensors = {
        f"{part}.{key}": value + 1
        for part, network in parts.items()
        for key, value in network.state_dict().items()
    }
    checkpoint.fit(parts, tensors, tmp_path)
    assert torch.equal(parts["second"].weight, tensors["second.weight"])


def test_everything_that_does_not_fit_is_listed_at_once(
    tmp_path: pathlib.Path,
) -> None:
    """Other shapes (both are reported), missing and unknown tensors."""
    tensors = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(ModelError) as caught:
        checkpoint.fit({"main": nn.Linear(3, 2)}, tensors, tmp_path / "w.pt")
    text = str(caught.value)
    assert "weight: the network has [2, 3], the checkpoint [2, 4]" in text
    assert "bias: missing from the checkpoint" in text
    assert "scale: the network has no such tensor" in text


def test_a_long_list_is_cut(tmp_path: pathlib.Path) -> None:
    """Hundreds of wrong names do not fill the screen."""
    tensors = {f"x{index}": torch.zeros(1) for index in range(300)}
    with pytest.raises(ModelError, match=r"and 272 more"):
        checkpoint.fit({"main": nn.Linear(3, 2)}, tensors, tmp_path / "w.pt")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: pathlib.Path,
) -> None:
    """The call inside the file is not made."""
    mark = tmp_path / "owned"
    torch.save({"weight": Evil(mark)}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(mark)))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ModelError, match="would run that code"):
            checkpoint.read(tmp_path / name)
    assert not mark.exists()


def test_a_pickled_network_is_refused(tmp_path: pathlib.Path) -> None:
    """torch.save(network) needs its class to be loaded; the message has what to save
    instead.
    """
    torch.save(nn.Linear(2, 2), tmp_path / "network.pt")
    with pytest.raises(ModelError, match="a pickled network") as caught:
        checkpoint.read(tmp_path / "network.pt")
    assert "safetensors" in (caught.value.fix or "")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 half", b"\xff" * 100, b"hello world, no weights here"],
)
def test_a_broken_file_is_refused(
    tmp_path: pathlib.Path, name: str, content: bytes
) -> None:
    """Garbage, an empty file and half a zip archive are ModelErrors."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError):
        checkpoint.read(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(2)])
def test_what_is_no_state_dict_is_refused(
    tmp_path: pathlib.Path, content: object
) -> None:
    """Harmless content of another kind is described."""
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="not a state_dict"):
        checkpoint.read(tmp_path / "w.pt")


def test_a_missing_file_is_reported(tmp_path: pathlib.Path) -> None:
    """The path is named."""
    with pytest.raises(ModelError, match="No such checkpoint"):
        checkpoint.read(tmp_path / "none.pt")


def test_tensors_that_cannot_be_loaded_are_listed(
    tmp_path: pathlib.Path,
) -> None:
    """Integers for real weights, tensors without values and sparse ones are refused by
    name; another precision is taken.
    """
    state = nn.Linear(3, 2).state_dict()
    path = tmp_path / "w.pt"
    for wrong, message in (
        (
            state["weight"].to(torch.int32),
            "weight: the network has float32, the checkpoint int32",
        ),
        (
            state["weight"].to("meta"),
            "weight: the checkpoint's tensor has no values",
        ),
        (
            state["weight"].to_sparse(),
            "weight: the checkpoint's tensor is sparse",
        ),
    ):
        torch.save({**state, "weight": wrong}, path)
        with pytest.raises(ModelError, match=message):
            checkpoint.fit(
                {"main": nn.Linear(3, 2)}, checkpoint.read(path), path
            )
    checkpoint.fit(
        {"main": nn.Linear(3, 2)},
        {name: tensor.double() for name, tensor in state.items()},
        path,
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchs_advice_to_load_code_is_not_passed_on(
    tmp_path: pathlib.Path,
) -> None:
    """A TorchScript archive is recognized, and nobody is advised to load it with
    weights_only=False.
    """
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(ModelError, match="TorchScript archive") as caught:
        checkpoint.read(tmp_path / "script.pt")
    assert "weights_only" not in str(caught.value)
