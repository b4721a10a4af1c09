"""Evidence: the samples of a bundle, run again on a host, judged by the same rules as on the device itself."""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from edgekit import bundle as bundles
from edgekit.bundle import Manifest
from edgekit.cache import write_text
from edgekit.contracts import BenchProtocol
from edgekit.errors import BundleError, EdgekitError
from edgekit.hosts.reach import environments, reach
from edgekit.hosts.runner import RUNTIMES, WorkerHost
from edgekit.measurement import Measurement
from edgekit.onboard import judging
from edgekit.progress import Progress, Silent
from edgekit.report import EvidenceReport

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: An emulated processor is some 200 times slower; this many samples tell whether it computes the same.
EMULATED_SAMPLES = 64
#: Distribution -> the runtime that it is.
_RUNTIME_OF: Mapping[str, str] = {"onnxruntime": "onnxruntime", "ai-edge-litert": "litert", "tflite-runtime": "litert"}
_EXACT = BenchProtocol()


def verify(folder: pathlib.Path, host: str, count: int | None = None, *, timed: bool = True, progress: Progress | None = None) -> Iterator[EvidenceReport]:
    """Run a bundle's evidence again in every environment of a host that has its runtime; one report each, kept in the bundle.

    What a host does wrong is told in its report and stops nothing else. ``count``: look at the first samples only. ``progress``
    is told of a copy that came over damaged.
    """
    manifest = bundles.load(folder)
    arrays = bundles.samples(folder)
    found = 0
    for name in environments(host):
        try:
            there = dataclasses.replace(reach(name), say=(progress or Silent()).say)
            hello = there.hello()
            if RUNTIMES[manifest.form] not in {_RUNTIME_OF.get(package) for package in hello["versions"]}:
                continue
            found += 1
            report = _taken(manifest, folder, there, _first(arrays, count, there), timed=timed)
            report = report.model_copy(update={"host": name, "versions": hello["versions"], "machine": str(hello["machine"])})
        except EdgekitError as error:
            found += 1
            report = EvidenceReport(host=name, key=manifest.key, verdict="unmeasured", error=str(error), when=now())
        if not report.error:
            keep(folder, report)
        yield report
    if not found:
        lacking = f"no environment of {host} has a runtime for files of the form {manifest.form}"
        yield EvidenceReport(host=host, key=manifest.key, verdict="unmeasured", error=lacking, skipped=True, when=now())


def kept(folder: pathlib.Path, key: str) -> tuple[EvidenceReport, ...]:
    """What was found for this very artifact on other hosts; evidence of another artifact, or that cannot be read, does not count."""
    found = []
    for path in sorted((folder / bundles.EVIDENCE).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(EvidenceReport.model_validate(json.loads(path.read_text(encoding="utf-8"))))
    return tuple(report for report in found if report.key == key)


def _taken(manifest: Manifest, folder: pathlib.Path, host: WorkerHost, arrays: "dict[str, Array]", *, timed: bool) -> EvidenceReport:
    assert manifest.bundle is not None
    facts, artifact = manifest.bundle.model_dump(mode="json", by_alias=True), bundles.artifact(manifest, folder)
    inputs = {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("input:")}
    with host.open(artifact, options_of(manifest.bundle.one_by_one)) as runner:
        ours, where = runner.infer(inputs), runner.where
    rows = judged(arrays, ours, facts, where)
    if timed and not host.untimed and not (manifest.bundle.untimed and manifest.bundle.untimed in where):
        reference = bundles.reference(manifest, folder)
        files = {"file": artifact, **({} if reference is None else {"reference": reference})}
        raw = host.race(files, inputs, _EXACT)
        told = None if reference is None else raw["reference"].nanoseconds
        rows += [Measurement.model_validate(row) for row in judging.times(raw["file"].nanoseconds, told, facts, where)]
    verdict = judging.verdict([row.model_dump(mode="json") for row in rows])
    return EvidenceReport.model_validate({"host": host.name, "key": manifest.key, "where": where, "when": now(), "verdict": verdict, "measurements": rows})


def judged(arrays: "Mapping[str, Array]", ours: "Mapping[str, Array]", facts: Mapping[str, Any], where: str) -> list[Measurement]:
    """The rows of the samples in ``arrays``, where a file gave ``ours`` for them."""
    expected, reference = ({name.partition(":")[2]: array for name, array in arrays.items() if name.startswith(kind)} for kind in ("expected:", "reference:"))
    rows = judging.parity(ours, expected, reference, facts, where)
    if rows[0]["verdict"] is not None and not rows[0]["detail"].get("fault"):
        rows += judging.accuracy(ours, reference, arrays.get("labels"), facts, where)
    return [Measurement.model_validate(row) for row in rows]


def _first(arrays: "dict[str, Array]", count: int | None, host: WorkerHost) -> "dict[str, Array]":
    if count is None and host.untimed:
        count = EMULATED_SAMPLES
    return arrays if count is None else {name: array[:count] for name, array in arrays.items()}


def options_of(one_by_one: bool) -> dict[str, Any] | None:
    return {"samples": 1} if one_by_one else None


def keep(folder: pathlib.Path, report: EvidenceReport) -> None:
    """Write evidence beside the bundle's files, whole or not at all."""
    place = folder / bundles.EVIDENCE
    try:
        place.mkdir(exist_ok=True)
    except OSError as problem:
        raise BundleError(f"{place} cannot be written: {problem.strerror}.", fix="copy the bundle to a folder of your own") from problem
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in report.host)
    write_text(place / f"{name}.json", json.dumps(report.model_dump(mode="json"), indent=1) + "\n")


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
