"""What the candidates of one target share, and one candidate on its way through the race."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from edgekit import registry
from edgekit.artifact import Artifact
from edgekit.bundles.shipping import machine
from edgekit.cache import digest
from edgekit.contracts import BenchProtocol, Host, Runner
from edgekit.errors import (
    EdgekitError,
    ModelError,
    NothingToDo,
    RunnerError,
    StepError,
    TaskError,
)
from edgekit.formats import main_distributions
from edgekit.measurement import Measurement, MeasurementName
from edgekit.pipeline.build import Build, follow_candidate, versions
from edgekit.pipeline.code_identity import code_digest
from edgekit.planning.routes import PlannedCandidate, PlannedTarget
from edgekit.report import CandidateReport, CandidateStatus, describe

#: The modules that take measurements. With everything that they import, they are part of
#: each measurement's key.
MEASURING = ("edgekit.pipeline.verification", "edgekit.pipeline.timing")
#: The distributions on which measurements depend.
RUNTIME_PACKAGES = (*main_distributions(), "torch", "numpy")


@dataclasses.dataclass
class Candidate:
    """One scheme's file on its way through the race.

    Attributes:
        torch: the torch artifact that the file must agree with.
        status, reason: as in ``CandidateReport``.
        why: why it was tried, if it is a remedy.
        seconds: how long building and verifying it took.
    """

    scheme: str
    artifact: Artifact | None = None
    torch: Artifact | None = None
    status: CandidateStatus = "raced"
    reason: str = ""
    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    warnings: tuple[str, ...] = ()
    why: str = ""
    seconds: float = 0.0

    @property
    def races(self) -> bool:
        """True until it is dropped or fails."""
        return self.status == "raced"

    @property
    def file(self) -> Artifact:
        """Its artifact; only for a candidate that was built."""
        assert self.artifact is not None
        return self.artifact

    def measurement(self, name: MeasurementName) -> Measurement | None:
        """The measurement called ``name``, or None."""
        return next(
            (row for row in self.measurements if row.name == name), None
        )

    def drop(self, reason: str) -> None:
        """Rule it out, for a reason that was measured or is known."""
        self.status = "dropped"
        self.reason = reason

    def fail(self, error: EdgekitError) -> None:
        """Let an error stop it. A scheme that changes nothing is dropped instead."""
        if isinstance(error, NothingToDo):
            self.drop(error.message)
            return
        self.status = "failed"
        self.reason = (
            f"{error.message} Fix: {error.fix}" if error.fix else error.message
        )

    def report(self) -> CandidateReport:
        """Its row in the report."""
        artifact = None if self.artifact is None else describe(self.artifact)
        return CandidateReport(
            scheme=self.scheme,
            status=self.status,
            reason=self.reason,
            artifact=artifact,
            measurements=tuple(self.measurements),
            warnings=self.warnings,
            why=self.why,
            seconds=self.seconds,
        )


@dataclasses.dataclass(frozen=True)
class RaceContext:
    """What all candidates of one target share.

    Attributes:
        baseline: the float network before pruning.
        last: the network that is shipped.
        fresh: take measurements again, also if they are cached.
    """

    build: Build
    model: str
    planned: PlannedTarget
    baseline: Artifact
    last: Artifact
    host: Host
    fresh: bool = False
    protocol: BenchProtocol = BenchProtocol()

    @functools.cached_property
    def host_identity(self) -> Mapping[str, Any]:
        """What the numbers of this host depend on; the host is asked once."""
        return self.host.identity()

    def record(self, key: str, measure: Callable[[], Any]) -> Any:
        """A cached measurement, or a new one if there is none or ``fresh`` asks for it."""
        return self.build.cache.record(key, measure, fresh=self.fresh)


def build_candidate(
    context: RaceContext, planned: PlannedCandidate, start: Artifact
) -> Candidate:
    """Build one candidate's file from ``start``. An error becomes its status."""
    candidate = Candidate(planned.scheme)
    build, model = context.build, context.model
    torch_steps = [
        step for step in planned.steps if step.step == "quantize_torch"
    ]
    file_steps = planned.steps[len(torch_steps) :]
    try:
        candidate.torch = start
        if torch_steps:
            candidate.torch = None
            candidate.torch = follow_candidate(build, model, start, torch_steps)
        candidate.artifact = follow_candidate(
            build, model, candidate.torch, file_steps
        )
    except (StepError, ModelError, TaskError) as error:
        candidate.fail(error)
    return candidate


class Check(Protocol):
    """One check of a candidate: adds measurements, and drops it if they show that it is wrong."""

    def __call__(self, candidate: Candidate) -> None: ...


def check_candidate(candidate: Candidate, check: Check) -> None:
    """Do one check of a candidate that still races.

    A runtime that refuses or crashes, or a file that cannot be read, fails only this
    candidate.
    """
    if not candidate.races:
        return
    try:
        check(candidate)
    except (RunnerError, ModelError, StepError) as error:
        candidate.fail(error)


def torch_runner(
    build: Build, model: str, artifact: Artifact, *, quantized: bool = True
) -> Runner:
    """A runner for the torch network of an artifact.

    It computes with the quantization of the artifact if there is one, unless ``quantized``
    is False.
    """
    from edgekit.steps.torch_runner import (
        TorchRunner,  # imports torch, which cached runs do not need
    )

    has_quantization = any(
        "quantization" in part.files for part in artifact.parts
    )
    kind = "quantized" if quantized and has_quantization else "float"
    load = registry.REFERENCES.load(kind)
    return TorchRunner(load(artifact, build.networks(model)()), artifact.parts)


def measurement_key(check: str, *facts: Any) -> str:
    """The cache key of a measurement: its facts, the code, the packages and the machine."""
    return digest(
        {
            "check": check,
            "facts": list(facts),
            "code": code_digest(*MEASURING),
            "packages": versions(RUNTIME_PACKAGES),
            "machine": machine(),
        }
    )
