"""The report: everything that a run found out, as one value.

The table, Markdown and HTML are drawn from it.
"""

import json
import pathlib
from typing import Any, Literal

import pydantic

from edgekit.artifact import Artifact
from edgekit.diagnosis import Diagnosis
from edgekit.errors import ReportError, unknown
from edgekit.measurement import Measurement, MeasurementName, Verdict
from edgekit.signature import Signature
from edgekit.value import Value, parse

SCHEMA = 2
#: The report's file name inside a run's folder.
FILE_NAME = "report.json"


class ShippedFile(Value):
    """One file of a candidate.

    ``path`` is relative to the report; None if the file was not shipped.
    """

    part: str
    role: str
    path: str | None = None
    sha256: str
    bytes: int


class ArtifactReport(Value):
    """A candidate's files, what they take and give, and what its last step noted."""

    key: str
    bytes: int
    files: tuple[ShippedFile, ...]
    signatures: dict[str, Signature]
    notes: dict[str, Any] = pydantic.Field(default_factory=dict)


#: raced: it took part in the choice. dropped: it was ruled out, for a reason that was
#: measured or known before. failed: an error stopped it.
CandidateStatus = Literal["raced", "dropped", "failed"]


class CandidateReport(Value):
    """One scheme on one target."""

    scheme: str
    status: CandidateStatus
    #: Why it was dropped, or the error that it failed with.
    reason: str = ""
    artifact: ArtifactReport | None = None
    measurements: tuple[Measurement, ...] = ()
    warnings: tuple[str, ...] = ()
    #: Why it was tried, if it is a remedy.
    why: str = ""
    #: How long building and verifying it took when it was done; steps that were cached then
    #: took no time.
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """Its status with the reason: ``dropped: it loses 0.0534 top1 (gate 0.02)``."""
        return f"{self.status}: {self.reason}" if self.reason else self.status

    def measurement(self, name: MeasurementName) -> Measurement | None:
        """The measurement called ``name``, or None."""
        return next(
            (row for row in self.measurements if row.name == name), None
        )


class GateReport(Value):
    """One gate of the winner.

    A gate that is not required does not change the verdict; ``why`` is the reason.
    """

    name: MeasurementName
    limit: float
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str
    where: str
    verdict: Verdict
    required: bool = True
    why: str = ""


class EvidenceReport(Value):
    """A bundle's samples, run again in one environment of one host."""

    host: str
    #: The key of the artifact that was run.
    key: str
    #: What the evidence depends on besides the artifact (``Facts.id`` of the bundle).
    bundle: str = ""
    when: str
    verdict: Verdict
    where: str = ""
    machine: str = ""
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    #: Why nothing was measured.
    error: str = ""
    #: Looked at fewer samples than there are for this host, or took no times where it could
    #: have.
    partial: bool = False
    #: True if the host has no runtime for files of this format, so that nothing was tried.
    skipped: bool = False

    @property
    def place(self) -> str:
        """Where the numbers were taken, and on what kind of machine where that is known."""
        return self.where + (f" ({self.machine})" if self.machine else "")

    def measurement(self, name: MeasurementName) -> Measurement | None:
        """The measurement called ``name``, or None."""
        return next(
            (row for row in self.measurements if row.name == name), None
        )


class TargetReport(Value):
    """What was built, measured and chosen for one target."""

    name: str
    title: str
    format: str
    runtime: str
    verdict: Verdict
    winner: str | None
    #: Why this candidate won, or why none did.
    chosen: str
    #: The float file of the network before pruning, in the same runtime: what speed and
    #: accuracy are compared with.
    reference: CandidateReport | None = None
    candidates: tuple[CandidateReport, ...] = ()
    gates: tuple[GateReport, ...] = ()
    notes: tuple[str, ...] = ()
    #: What was wrong with the first calibrated candidate that lost too much, where remedies
    #: were tried.
    diagnosis: Diagnosis | None = None
    #: The winner on other hosts: 'edgekit verify BUNDLE --on HOST'.
    evidence: tuple[EvidenceReport, ...] = ()

    @property
    def shipped(self) -> CandidateReport | None:
        """The winner, or None. The path of its files is relative to the results folder."""
        return self.candidate(self.winner)

    def candidate(self, scheme: str | None) -> CandidateReport | None:
        """The candidate of a scheme, or None."""
        return next(
            (row for row in self.candidates if row.scheme == scheme), None
        )


class StageReport(Value):
    """One step on the PyTorch side, shared by all targets."""

    name: str
    step: str
    key: str
    measurements: tuple[Measurement, ...] = ()
    notes: dict[str, Any] = pydantic.Field(default_factory=dict)


class Report(Value):
    """Everything that a run measured and chose."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    schema_version: int = pydantic.Field(SCHEMA, alias="schema")
    edgekit: str
    recipe: dict[str, Any]
    verdict: Verdict
    targets: tuple[TargetReport, ...]
    stages: tuple[StageReport, ...] = ()
    task: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: Machine, operating system, Python and package versions.
    environment: dict[str, Any] = pydantic.Field(default_factory=dict)
    #: When the run started (ISO 8601) and how long it took.
    started: str = ""
    seconds: float = 0.0

    def target(self, name: str) -> TargetReport:
        """The report of a target, by its name.

        Raises:
            ReportError: the run had no such target.
        """
        names = [row.name for row in self.targets]
        if name not in names:
            raise ReportError(
                f"{unknown('target', name, names)}",
                fix="name a target of this report",
            )
        return self.targets[names.index(name)]

    def to_json(self) -> str:
        """The text of ``report.json``."""
        return (
            json.dumps(
                self.model_dump(mode="json", by_alias=True),
                indent=1,
                ensure_ascii=False,
                allow_nan=False,
            )
            + "\n"
        )


def load(path: pathlib.Path) -> Report:
    """Read a report from its folder or file.

    Raises:
        ReportError: there is none, or it is not valid.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(
            f"{path} has no {FILE_NAME}.",
            fix="name the folder given to 'edgekit run --out'",
        ) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise ReportError(
            f"{file} cannot be read: {problem}.",
            fix="run the recipe again; what is cached is not computed twice",
        ) from problem
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = (
            data.get("schema")
            if isinstance(data, dict)
            else type(data).__name__
        )
        raise ReportError(
            f"{file} has schema {schema!r}; this edgekit reads schema {SCHEMA}.",
            fix="use the edgekit that wrote it, or run again",
        )
    return parse(Report, data, str(file), ReportError)


def describe(artifact: Artifact) -> ArtifactReport:
    """An artifact's entry in the report, before any of its files is shipped."""
    files = tuple(
        ShippedFile(
            part=part.name, role=role, sha256=file.sha256, bytes=file.bytes
        )
        for part in artifact.parts
        for role, file in part.files.items()
    )
    signatures = {part.name: part.signature for part in artifact.parts}
    return ArtifactReport(
        key=artifact.key,
        bytes=artifact.size_bytes,
        files=files,
        signatures=signatures,
        notes=artifact.notes,
    )
