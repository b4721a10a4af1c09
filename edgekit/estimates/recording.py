"""Record a latency table: time the operators of a host.

Networks are built, cut and timed there in interleaved rounds; complete networks measure the
error of the estimates.
"""

import dataclasses
import datetime
import pathlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

import edgekit
from edgekit.artifact import Artifact, FormatName
from edgekit.cache import Cache
from edgekit.checks.statistics import median_interval
from edgekit.contracts import BenchProtocol, Host, Samples
from edgekit.errors import HostError
from edgekit.estimates import fitting, networks, operators
from edgekit.estimates.table import Cost, HeldOut, Row, Table
from edgekit.hosts.execution import runtime_packages
from edgekit.hosts.runner import RUNTIMES
from edgekit.progress import Progress, Silent
from edgekit.target import RUNTIMES as TARGET_RUNTIMES

#: The network that is timed together with all others.
REFERENCE = "dense_small"
#: The number of races that determine the reference's standard time.
REFERENCE_RACES = 5


@dataclasses.dataclass(frozen=True)
class Effort:
    """How many files are timed, and for how long."""

    probes: tuple[str, ...] = tuple(networks.PROBES)
    held_out: tuple[str, ...] = tuple(networks.HELD_OUT)
    cuts: int = 14
    rounds: int = 15
    round_ms: float = 2.0


FULL = Effort()
QUICK = Effort(
    networks.QUICK_PROBES,
    networks.QUICK_HELD_OUT,
    cuts=6,
    rounds=8,
    round_ms=1.0,
)


def record(
    host: Host,
    format: FormatName,
    name: str,
    cache: Cache,
    quick: bool = False,
    progress: Progress | None = None,
) -> Table:
    """Record the table of one host for files of one format.

    Args:
        host: The device.
        format: onnx or tflite.
        name: The table's name.
        cache: Keeps the files of the networks.
        quick: Time a few networks only.
        progress: Reports progress.

    Raises:
        HostError: The host's times are not representative, such as under emulation.
    """
    if host.untimed:
        raise HostError(
            f"Times on {host.name} are not representative: it is {host.untimed}.",
            fix="record on the device itself",
        )
    description = host.hello()
    effort = QUICK if quick else FULL
    progress = progress or Silent()
    protocol = BenchProtocol(
        rounds=effort.rounds, warmup=5, round_ms=effort.round_ms
    )
    progress.start(f"operators of {host.name}")
    progress.expect(len(effort.probes))
    bench = _prepare(host, format, cache, protocol)
    rows: list[Row] = []
    for probe in effort.probes:
        rows += _time_probe(bench, probe, effort.cuts)
        progress.advance(note=probe)
    progress.finish(f"{len(rows)} files timed")
    progress.start("complete networks")
    progress.expect(len(effort.held_out))
    held_out: list[HeldOut] = []
    fit = fitting.fit(rows)
    for network in effort.held_out:
        held_out += _time_held_out(bench, network, fit)
        progress.advance(note=network)
    progress.finish()
    versions = description.get("versions", {})
    return Table(
        name=name,
        runtime=TARGET_RUNTIMES[format],
        host=host.name,
        where=f"{host.name}: {_runtime(versions, format)}, 1 thread",
        machine=str(description.get("machine", "")),
        system=str(description.get("system", "")),
        versions={key: str(value) for key, value in versions.items()},
        recorded=datetime.datetime.now(datetime.UTC).isoformat(
            timespec="seconds"
        ),
        edgekit=edgekit.__version__,
        rounds=effort.rounds,
        rows=tuple(rows),
        held_out=tuple(held_out),
    )


