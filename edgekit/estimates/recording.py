"""Times the operators of a host: networks are made into files, cut, timed there in turns;
then whole networks tell the error.
"""

import dataclasses
import datetime
import pathlib
import statistics
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy

import edgekit
from edgekit.artifact import Artifact, FormatName
from edgekit.cache import Cache
from edgekit.checks.statistics import median_interval
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import HostError
from edgekit.estimates import fitting, networks, operators
from edgekit.estimates.table import Cost, HeldOut, Row, Table
from edgekit.hosts.execution import runs
from edgekit.hosts.runner import RUNTIMES, WorkerHost
from edgekit.progress import Progress, Silent
from edgekit.target import RUNTIMES as TARGET_RUNTIMES

#: The network that is timed beside all others, and in how many races its standard time is
#: found.
REFERENCE, RACES = "dense_small", 5


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is recorded."""

    probes: tuple[str, ...] = tuple(networks.PROBES)
    held_out: tuple[str, ...] = tuple(networks.HELD_OUT)
    cuts: int = 14
    rounds: int = 15
    round_ms: float = 2.0


FULL = Effort()
QUICK = Effort(
    networks.QUICK_PROBES, networks.QUICK_HELD_OUT, cuts=6, rounds=8, round_ms=1.0
)


def record(
    host: WorkerHost,
    format: FormatName,
    name: str,
    cache: Cache,
    quick: bool = False,
    progress: Progress | None = None,
) -> Table:
    """The table of one host for files of one format.

    Raises HostError where its times say nothing.
    """
    if host.untimed:
        raise HostError(
            f"Times on {host.name} say nothing: it is {host.untimed}.",
            fix="record on the device itself",
        )
    told, effort = host.hello(), QUICK if quick else FULL
    progress = progress or Silent()
    protocol = BenchProtocol(rounds=effort.rounds, warmup=5, round_ms=effort.round_ms)
    progress.start(f"operators of {host.name}")
    progress.expect(len(effort.probes))
    stand, rows = _stand(host, format, cache, protocol), list[Row]()
    for probe in effort.probes:
        rows += _probe(stand, probe, effort.cuts)
        progress.advance(note=probe)
    progress.finish(f"{len(rows)} files timed")
    progress.start("whole networks")
    progress.expect(len(effort.held_out))
    held: list[HeldOut] = []
    fitted = fitting.fit(rows)
    for network in effort.held_out:
        held += _held_out(stand, network, fitted)
        progress.advance(note=network)
    progress.finish()
    return Table(
        schema=1,
        name=name,
        runtime=TARGET_RUNTIMES[format],
        host=host.name,
        where=f"{host.name}: {_runtime(told, format)}, 1 thread",
        machine=str(told.get("machine", "")),
        system=str(told.get("system", "")),
        versions={key: str(value) for key, value in told.get("versions", {}).items()},
        recorded=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        edgekit=edgekit.__version__,
        rounds=effort.rounds,
        rows=tuple(rows),
        held_out=tuple(held),
    )


def _runtime(told: Mapping[str, Any], format: FormatName) -> str:
    versions = told.get("versions", {})
    return next(
        (f"{name} {versions[name]}" for name in runs(format, versions)), RUNTIMES[format]
    )


@dataclasses.dataclass(frozen=True)
class Stand:
    """Where files are timed, always beside one reference: what slows the machine for a
    while slows both, and is divided out.
    """

    host: WorkerHost
    format: FormatName
    cache: Cache
    protocol: BenchProtocol
    reference: Artifact
    #: Nanoseconds that stand for the reference's; 0 until they are known.
    standard: float = 0.0

    def timed(self, network: str, files: Mapping[str, Artifact]) -> dict[str, Samples]:
        """Raw times by the same names, as if the reference had taken its standard time in
        every round.
        """
        raw = self.host.race(
            {**files, REFERENCE: self.reference},
            {**networks.feeds(REFERENCE), **networks.feeds(network)},
            self.protocol,
        )
        beside = raw.pop(REFERENCE).nanoseconds
        standard = self.standard or statistics.median(beside)
        return {
            name: Samples(
                tuple(
                    ns * standard / other
                    for ns, other in zip(times.nanoseconds, beside, strict=True)
                )
            )
            for name, times in raw.items()
        }


def _stand(
    host: WorkerHost, format: FormatName, cache: Cache, protocol: BenchProtocol
) -> Stand:
    """The reference's standard time is the median of a few races."""
    reference = networks.build(REFERENCE, format, cache)["float"]
    races = [
        host.race({"": reference}, networks.feeds(REFERENCE), protocol)[""].nanoseconds
        for _ in range(RACES)
    ]
    return Stand(
        host,
        format,
        cache,
        protocol,
        reference,
        statistics.median(ns for race in races for ns in race),
    )


