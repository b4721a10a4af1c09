"""What a race works on: what its candidates share, and one candidate on its way."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from edgekit import registry
from edgekit.artifact import Artifact
from edgekit.bundles.shipping import machine
from edgekit.cache import digest
from edgekit.contracts import BenchProtocol, Host, Runner
from edgekit.errors import EdgekitError, ModelError, NothingToDo, RunnerError, StepError
from edgekit.formats import main_distributions
from edgekit.hosts.torch_local import TorchRunner
from edgekit.measurement import Measurement, MeasurementName
from edgekit.pipeline import verdict
from edgekit.pipeline.build import Build, try_follow, versions
from edgekit.pipeline.code_identity import code_digest
from edgekit.planning.plan import PlannedTarget
from edgekit.planning.routes import PlannedCandidate
from edgekit.report import CandidateReport, describe

#: The modules that take measurements. With everything that they import, they are part of
#: each measurement's key.
MEASURING = ("edgekit.pipeline.verification", "edgekit.pipeline.timing")
#: The distributions on which measurements depend.
RUNTIME_PACKAGES = (*main_distributions(), "torch", "numpy")


@dataclasses.dataclass
class Entry:
    """A candidate on its way through the race."""

    scheme: str
    artifact: Artifact | None = None
    #: The torch artifact that the file must agree with.
    torch: Artifact | None = None
    status: str = verdict.RACED
    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    warnings: tuple[str, ...] = ()
    #: Why it was tried, where it is a remedy, and how long building and verifying it took.
    why: str = ""
    seconds: float = 0.0

    def find(self, name: MeasurementName) -> Measurement | None:
        """The measurement called ``name``, or None."""
        return next((row for row in self.measurements if row.name == name), None)

    def report(self) -> CandidateReport:
        """The candidate's line in the report."""
        artifact = None if self.artifact is None else describe(self.artifact)
        return CandidateReport(
            scheme=self.scheme,
            status=self.status,
            artifact=artifact,
            measurements=tuple(self.measurements),
            warnings=self.warnings,
            why=self.why,
            seconds=self.seconds,
        )


@dataclasses.dataclass(frozen=True)
class Ground:
    """What all candidates of one target share."""

    build: Build
    model: str
    planned: PlannedTarget
    #: The float network before pruning, and the network that is shipped.
    baseline: Artifact
    last: Artifact
    host: Host
    fresh: bool = False
    protocol: BenchProtocol = BenchProtocol()

    @functools.cached_property
    def place(self) -> Mapping[str, Any]:
        """What numbers of this host depend on; asked once."""
        return self.host.identity()


def built(ground: Ground, planned: PlannedCandidate, start: Artifact) -> Entry:
    """Build one candidate; what stops it becomes its status."""
    entry, steps, build = Entry(planned.scheme), planned.steps, ground.build
    torch_steps = [step for step in steps if step.step == "quantize_torch"]
    made = try_follow(build, ground.model, start, torch_steps) if torch_steps else start
    entry.torch = None if isinstance(made, EdgekitError) else made
    if entry.torch is not None:
        made = try_follow(build, ground.model, entry.torch, steps[len(torch_steps) :])
    if isinstance(made, EdgekitError):
        entry.status = failed(made)
        return entry
    entry.artifact = made
    return entry


def guarded(entry: Entry, work: Callable[[Entry], None]) -> None:
    """Do one check; a runtime that refuses or crashes, or a file that cannot be read, fails
    this candidate only.
    """
    if entry.status != verdict.RACED:
        return
    try:
        work(entry)
    except (RunnerError, ModelError, StepError) as error:
        entry.status = failed(error)


def failed(error: EdgekitError) -> str:
    """The status of a candidate that an error has stopped, with the way out where there is
    one.
    """
    if isinstance(error, NothingToDo):
        return f"dropped: {error.message}"
    return f"failed: {error.message}" + (f" Fix: {error.fix}" if error.fix else "")


def torch_runner(
    build: Build, model: str, artifact: Artifact, *, quantized: bool = True
) -> Runner:
    """The torch network of an artifact as a runner: quantized as in its file where it is
    and ``quantized`` asks for it.
    """
    quantized = quantized and any("quantization" in part.files for part in artifact.parts)
    load = registry.REFERENCES.load("quantized" if quantized else "float")
    return TorchRunner(load(artifact, build.networks(model)()), artifact.parts)


def key_of(what: str, *facts: Any) -> str:
    """The key of a measurement: what it is taken of, with which code and runtimes, and on
    which machine.
    """
    return digest(
        {
            "check": what,
            "facts": list(facts),
            "code": code_digest(*MEASURING),
            "packages": versions(RUNTIME_PACKAGES),
            "machine": machine(),
        }
    )
