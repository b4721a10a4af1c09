"""Public builders, fakes and tiny data for tests of your own steps and runners.

No framework is imported before it is used.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from edgekit.artifact import MAIN, Artifact, File, FormatName, Part
from edgekit.contracts import Context, Read
from edgekit.errors import StepError
from edgekit.task import Task

if TYPE_CHECKING:
    import torch

    from edgekit.arrays import Array, Feeds
    from edgekit.signature import Signature

FEATURES, CLASSES, SIDE = 8, 3, 8


@dataclasses.dataclass(frozen=True)
class FakeStep:
    """A step from torch to torch that copies its artifact.

    It can break each part of its contract.

    Attributes:
        mark: noted in the artifact, so that two fakes differ.
        refuses: if not empty, ``requires`` raises with this text.
        breaks: if not empty, ``ensures`` raises with this text.
    """

    mark: str = "fake"
    refuses: str = ""
    breaks: str = ""

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[Read, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Refuse a wrong format, and everything if ``refuses`` is set."""
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
        """Break the promise if ``breaks`` is set."""
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
    """A runner whose outputs are a function of its inputs.

    ``closed`` is True once its context was left.
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
        """Call the function."""
        return dict(self._call(feeds))


def step_context(
    folder: pathlib.Path,
    task: Task,
    networks: "Callable[[], Mapping[str, torch.nn.Module]] | None" = None,
    seed: int = 0,
) -> Context:
    """The context in which a step runs, with a new empty folder.

    Args:
        folder: is created; it must not exist.
        networks: builds fresh networks by part name; by default there are none.
    """
    folder.mkdir(parents=True)
    return Context(
        folder=folder, networks=networks or dict, task=task, seed=seed
    )


def sealed_artifact(
    path: pathlib.Path, format: FormatName, signature: "Signature"
) -> Artifact:
    """An artifact with one part whose model file is ``path``, as the cache seals it."""
    from edgekit.cache import file_digest

    file = File(
        path=path.name, sha256=file_digest(path), bytes=path.stat().st_size
    )
    part = Part(name=MAIN, signature=signature, files={"model": file})
    return Artifact(
        format=format, parts=(part,), key=file.sha256, folder=path.parent
    )


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