def _probe(stand: Stand, name: str, cuts: int) -> list[Row]:
    """One network's rows: its files cut short, float and int8, all timed in turns."""
    made = networks.build(name, stand.format, stand.cache)
    with tempfile.TemporaryDirectory(prefix="edgekit-record-") as place:
        files: dict[str, list[Artifact]] = {}
        for scheme, artifact in made.items():
            folder = pathlib.Path(place) / scheme
            folder.mkdir()
            files[scheme] = operators.cut(artifact, cuts, folder)
        flat = {
            f"{scheme} {number}": artifact
            for scheme, several in files.items()
            for number, artifact in enumerate(several)
        }
        found = dict(
            zip(
                flat,
                operators.read_all(
                    [artifact.path(artifact.parts[0]) for artifact in flat.values()],
                    stand.format,
                ),
                strict=True,
            )
        )
        samples = stand.timed(name, flat)
    rows: list[Row] = []
    for scheme, several in files.items():
        before: Samples | None = None
        for number in range(len(several)):
            key = f"{scheme} {number}"
            costs = tuple(operator.cost for operator in found[key])
            rows.append(
                _row((name, scheme), costs, operators.ends(costs), samples[key], before)
            )
            before = samples[key]
    return rows


def _row(
    file: tuple[str, str],
    costs: tuple[Cost, ...],
    ends: int,
    samples: Samples,
    before: Samples | None,
) -> Row:
    median, low, high = _median(samples)
    added = spread = None
    if before is not None:
        gaps = numpy.asarray(samples.nanoseconds) - numpy.asarray(before.nanoseconds)
        interval = median_interval(gaps)
        added, spread = (
            float(numpy.median(gaps)),
            0.0 if interval is None else float(interval[1] - interval[0]),
        )
    return Row(
        network=file[0],
        scheme=file[1],
        ends=ends,
        operators=costs,
        ns=median,
        low=low,
        high=high,
        added=added,
        added_spread=spread or 0.0,
    )


def _median(samples: Samples) -> tuple[float, float, float]:
    values = numpy.asarray(samples.nanoseconds)
    middle, interval = statistics.median(samples.nanoseconds), median_interval(values)
    return float(middle), *(
        (float(interval[0]), float(interval[1]))
        if interval is not None
        else (float(values.min()), float(values.max()))
    )


def _held_out(stand: Stand, name: str, fitted: fitting.Fit) -> list[HeldOut]:
    made = networks.build(name, stand.format, stand.cache)
    found = operators.read_all(
        [artifact.path(artifact.parts[0]) for artifact in made.values()], stand.format
    )
    samples = stand.timed(name, made)
    rows = []
    for scheme, several in zip(made, found, strict=True):
        costs = [operator.cost for operator in several]
        median, low, high = _median(samples[scheme])
        estimated = fitted.file(costs, operators.ends(costs))
        unknown = sum(not fitted.knows(cost) for cost in costs)
        rows.append(
            HeldOut(
                network=name,
                scheme=scheme,
                ns=median,
                low=low,
                high=high,
                estimated=estimated,
                unknown=unknown,
                ends=operators.ends(costs),
                operators=tuple(costs),
            )
        )
    return rows
