"""The narrow interfaces of the plug-in points: Step, Runner, Host, Audit, and what they are
handed.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from edgekit.artifact import Artifact, FormatName
from edgekit.measurement import Measurement
from edgekit.progress import Progress, Silent
from edgekit.target import Limits
from edgekit.task import SplitName, Task

if TYPE_CHECKING:
    import numpy.typing
    import torch

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]
    #: Makes the fresh networks of a model, by part name, in the order in which they run.
    Networks = Callable[[], Mapping[str, torch.nn.Module]]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a step is handed beside the artifact: an empty folder to fill, the data, and the
    way to make fresh networks.
    """

    folder: pathlib.Path
    networks: "Networks"
    task: Task
    seed: int = 0
    progress: Progress = dataclasses.field(default_factory=Silent)
    #: The trained teacher and the way to make its fresh networks, where the recipe has one.
    teacher: Artifact | None = None
    teacher_networks: "Networks | None" = None


class Step(Protocol):
    """Artifact to Artifact.

    A frozen dataclass whose fields are its parameters (JSON values).
    """

    takes: ClassVar[tuple[FormatName, ...]]
    gives: ClassVar[FormatName]
    #: Raised when the step's own work changes, so that old cache entries are not used. (For
    #: a step in edgekit's own folders the hash of their code does this.)
    version: ClassVar[int]
    #: Distribution names whose versions are part of the cache key; ``tool:NAME`` stands for
    #: a program on the PATH.
    packages: ClassVar[tuple[str, ...]]
    #: The splits of the task that the step reads.
    reads: ClassVar[tuple[SplitName, ...]]

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError with the way out, before any work."""

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Fill ``context.folder`` and describe it; the old artifact is untouched."""
        ...

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError where the step's own promise does not hold."""


class Runner(Protocol):
    """An opened artifact.

    A context manager; runs outside edgekit's own process unless it is torch.
    """

    #: Where results are taken, for the report: ``local: onnxruntime 1.31.1, 1 thread``.
    where: str

    def __enter__(self) -> "Runner": ...
    def __exit__(self, *details: object) -> None: ...
    def infer(self, feeds: "Feeds") -> dict[str, "Array"]:
        """The last part's outputs, as real numbers in the task's layout, for any number of
        samples.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BenchProtocol:
    """How latency is taken: files in turns in one process, batch 1, the median over rounds.

    A round times every file once, in shuffled order, loaded anew where that is quick (two
    loaded copies of one file differ by 1 to 2 %). One timing is the median of as many calls
    as last ``round_ms`` milliseconds.
    """

    rounds: int = 60
    warmup: int = 20
    round_ms: float = 2.0
    threads: int = 1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Samples:
    """Raw times of one file: nanoseconds for one inference, the median of a round's calls.

    Round k of all files was taken together.
    """

    nanoseconds: tuple[float, ...]


class Host(Protocol):
    """Where files run."""

    def open(self, artifact: Artifact, options: Mapping[str, Any] | None = None) -> Runner:
        """Load the artifact.

        ``options`` are the runtime's own, such as ``{"optimize": False}``.
        """
        ...

    def race(
        self, artifacts: Mapping[str, Artifact], feeds: "Feeds", protocol: BenchProtocol
    ) -> dict[str, Samples]:
        """Time the artifacts in turns on one sample; raw times by the same names."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """What every number that is taken there depends on, in plain data: two hosts that
        tell the same may share one.
        """
        ...


class HostKind(Protocol):
    """One way to have a Python somewhere: made from a host file, as data
    (``edgekit.host.HostFile``).
    """

    def problem(self, environment: str) -> tuple[str, str] | None:
        """What is known to be missing, and the way out.

        Quick: makes no connection and starts nothing.
        """
        ...

    def setup(self, progress: Progress) -> None:
        """Make every environment of the host ready; what is ready is left alone.

        Raises HostError and leaves nothing half made.
        """
        ...

    def host(self, environment: str) -> Any:
        """The host (``edgekit.hosts.runner.WorkerHost``) with one of its environments."""
        ...


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a runtime will really execute: the rows of its graph and the numbers drawn from
    them.
    """

    measurements: Sequence[Measurement]
    #: One row an operator: op, name, dtype, macs, module.
    rows: Sequence[Mapping[str, Any]] = ()
    #: Known signs that the file is slow or cannot run on the device; empty is good.
    warnings: Sequence[str] = ()


class Auditor(Protocol):
    """Reads one artifact as its runtime will run it."""

    def __call__(self, artifact: Artifact, limits: Limits) -> Audit: ...
