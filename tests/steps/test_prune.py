"""Removing channels as a step."""

import pathlib
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.sources.resnet import resnet8
from edgekit.steps import torch_storage
from edgekit.steps.load_model import LoadModel
from edgekit.steps.prune import Prune
from edgekit.task import Task

RANDOM = numpy.random.default_rng(0)
Make = Callable[[], dict[str, nn.Module]]


def task(*shape: int) -> Task:
    """A few samples of this shape."""
    return Task(
        "few",
        test=(
            RANDOM.normal(size=(4, *shape)).astype("float32"),
            numpy.zeros(4, int),
        ),
    )


def small() -> dict[str, nn.Module]:
    return {"main": resnet8(1, 10, width=16)}


def parts() -> dict[str, nn.Module]:
    return {
        "body": nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16)),
        "head": nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)),
    }


class Recurrent(nn.Module):
    """A GRU, which torch-pruning would leave as it is without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


class Reshaped(nn.Module):
    """A width that is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(x) * torch.ones(8))


def pruned(
    folder: pathlib.Path, make: Make, data: Task, step: Prune
) -> tuple[Artifact, Artifact]:
    """Before and after, with every part of the contract."""
    (folder / "load").mkdir()
    (folder / "prune").mkdir()
    start = LoadModel("net").run(
        None, Context(folder=folder / "load", networks=make, task=data)
    )
    step.requires(start)
    after = step.run(
        start, Context(folder=folder / "prune", networks=make, task=data)
    )
    step.ensures(start, after)
    return start, after


def test_half_the_channels_are_a_quarter_of_the_network(
    tmp_path: pathlib.Path,
) -> None:
    """The notes contain parameters, MACs and channels before and after; the stored network is
    that small and runs.
    """
    _, after = pruned(tmp_path, small, task(1, 8, 8), Prune(0.5, 8))
    changes = after.notes["parts"]["main"]
    assert changes["parameters"][1] < 0.3 * changes["parameters"][0]
    assert changes["macs"][1] < 0.3 * changes["macs"][0]
    assert changes["channels"]["stages.2.0.conv2"] == [64, 32]
    network = torch_storage.load(after, small())["main"]
    assert (
        sum(parameter.numel() for parameter in network.parameters())
        == changes["parameters"][1]
    )
    assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_pruning_twice_works(tmp_path: pathlib.Path) -> None:
    """A pruned artifact is rebuilt, pruned again, and rebuilt again."""
    start, after = pruned(tmp_path, small, task(1, 8, 8), Prune(0.5, 1))
    (tmp_path / "again").mkdir()
    again = Prune(0.5, 1).run(
        after,
        Context(folder=tmp_path / "again", networks=small, task=task(1, 8, 8)),
    )
    assert again.notes["parts"]["main"]["channels"]["stem"] == [8, 4]
    assert torch_storage.load(again, small())["main"](
        torch.zeros(1, 1, 8, 8)
    ).shape == (
        1,
        10,
    )
    assert start.parts[0].signature == again.parts[0].signature


def test_every_part_keeps_its_inputs_and_outputs(
    tmp_path: pathlib.Path,
) -> None:
    """Parts are pruned alone: what passes between them keeps its width, what is inside
    loses half.
    """
    _, after = pruned(tmp_path, parts, task(4), Prune(0.5, 4))
    assert after.notes["parts"]["body"]["channels"] == {
        "0": [32, 16],
        "2": [16, 16],
    }
    assert after.notes["parts"]["head"]["channels"] == {
        "0": [24, 12],
        "2": [3, 3],
    }


def test_skipped_layers_are_named_by_path(tmp_path: pathlib.Path) -> None:
    """With several parts the path begins with the part's name."""
    _, after = pruned(tmp_path, parts, task(4), Prune(0.5, 4, ("body.0",)))
    assert after.notes["parts"]["body"]["channels"]["0"] == [32, 32]
    assert after.notes["parts"]["head"]["channels"]["0"] == [24, 12]


def test_an_unknown_path_gets_a_hint(tmp_path: pathlib.Path) -> None:
    """A misspelt module is not silently pruned."""
    with pytest.raises(
        StepError,
        match=r"'stages\.0\.0\.conv3'.*Did you mean 'stages\.0\.0\.conv[12]'",
    ):
        pruned(
            tmp_path, small, task(1, 8, 8), Prune(0.5, 8, ("stages.0.0.conv3",))
        )


@pytest.mark.parametrize(
    "step", [Prune(0.5, 16, ("stem", "stages")), Prune(0.1, 64)]
)
def test_a_ratio_that_removes_nothing_is_an_error(
    tmp_path: pathlib.Path, step: Prune
) -> None:
    """A recipe that asks for pruning and gets none is an error."""
    with pytest.raises(StepError, match="removed nothing"):
        pruned(tmp_path, small, task(1, 8, 8), step)


def test_recurrent_layers_are_refused(tmp_path: pathlib.Path) -> None:
    """The layer is named, with the reason."""
    with pytest.raises(StepError, match=r"main: memory\).*GRU"):
        pruned(tmp_path, lambda: {"main": Recurrent()}, task(5, 4), Prune())


def test_a_network_that_breaks_is_reported_with_a_fix(
    tmp_path: pathlib.Path,
) -> None:
    """Widths written into forward break; skip is the fix, and works."""
    make: Make = lambda: {"main": Reshaped()}  # noqa: E731
    (tmp_path / "a").mkdir()
    with pytest.raises(
        StepError, match="cannot be run after pruning"
    ) as caught:
        pruned(tmp_path / "a", make, task(4), Prune())
    assert "skip" in (caught.value.fix or "")


def test_changed_outputs_are_noticed(tmp_path: pathlib.Path) -> None:
    """ensures compares the shapes that the pruned network gave with the signature."""
    start, after = pruned(tmp_path, small, task(1, 8, 8), Prune(0.5, 8))
    changes = {
        "main": {**after.notes["parts"]["main"], "outputs": {"output": [5]}}
    }
    with pytest.raises(StepError, match=r"expected.*\[10\].*got.*\[5\]"):
        Prune().ensures(
            start, after.model_copy(update={"notes": {"parts": changes}})
        )


def test_frozen_layers_stay_frozen_on_disk_the_same(
    tmp_path: pathlib.Path,
) -> None:
    """Layers without gradients can be pruned as well."""

    def frozen() -> dict[str, nn.Module]:
        after = small()
        after["main"].requires_grad_(False)
        return after

    _, after = pruned(tmp_path, frozen, task(1, 8, 8), Prune(0.5, 8))
    assert after.notes["parts"]["main"]["channels"]["stem"] == [16, 8]
    assert not any(
        parameter.requires_grad
        for parameter in torch_storage.load(after, frozen())[
            "main"
        ].parameters()
    )
