"""The training loop."""

import dataclasses
import pathlib

import numpy
import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError, TaskError
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import losses, training
from edgekit.steps.torch_chain import Chain
from edgekit.task import Split, Task

RANDOM = numpy.random.default_rng(0)
POINTS = RANDOM.normal(size=(96, 4)).astype("float32")
LABELS = (POINTS.sum(1) > 0).astype("int64")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a step would hand over."""

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 0.02
    shift: int = 0


class Notes:
    """A progress that records its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, name: str) -> None: ...
    def expect(self, total: int) -> None: ...
    def advance(self, amount: int = 1, note: str = "") -> None:
        self.notes.append(note)

    def finish(self, note: str = "") -> None: ...
    def say(self, text: str) -> None: ...


def signature(*dims: int) -> Signature:
    """One input of these dims, two classes."""
    return Signature(
        inputs=(
            TensorSpec(name="input", dtype="float32", dims=("batch", *dims)),
        ),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 2)),
        ),
    )


def chain(network: nn.Module | None = None, *dims: int) -> Chain:
    """A network of one part, always the same where none is given."""
    torch.manual_seed(0)
    network = network or nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )
    return Chain(
        {"main": network},
        [
            Part(
                name="main",
                signature=signature(*(dims or (4,))),
                files={"weights": File(path="x")},
            )
        ],
    )


def fit(
    network: Chain,
    settings: Settings | None = None,
    split: Split | None = None,
    seed: int = 0,
    progress: Notes | None = None,
) -> list[float]:
    """Train with the labels' loss."""
    task = Task("points", test=(POINTS, LABELS))
    context = Context(
        folder=pathlib.Path(),
        networks=dict,
        task=task,
        seed=seed,
        progress=progress or Notes(),
    )
    loss = losses.resolve("cross_entropy")
    return training.fit(
        network,
        split or Split({"input": POINTS}, LABELS),
        lambda _, outputs, labels: loss(outputs, labels),
        settings or Settings(),
        context,
    )


def weights(network: Chain) -> list[float]:
    """All parameters in a row."""
    return torch.cat(
        [parameter.detach().flatten() for parameter in network.parameters()]
    ).tolist()


def test_the_loss_goes_down_and_is_reported() -> None:
    """A separable task is learned; progress gets one note an epoch."""
    progress = Notes()
    history = fit(chain(), Settings(epochs=8), progress=progress)
    assert history[-1] < history[0] / 2
    assert progress.notes == [f"loss {value:.4g}" for value in history]


def test_the_same_seed_gives_the_same_weights() -> None:
    """Shuffling and dropout follow the seed, whatever the caller's random numbers are; and
    these are left alone.
    """
    first, second, third = chain(), chain(), chain()
    fit(first)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    fit(second)
    assert torch.equal(torch.get_rng_state(), state)
    fit(third, seed=1)
    assert weights(first) == weights(second) != weights(third)


def test_the_network_ends_in_eval_mode() -> None:
    """What follows sees a network at rest."""
    network = chain()
    fit(network)
    assert not network.training


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs"),
    [(5, 64, 1), (64, 64, 1), (65, 64, 2), (2, 1, 1)],
)
def test_any_number_of_samples_trains(
    samples: int, batch_size: int, epochs: int
) -> None:
    """Fewer samples than a batch make one batch; a last batch that is not full is left out."""
    history = fit(
        chain(),
        Settings(epochs, batch_size),
        Split({"input": POINTS[:samples]}, LABELS[:samples]),
    )
    assert len(history) == epochs


def test_frozen_parameters_stay() -> None:
    """requires_grad=False is respected; with nothing left to train the error has a fix."""
    network = chain()
    frozen = network.networks[0][0]  # type: ignore[index]
    frozen.requires_grad_(False)
    before = frozen.weight.clone()
    fit(network)
    assert torch.equal(frozen.weight, before)
    with pytest.raises(StepError, match="No parameter"):
        fit(chain(nn.Flatten()))


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    """NaN is reported with its epoch and the learning rate."""
    network = chain()
    nn.init.constant_(network.networks[0][0].weight, float("nan"))  # type: ignore[index, arg-type]
    with pytest.raises(
        StepError, match=r"became nan in epoch 1 of 3"
    ) as caught:
        fit(network)
    assert "0.02" in (caught.value.fix or "")


def test_training_needs_labels() -> None:
    """Samples without labels cannot train."""
    with pytest.raises(TaskError, match="no labels"):
        fit(chain(), split=Split({"input": POINTS}, None))


def test_a_batch_that_batch_normalization_refuses_is_an_error() -> None:
    """torch's own message comes with a fix."""
    with pytest.raises(
        StepError, match="Expected more than 1 value per channel"
    ) as caught:
        fit(
            chain(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))),
            Settings(batch_size=1),
        )
    assert "batch_size" in (caught.value.fix or "")


def test_shift_moves_each_image_by_at_most_its_pixels() -> None:
    """One bright pixel stays within 2 pixels of its place, moves both ways on both axes,
    alike in all channels, and each image on its own.
    """
    images = torch.zeros(200, 2, 9, 9)
    images[:, :, 4, 4] = 1
    moved = training._shift(
        {"input": images, "ids": torch.arange(200)},
        2,
        torch.Generator().manual_seed(0),
    )
    places = moved["input"][:, 0].nonzero()
    assert len(places) == 200
    assert (
        {int(row) for row in places[:, 1]}
        == {int(column) for column in places[:, 2]}
        == {2, 3, 4, 5, 6}
    )
    assert torch.equal(moved["input"][:, 0], moved["input"][:, 1])
    assert torch.equal(moved["ids"], torch.arange(200))


def test_shift_needs_images() -> None:
    """Other data, and labels that would have to move along, are refused."""
    with pytest.raises(StepError, match=r"the data are input \[96, 4\]"):
        fit(chain(), Settings(shift=1))
    masks = Split(
        {"input": numpy.zeros((4, 1, 8, 8), dtype="float32")},
        numpy.zeros((4, 8, 8), dtype="int64"),
    )
    with pytest.raises(StepError, match="not labels"):
        fit(chain(None, 1, 8, 8), Settings(shift=1), masks)


def test_only_float_torch_networks_are_trained() -> None:
    """A quantized network or one of another format is refused before any work."""
    files = {"weights": File(path="x")}
    training.require_float(
        Artifact(
            format="torch",
            parts=(Part(name="main", signature=signature(4), files=files),),
        ),
        "Training",
    )
    quantized = Part(
        name="main",
        signature=signature(4),
        files={**files, "quantization": File(path="y")},
    )
    for artifact in (
        Artifact(format="torch", parts=(quantized,)),
        Artifact(format="onnx", parts=(quantized,)),
    ):
        with pytest.raises(
            StepError, match="Training needs a float PyTorch network"
        ):
            training.require_float(artifact, "Training")


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_any_small_number_of_steps_can_be_trained(epochs: int) -> None:
    """One batch an epoch: with four of them the schedule has a single rising step, by which
    PyTorch would divide zero.
    """
    assert len(fit(chain(), Settings(epochs=epochs, batch_size=96))) == epochs


def test_a_shift_out_of_sight_is_refused() -> None:
    """Moving images by their own size would train on nothing."""
    images = Split(
        {"input": numpy.zeros((4, 1, 8, 8), dtype="float32")},
        numpy.zeros(4, dtype="int64"),
    )
    with pytest.raises(
        StepError, match="A shift of 8 moves images of 8 pixels out of sight"
    ):
        fit(chain(None, 1, 8, 8), Settings(shift=8), images)
