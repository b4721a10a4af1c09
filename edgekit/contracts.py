"""The interfaces of the plug-in points (Step, Source, Runner, Host, Auditor), and their values."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from edgekit.artifact import Artifact, FormatName
from edgekit.measurement import Measurement
from edgekit.progress import Progress, Silent
from edgekit.target import Limits
from edgekit.task import Task

if TYPE_CHECKING:
    import torch

    from edgekit.arrays import Array, Feeds

    #: Builds fresh networks of a model, by part name, in the order in which they run.
    Networks = Callable[[], Mapping[str, torch.nn.Module]]


#: What a step can read of a run: a split of the task, the task's metric, the teacher.
Read = Literal["train", "calibration", "test", "metric", "teacher"]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a step gets with the artifact: an empty folder, the data, a network builder."""

    folder: pathlib.Path
    networks: "Networks"
    task: Task
    seed: int = 0
    progress: Progress = dataclasses.field(default_factory=Silent)
    #: The trained teacher and a function that builds its networks, if the recipe has one.
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
    #: What its result depends on: splits of the task, its ``metric``, the ``teacher``. The
    #: loss counts if it reads ``train``.
    reads: ClassVar[tuple[Read, ...]]

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError with a fix if the step cannot work on it, before any work."""

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Fill ``context.folder`` and describe it; the old artifact is unchanged."""
        ...

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError if the step's own promise does not hold."""


class Source(Protocol):
    """The start of a chain: what a step is, but it works on no artifact."""

    gives: ClassVar[FormatName]
    version: ClassVar[int]
    packages: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[Read, ...]]

    def run(self, artifact: None, context: Context) -> Artifact:
        """Fill ``context.folder`` and describe it."""
        ...

    def ensures(self, before: None, after: Artifact) -> None:
        """Raise StepError if the promise does not hold."""


class Runner(Protocol):
    """An opened artifact.

    A context manager; runs outside edgekit's own process unless it is torch.
    """

    #: Where results are taken, for the report: ``local: onnxruntime 1.31.1, 1 thread``.
    where: str

    def __enter__(self) -> "Runner": ...
    def __exit__(self, *details: object) -> None: ...
    def infer(self, feeds: "Feeds") -> dict[str, "Array"]:
        """Compute the model's outputs for any number of samples.

        Returns real numbers in the task's layout, by name; the first axis counts samples.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BenchProtocol:
    """How latency is measured: interleaved in one process, batch 1, the median over rounds.

    A round times every file once, in shuffled order. Files that load quickly are loaded
    again in every round, because two loaded copies of one file differ by 1 to 2 %. One
    timing is the median of as many calls as last ``round_ms`` milliseconds.
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
    """A place where files run. Implemented by ``edgekit.hosts.runner.WorkerHost``."""

    @property
    def name(self) -> str:
        """The name that reports show; for all but the first environment ``host/environment``."""
        ...

    @property
    def untimed(self) -> str:
        """Why its times are meaningless, such as "emulated"; empty if they count."""
        ...

    @property
    def shares_files(self) -> bool:
        """Whether it reads this machine's files; else they are copied there."""
        ...

    def reporting_to(self, say: Callable[[str], None]) -> "Host":
        """The same host, with messages about damaged files that are copied again."""
        ...

    def hello(self) -> dict[str, Any]:
        """Connect once and describe the host: ``python``, ``machine``, ``system``,
        ``devices`` and the ``versions`` of its runtimes. Raises HostError.
        """
        ...

    def time_hello(self) -> tuple[dict[str, Any], float, float]:
        """``hello``, with the seconds to start a worker and the seconds of one reply."""
        ...

    def clean(self) -> tuple[int, int]:
        """Remove the files that were copied there: their number and their bytes."""
        ...

    def open(
        self, artifact: Artifact, options: Mapping[str, Any] | None = None
    ) -> Runner:
        """Load the artifact.

        ``options`` are the runtime's own, such as ``{"optimize": False}``.
        """
        ...

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        feeds: "Feeds",
        protocol: BenchProtocol,
    ) -> dict[str, Samples]:
        """Time the artifacts interleaved on one sample; raw times by the same names."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Everything that numbers from this host depend on, as plain data: hosts with equal
        identities may share them.
        """
        ...


class HostKind(Protocol):
    """One way to start a Python somewhere, constructed from a host file
    (``edgekit.host.HostFile``).
    """

    def problem(self, environment: str) -> tuple[str, str] | None:
        """What is known to be missing and its fix, or None.

        Quick: makes no connection and starts nothing.
        """
        ...

    def setup(self, progress: Progress) -> None:
        """Set up every environment of the host that is not ready.

        Atomic: on failure it raises HostError and leaves nothing half done.
        """
        ...

    def host(self, environment: str) -> Host:
        """The host with one of its environments."""
        ...


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a runtime will really execute: the rows of its graph and the numbers drawn from
    them.
    """

    measurements: Sequence[Measurement]
    #: One row for each operator: op, name, dtype, macs, module.
    rows: Sequence[Mapping[str, Any]] = ()
    #: Known signs that the file is slow or cannot run on the device; empty is good.
    warnings: Sequence[str] = ()


class Auditor(Protocol):
    """Reads one artifact as its runtime will run it."""

    def __call__(self, artifact: Artifact, limits: Limits) -> Audit: ...
