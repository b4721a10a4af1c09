"""Evidence: a bundle's samples executed on a host, judged by the rules of the device."""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.bundles import bundle as bundles
from edgekit.bundles.bundle import Facts, Manifest
from edgekit.cache import digest, write_text
from edgekit.contracts import BenchProtocol, Host
from edgekit.device_worker import bundled, judging
from edgekit.errors import BundleError, EdgekitError
from edgekit.hosts.execution import runtime_packages
from edgekit.hosts.lookup import list_environments, open_host
from edgekit.measurement import Measurement, Verdict
from edgekit.pipeline.verdict import verdict_of
from edgekit.progress import Progress, Silent
from edgekit.report import EvidenceReport, TargetReport
from edgekit.value import strict_json

if TYPE_CHECKING:
    from edgekit.arrays import Array

#: An emulated processor is about 200 times slower; this many samples show whether it
#: computes the same.
EMULATED_SAMPLES = 64
_PROTOCOL = BenchProtocol()


@dataclasses.dataclass(frozen=True)
class _Bundle:
    """A bundle that was read and checked."""

    folder: pathlib.Path
    manifest: Manifest
    arrays: "Mapping[str, Array]"

    def report(self, **fields: Any) -> EvidenceReport:
        """Evidence for this bundle."""
        own = {
            "key": self.manifest.key,
            "bundle": self.manifest.facts.id,
            "when": now(),
        }
        return EvidenceReport.model_validate({**own, **fields})


def verify(
    folder: pathlib.Path,
    host: str,
    count: int | None = None,
    *,
    timed: bool = True,
    progress: Progress | None = None,
) -> Iterator[EvidenceReport]:
    """Execute a bundle's samples in every environment of a host that has its runtime.

    Yields one report for each environment and stores it in the bundle. What goes wrong on a
    host is in its report and stops nothing else.

    Args:
        count: use only the first samples.
        timed: also measure latency.
        progress: receives messages about damaged copies and evidence that cannot be stored.

    Raises:
        BundleError: the bundle itself is not valid.
    """
    say = (progress or Silent()).say
    manifest = bundles.load(folder)
    opened = _Bundle(folder, manifest, bundles.samples(folder, manifest))
    reports = 0
    for name in list_environments(host):
        try:
            fields = _verify_on(
                opened, open_host(name).reporting_to(say), count, timed
            )
        except EdgekitError as error:
            fields = {"verdict": "unmeasured", "error": str(error)}
        if fields is None:
            continue
        report = opened.report(host=name, **fields)
        reports += 1
        if not report.error:
            try:
                store_evidence(folder, manifest, report)
            except EdgekitError as error:
                say(f"The evidence of {name} is not stored: {error}")
        yield report
    if not reports:
        reason = f"no environment of {host} has a runtime for files of the format {manifest.format}"
        yield opened.report(
            host=host, verdict="unmeasured", error=reason, skipped=True
        )


def _verify_on(
    opened: _Bundle, host: Host, count: int | None, timed: bool
) -> dict[str, Any] | None:
    """Execute the samples on one host; return the fields of its report.

    None if it has no runtime for the bundle's files.
    """
    capabilities = host.hello()
    if not runtime_packages(opened.manifest.format, capabilities["versions"]):
        return None
    complete = _default_count(opened.manifest.facts, host)
    used = complete if count is None else count
    arrays = {name: array[:used] for name, array in opened.arrays.items()}
    where, rows = _execute(opened, host, arrays, timed=timed)
    return {
        "verdict": verdict_on(rows),
        "where": where,
        "machine": str(capabilities["machine"]),
        "versions": capabilities["versions"],
        "measurements": rows,
        "partial": used < complete or (not timed and not host.untimed),
    }


def _execute(
    opened: _Bundle, host: Host, arrays: "Mapping[str, Array]", *, timed: bool
) -> tuple[str, list[Measurement]]:
    """Where the samples were executed, and the measurements."""
    manifest, folder = opened.manifest, opened.folder
    facts = manifest.facts.model_dump(mode="json", by_alias=True)
    artifact = bundles.artifact(manifest, folder)
    if facts["device_only"] and host.shares_files:
        # This machine's speed is reported, but it is no evidence for the device's.
        facts["gates"].pop("speedup", None)
    inputs = bundled.select(arrays, "input")
    with host.open(artifact, options_of(bool(facts["one_by_one"]))) as runner:
        outputs = runner.infer(inputs)
        where = runner.where
    rows = judge_outputs(arrays, outputs, facts, where)
    on_device = bool(facts["stands_in"]) and facts["stands_in"] not in where
    if not timed or host.untimed or not judging.can_time(facts, on_device):
        return where, rows
    files = {"file": artifact}
    reference = bundles.reference(manifest, folder)
    if reference is not None:
        files["reference"] = reference
    samples = host.race(files, inputs, _PROTOCOL)
    original = None if reference is None else samples["reference"].nanoseconds
    times = judging.summarize_times(
        samples["file"].nanoseconds, original, facts, where
    )
    return where, [*rows, *(Measurement.model_validate(row) for row in times)]