def _runtime(versions: Mapping[str, Any], format: FormatName) -> str:
    """The runtime's package and version, or its name if the version is unknown."""
    packages = [
        f"{name} {versions[name]}"
        for name in runtime_packages(format, versions)
    ]
    return packages[0] if packages else RUNTIMES[format]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Times files together with one reference.

    What slows the machine down for a while slows both, and is divided out.
    """

    host: Host
    format: FormatName
    cache: Cache
    protocol: BenchProtocol
    reference: Artifact
    #: The standard time of the reference in ns.
    standard: float

    def time(
        self, network: str, files: Mapping[str, Artifact]
    ) -> dict[str, Samples]:
        """Time files of one network in interleaved rounds.

        Returns:
            Times in ns by the names of ``files``, scaled as if the reference had taken its
            standard time in every round.
        """
        feeds = {**networks.feeds(REFERENCE), **networks.feeds(network)}
        times = self.host.race(
            {**files, REFERENCE: self.reference}, feeds, self.protocol
        )
        reference = times.pop(REFERENCE).nanoseconds
        return {
            name: self._scale(row, reference) for name, row in times.items()
        }

    def _scale(self, samples: Samples, reference: Sequence[float]) -> Samples:
        pairs = zip(samples.nanoseconds, reference, strict=True)
        return Samples(tuple(ns * self.standard / other for ns, other in pairs))


def _prepare(
    host: Host, format: FormatName, cache: Cache, protocol: BenchProtocol
) -> Bench:
    """Determine the reference's standard time: the median over several races."""
    reference = networks.build(REFERENCE, format, cache)["float"]
    times: list[float] = []
    for _ in range(REFERENCE_RACES):
        race = host.race({"": reference}, networks.feeds(REFERENCE), protocol)
        times.extend(race[""].nanoseconds)
    return Bench(
        host, format, cache, protocol, reference, statistics.median(times)
    )


def _time_probe(bench: Bench, network: str, cuts: int) -> list[Row]:
    """Time the prefixes of one network, float and int8, in interleaved rounds."""
    artifacts = networks.build(network, bench.format, bench.cache)
    files: dict[str, Artifact] = {}
    with tempfile.TemporaryDirectory(prefix="edgekit-record-") as temporary:
        for scheme, artifact in artifacts.items():
            folder = pathlib.Path(temporary) / scheme
            folder.mkdir()
            prefixes = operators.cut(artifact, cuts, folder)
            files |= {
                f"{scheme} {number}": file
                for number, file in enumerate(prefixes)
            }
        costs = _read_costs(list(files.values()), bench.format)
        samples = bench.time(network, files)
    rows: list[Row] = []
    previous: dict[str, Samples] = {}
    for key, file_costs in zip(files, costs, strict=True):
        scheme = key.partition(" ")[0]
        rows.append(
            _row(
                (network, scheme),
                file_costs,
                samples[key],
                previous.get(scheme),
            )
        )
        previous[scheme] = samples[key]
    return rows


def _read_costs(
    files: Sequence[Artifact], format: FormatName
) -> list[tuple[Cost, ...]]:
    paths = [file.path(file.parts[0]) for file in files]
    return [
        tuple(operator.cost for operator in file)
        for file in operators.read_all(paths, format)
    ]


def _row(
    file: tuple[str, str],
    costs: tuple[Cost, ...],
    samples: Samples,
    previous: Samples | None,
) -> Row:
    network, scheme = file
    median, low, high = _median(samples)
    added = None
    added_spread = 0.0
    if previous is not None:
        gaps = numpy.asarray(samples.nanoseconds) - numpy.asarray(
            previous.nanoseconds
        )
        added = float(numpy.median(gaps))
        interval = median_interval(gaps)
        if interval is not None:
            added_spread = float(interval[1] - interval[0])
    return Row(
        network=network,
        scheme=scheme,
        ends=operators.io_bytes(costs),
        operators=costs,
        ns=median,
        low=low,
        high=high,
        added=added,
        added_spread=added_spread,
    )


def _median(samples: Samples) -> tuple[float, float, float]:
    """The median in ns and its 95 % interval, or the range if there are too few samples."""
    values = numpy.asarray(samples.nanoseconds)
    interval = median_interval(values)
    low, high = (values.min(), values.max()) if interval is None else interval
    return (
        float(statistics.median(samples.nanoseconds)),
        float(low),
        float(high),
    )


def _time_held_out(
    bench: Bench, network: str, fit: fitting.Fit
) -> list[HeldOut]:
    """Time the files of one network, and estimate them."""
    files = networks.build(network, bench.format, bench.cache)
    costs = _read_costs(list(files.values()), bench.format)
    samples = bench.time(network, files)
    rows = []
    for scheme, file_costs in zip(files, costs, strict=True):
        median, low, high = _median(samples[scheme])
        io_bytes = operators.io_bytes(file_costs)
        unknown = [cost for cost in file_costs if not fit.knows(cost)]
        rows.append(
            HeldOut(
                network=network,
                scheme=scheme,
                ns=median,
                low=low,
                high=high,
                estimated=fit.file_ns(file_costs, io_bytes),
                unknown=len(unknown),
                ends=io_bytes,
                operators=file_costs,
            )
        )
    return rows
