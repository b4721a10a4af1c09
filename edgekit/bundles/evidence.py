"""Evidence: the samples of a bundle, run again on a host, judged by the same rules as on
the device itself.
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.bundles import bundle as bundles
from edgekit.bundles.bundle import Facts, Manifest
from edgekit.cache import digest, write_text
from edgekit.contracts import BenchProtocol
from edgekit.device_worker import bundled, judging
from edgekit.errors import BundleError, EdgekitError
from edgekit.hosts.execution import runtime_packages
from edgekit.hosts.lookup import environments, reach
from edgekit.hosts.runner import WorkerHost
from edgekit.measurement import Measurement, Verdict
from edgekit.pipeline.verdict import verdict_of
from edgekit.progress import Progress, Silent
from edgekit.report import EvidenceReport, TargetReport
from edgekit.value import strict_json

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: An emulated processor is some 200 times slower; this many samples tell whether it
#: computes the same.
EMULATED_SAMPLES = 64
_EXACT = BenchProtocol()


def verify(
    folder: pathlib.Path,
    host: str,
    count: int | None = None,
    *,
    timed: bool = True,
    progress: Progress | None = None,
) -> Iterator[EvidenceReport]:
    """Run a bundle's evidence again in every environment of a host that has its runtime;
    one report each, kept in the bundle.

    What a host does wrong is told in its report and stops nothing else. ``count``: look at
    the first samples only. ``progress`` is told of a copy that came over damaged, and of
    evidence that could not be kept.
    """
    say = (progress or Silent()).say
    manifest = bundles.load(folder)
    arrays, facts = bundles.samples(folder, manifest), manifest.facts
    mine = {"key": manifest.key, "bundle": facts.id}
    found = 0
    for name in environments(host):
        try:
            there = dataclasses.replace(reach(name), say=say)
            hello = there.hello()
            if not runtime_packages(manifest.format, hello["versions"]):
                continue
            found += 1
            whole = _default(facts, there)
            wanted = whole if count is None else count
            where, rows = _taken(
                manifest,
                folder,
                there,
                {name: array[:wanted] for name, array in arrays.items()},
                timed=timed,
            )
            report = EvidenceReport.model_validate(
                {
                    **mine,
                    "host": name,
                    "when": now(),
                    "verdict": verdict_on(rows),
                    "where": where,
                    "machine": str(hello["machine"]),
                    "versions": hello["versions"],
                    "measurements": rows,
                    "partial": wanted < whole or (not timed and not there.untimed),
                }
            )
        except EdgekitError as error:
            found += 1
            report = EvidenceReport(
                **mine, host=name, verdict="unmeasured", error=str(error), when=now()
            )
        if not report.error:
            try:
                keep(folder, manifest, report)
            except EdgekitError as error:
                say(f"The evidence of {name} is not kept: {error}")
        yield report
    if not found:
        lacking = f"no environment of {host} has a runtime for files of the format {manifest.format}"
        yield EvidenceReport(
            **mine, host=host, verdict="unmeasured", error=lacking, skipped=True, when=now()
        )


def kept(folder: pathlib.Path, manifest: Manifest) -> tuple[EvidenceReport, ...]:
    """What was found for this very bundle on other hosts; evidence of other files, samples
    or gates, or that cannot be read, does not count.
    """
    wanted, found = (manifest.key, manifest.facts.id), []
    for path in sorted((folder / bundles.EVIDENCE).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(
                EvidenceReport.model_validate(strict_json(path.read_text(encoding="utf-8")))
            )
    return tuple(report for report in found if (report.key, report.bundle) == wanted)


def with_evidence(
    row: TargetReport, folder: pathlib.Path, asked: Sequence[EvidenceReport] = ()
) -> TargetReport:
    """A target's line with what other hosts say of its bundle: one that disagrees fails it.

    ``asked``: hosts that may have failed just now.
    """
    rows = {
        report.host: report
        for report in (
            *(report for report in asked if report.error),
            *kept(folder, bundles.read(folder)),
        )
    }
    verdict: Verdict = (
        "fail"
        if any(report.verdict == "fail" for report in rows.values())
        else verdict_of(row.winner, row.gates)
    )
    return row.model_copy(update={"evidence": tuple(rows.values()), "verdict": verdict})


def verdict_on(rows: Sequence[Measurement]) -> str:
    """One verdict for what was measured, by the rules of the device."""
    return judging.combine_verdicts([row.model_dump(mode="json") for row in rows])


def _taken(
    manifest: Manifest,
    folder: pathlib.Path,
    host: WorkerHost,
    arrays: "dict[str, Array]",
    *,
    timed: bool,
) -> tuple[str, list[Measurement]]:
    """Where the samples were run, and the rows."""
    facts, artifact = (
        manifest.facts.model_dump(mode="json", by_alias=True),
        bundles.artifact(manifest, folder),
    )
    if facts["device_only"] and host.shares_files:
        facts["gates"].pop(
            "speedup", None
        )  # this machine's speed is told, and says nothing of the device's
    inputs = bundled.select(arrays, "input")
    with host.open(artifact, options_of(bool(facts["one_by_one"]))) as runner:
        ours, where = runner.infer(inputs), runner.where
    rows = judged(arrays, ours, facts, where)
    on_device = bool(facts["stands_in"]) and facts["stands_in"] not in where
    if timed and not host.untimed and judging.can_time(facts, on_device):
        reference = bundles.reference(manifest, folder)
        files = {
            "file": artifact,
            **({} if reference is None else {"reference": reference}),
        }
        raw = host.race(files, inputs, _EXACT)
        beside = None if reference is None else raw["reference"].nanoseconds
        rows += [
            Measurement.model_validate(row)
            for row in judging.summarize_times(raw["file"].nanoseconds, beside, facts, where)
        ]
    return where, rows


def judged(
    arrays: "Mapping[str, Array]",
    ours: "Mapping[str, Array]",
    facts: Mapping[str, Any],
    where: str,
) -> list[Measurement]:
    """The rows of the samples in ``arrays``, where a file gave ``ours`` for them."""
    expected, reference = (
        bundled.select(arrays, "expected"),
        bundled.select(arrays, "reference"),
    )
    rows = judging.compare_outputs(ours, expected, reference, facts, where)
    if rows[0]["verdict"] is not None and not rows[0]["detail"].get("fault"):
        rows += judging.compare_accuracy(ours, reference, arrays.get("labels"), facts, where)
    return [Measurement.model_validate(row) for row in rows]


def _default(facts: Facts, host: WorkerHost) -> int:
    """How many samples a host looks at unless it is told otherwise."""
    return min(facts.samples, EMULATED_SAMPLES) if host.untimed else facts.samples


def options_of(one_by_one: bool) -> dict[str, Any] | None:
    """What a host is asked for where samples are run one at a time."""
    return {"samples": 1} if one_by_one else None


def keep(folder: pathlib.Path, manifest: Manifest, report: EvidenceReport) -> None:
    """Write evidence beside the bundle's files, whole or not at all.

    A quick look takes the place of a whole one only where it found a fault.
    """
    place = folder / bundles.EVIDENCE
    letters = "".join(
        letter if letter.isalnum() or letter in "-_." else "-" for letter in report.host
    )
    path = place / f"{letters[:100]}-{digest(report.host)[:8]}.json"
    if report.partial and report.verdict != "fail":
        known = next(
            (row for row in kept(folder, manifest) if row.host == report.host), None
        )
        if known is not None and not known.partial:
            return
    try:
        if place.is_symlink():
            raise BundleError(
                f"{place} is a link to somewhere else.",
                fix="copy the bundle to a folder of your own, without it",
            )
        place.mkdir(exist_ok=True)
        write_text(
            path,
            json.dumps(report.model_dump(mode="json"), indent=1, allow_nan=False) + "\n",
        )
    except OSError as problem:
        raise BundleError(
            f"{place} cannot be written: {problem.strerror}.",
            fix="copy the bundle to a folder of your own",
        ) from problem


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