def read_evidence(
    folder: pathlib.Path, manifest: Manifest
) -> tuple[EvidenceReport, ...]:
    """The stored evidence for exactly this bundle.

    Evidence of other files, samples or gates, or that cannot be read, does not count.
    """
    identity = (manifest.key, manifest.facts.id)
    reports = []
    for path in sorted((folder / bundles.EVIDENCE).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            data = strict_json(path.read_text(encoding="utf-8"))
            reports.append(EvidenceReport.model_validate(data))
    return tuple(
        report for report in reports if (report.key, report.bundle) == identity
    )


def with_evidence(
    row: TargetReport,
    folder: pathlib.Path,
    failures: Sequence[EvidenceReport] = (),
) -> TargetReport:
    """A target's report with the evidence of its bundle.

    A host where the bundle fails makes the target fail. ``failures`` are reports of hosts
    that could not be asked.
    """
    by_host = {report.host: report for report in failures if report.error}
    for report in read_evidence(folder, bundles.read(folder)):
        by_host[report.host] = report
    verdict: Verdict = verdict_of(row.winner, row.gates)
    if any(report.verdict == "fail" for report in by_host.values()):
        verdict = "fail"
    evidence = tuple(by_host.values())
    return row.model_copy(update={"evidence": evidence, "verdict": verdict})


def verdict_on(rows: Sequence[Measurement]) -> str:
    """One verdict for several measurements, by the rules of the device."""
    return judging.combine_verdicts(
        [row.model_dump(mode="json") for row in rows]
    )


def judge_outputs(
    arrays: "Mapping[str, Array]",
    outputs: "Mapping[str, Array]",
    facts: Mapping[str, Any],
    where: str,
) -> list[Measurement]:
    """Parity and accuracy of a file's outputs for a bundle's samples."""
    expected = bundled.select(arrays, "expected")
    reference = bundled.select(arrays, "reference")
    rows = judging.compare_outputs(outputs, expected, reference, facts, where)
    if rows[0]["verdict"] is not None and not rows[0]["detail"].get("fault"):
        labels = arrays.get("labels")
        rows += judging.compare_accuracy(
            outputs, reference, labels, facts, where
        )
    return [Measurement.model_validate(row) for row in rows]


def _default_count(facts: Facts, host: Host) -> int:
    """How many samples a host executes unless the user asks for another number."""
    return (
        min(facts.samples, EMULATED_SAMPLES) if host.untimed else facts.samples
    )


def options_of(one_by_one: bool) -> dict[str, Any] | None:
    """The host's options if samples must be executed one at a time."""
    return {"samples": 1} if one_by_one else None


def store_evidence(
    folder: pathlib.Path, manifest: Manifest, report: EvidenceReport
) -> None:
    """Write evidence into the bundle, atomically.

    A partial check replaces a complete one only if it found a fault.

    Raises:
        BundleError: the bundle cannot be written.
    """
    if report.partial and report.verdict != "fail":
        stored = read_evidence(folder, manifest)
        if any(
            each.host == report.host and not each.partial for each in stored
        ):
            return
    place = folder / bundles.EVIDENCE
    text = json.dumps(report.model_dump(mode="json"), indent=1, allow_nan=False)
    try:
        if place.is_symlink():
            raise BundleError(
                f"{place} is a symbolic link.",
                fix="copy the bundle to a folder of your own, without it",
            )
        place.mkdir(exist_ok=True)
        write_text(place / _file_name(report.host), text + "\n")
    except OSError as problem:
        raise BundleError(
            f"{place} cannot be written: {problem.strerror}.",
            fix="copy the bundle to a folder of your own",
        ) from problem


def _file_name(host: str) -> str:
    safe = "".join(
        each if each.isalnum() or each in "-_." else "-" for each in host
    )
    return f"{safe[:100]}-{digest(host)[:8]}.json"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
