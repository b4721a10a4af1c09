"""Public fakes and tiny data for tests of your own steps, runners and recipes.

No framework is imported before it is used.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.artifact import Artifact, FormatName
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.task import SplitName, Task

if TYPE_CHECKING:
    import numpy.typing
    import torch

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

FEATURES, CLASSES, SIDE = 8, 3, 8


@dataclasses.dataclass(frozen=True)
class FakeStep:
    """A step from torch to torch that copies what it is given; it can be told to break each
    part of its contract.
    """

    #: Noted in the artifact, so that two fakes differ.
    mark: str = "fake"
    #: Not empty: ``requires`` refuses with this text.
    refuses: str = ""
    #: Not empty: ``ensures`` says with this text that the promise is broken.
    breaks: str = ""

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Refuse a wrong format, and everything if told so."""
        if artifact.format not in self.takes or self.refuses:
            raise StepError(
                f"{self.mark}: {self.refuses or f'cannot take the format {artifact.format}'}.",
                fix="give the fake what it takes",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Copy every file into the new folder."""
        context.progress.expect(1)
        for part in artifact.parts:
            for role in part.files:
                path = artifact.path(part, role)
                shutil.copyfile(path, context.folder / path.name)
        context.progress.advance()
        return Artifact(
            format=self.gives,
            parts=artifact.parts,
            notes={"mark": self.mark},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Break the promise if told so."""
        if self.breaks:
            raise StepError(f"{self.mark}: {self.breaks}.")


def fake_step(takes: FormatName, gives: FormatName) -> type[FakeStep]:
    """A class like FakeStep between two other formats."""

    class Between(FakeStep):
        pass

    Between.takes, Between.gives = (takes,), gives
    Between.__name__ = Between.__qualname__ = (
        f"Fake{takes.title()}To{gives.title()}"
    )
    return Between


class FakeRunner:
    """A runner whose outputs are a function of its inputs; ``closed`` tells whether its
    context was left.
    """

    def __init__(
        self,
        call: "Callable[[Feeds], Mapping[str, Array]]",
        where: str = "fake: numpy",
    ) -> None:
        self.where, self.closed = where, False
        self._call = call

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *details: object) -> None:
        self.closed = True

    def infer(self, feeds: "Feeds") -> "dict[str, Array]":
        """What the function gives."""
        return dict(self._call(feeds))


def tiny_task(seed: int = 0, samples: int = 300) -> Task:
    """Three clusters of points in 8 dimensions: separable, 2/3 of the samples for training."""
    import numpy

    random = numpy.random.default_rng(seed)
    labels = numpy.arange(samples) % CLASSES
    centres = 3 * numpy.eye(FEATURES, dtype="float32")[:CLASSES]
    points = (
        centres[labels] + 0.5 * random.standard_normal((samples, FEATURES))
    ).astype("float32")
    return _split("tiny", points, labels, seed)


def tiny_images(seed: int = 0, samples: int = 300) -> Task:
    """One-channel 8x8 images of three kinds (a bright top, a bright left side, a bright
    middle), 2/3 for training.
    """
    import numpy

    random = numpy.random.default_rng(seed)
    labels = numpy.arange(samples) % CLASSES
    kinds = numpy.zeros((CLASSES, 1, SIDE, SIDE), dtype="float32")
    (
        kinds[0, :, : SIDE // 2],
        kinds[1, :, :, : SIDE // 2],
        kinds[2, :, 2:-2, 2:-2],
    ) = 1, 1, 1
    images = (
        kinds[labels] + 0.2 * random.standard_normal((samples, 1, SIDE, SIDE))
    ).astype("float32")
    return _split("tiny_images", images, labels, seed)


def tiny_network(seed: int = 0) -> "torch.nn.Module":
    """A small untrained network for ``tiny_task``; needs torch."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(FEATURES, 16),
            torch.nn.ReLU(),
            torch.nn.Linear(16, CLASSES),
        )


def tiny_convolution(seed: int = 0) -> "torch.nn.Module":
    """A small untrained convolutional network for ``tiny_images``; needs torch."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        convolutions = (
            torch.nn.Conv2d(1, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
        )
        return torch.nn.Sequential(
            *convolutions,
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, CLASSES),
        )


def _split(name: str, inputs: "Array", labels: "Array", seed: int) -> Task:
    cut = 2 * len(labels) // 3
    return Task(
        name,
        train=(inputs[:cut], labels[:cut]),
        test=(inputs[cut:], labels[cut:]),
        origin={"generator": name, "seed": seed},
    )
