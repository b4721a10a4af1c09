"""Any host that a worker runs on: files are loaded there, checked against their signatures,
run and timed.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.artifact import Artifact, Part, chain
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import HostError, RunnerError
from edgekit.formats import FORMATS
from edgekit.hosts import copying, responses
from edgekit.hosts.execution import ExecutionChoice, choose_execution
from edgekit.hosts.part_inference import (
    check_signature,
    infer_part,
    record_inputs,
)
from edgekit.hosts.process import Start, WorkerProcess

if TYPE_CHECKING:
    from edgekit.arrays import Array, Feeds

#: What loads the file of each format.
RUNTIMES: Mapping[str, str] = {
    name: record.loaded_by for name, record in FORMATS.items()
}
#: How many times longer than in the warm-up a round may take on a busy machine.
_SLOWDOWN = 10


def _discard(text: str) -> None:
    """Ignore a message."""


@dataclasses.dataclass(frozen=True)
class WorkerHost:
    """A place where a worker runs files in their runtimes, on its CPU or its accelerator.

    Implements ``contracts.Host``. If the accelerator of a format is missing, a processor
    executes the file that is a proxy for it; ``where`` of a runner reports that.
    ``timeout_s`` limits the wait for each reply; one reply covers at most 256 samples.
    """

    name: str
    start: Start
    threads: int = 1
    timeout_s: float = 300.0
    #: Whether the host can read our files; else they are copied into its store, ``folder``
    #: (empty: the worker's default).
    shares_files: bool = True
    folder: str = ""
    #: Why its times are meaningless, such as "emulated"; empty if they count.
    untimed: str = ""
    #: Receives messages about damaged files that are copied again.
    say: Callable[[str], None] = _discard

    def open(
        self, artifact: Artifact, options: Mapping[str, Any] | None = None
    ) -> "WorkerRunner":
        """Load the artifact.

        ``options``: ``optimize`` False turns the runtime's graph optimizations off;
        ``samples`` is how many are run at once.
        """
        load_options = dict(options or {})
        samples = load_options.pop("samples", None)
        process, capabilities = self.connect()
        try:
            choices = self._choose(artifact, capabilities)
            where = self._load(process, artifact, "", choices, load_options)
            return WorkerRunner(process, artifact, where, samples)
        except BaseException:
            process.close()
            raise

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        feeds: "Feeds",
        protocol: BenchProtocol,
    ) -> dict[str, Samples]:
        """Time the artifacts interleaved in one process on the first sample of ``feeds``.

        Returns raw times by the same names. One inference covers all parts of an artifact,
        arrays in and arrays out; every part gets its inputs for that sample. The time of a
        round is the median of its calls; files that load in less than 0.2 s are reloaded in
        each round. Raises RunnerError for a format that only runs on a proxy here.
        """
        if self.untimed:
            raise RunnerError(
                f"Times on {self.name} are meaningless: it is {self.untimed}.",
                fix="time on the device itself",
            )
        sample = {name: array[:1] for name, array in feeds.items()}
        process, capabilities = self.connect()
        timing_host = dataclasses.replace(self, threads=protocol.threads)
        try:
            round_s = 0.0
            for name, artifact in artifacts.items():
                choices = self._choose(artifact, capabilities)
                _require_timeable(name, artifact, choices)
                timing_host._load(process, artifact, f"{name}/", choices, {})
                round_s += self._warm_up(
                    process, name, artifact, sample, protocol
                )
            header = {
                "command": "bench",
                "rounds": protocol.rounds,
                "seed": protocol.seed,
            }
            limit_s = self.timeout_s + _SLOWDOWN * protocol.rounds * round_s
            reply, _ = process.request("timing", header, timeout_s=limit_s)
        finally:
            process.close()
        times = responses.parse_times(
            self.name, reply, list(artifacts), protocol.rounds
        )
        return {name: Samples(row) for name, row in times.items()}

    def _warm_up(
        self,
        process: WorkerProcess,
        name: str,
        artifact: Artifact,
        sample: "Feeds",
        protocol: BenchProtocol,
    ) -> float:
        """Set up a track of the worker; the expected duration of a round, in seconds."""
        arrays = record_inputs(process, artifact, f"{name}/", sample)
        header = {
            "command": "warm",
            "name": name,
            "models": [f"{name}/{part.name}" for part in artifact.parts],
            "warmup": protocol.warmup,
            "round_ms": protocol.round_ms,
        }
        begin = time.monotonic()
        reply, _ = process.request(f"warming up {name}", header, arrays)
        # A round takes no longer than the warm-up did, whatever a broken clock reports.
        longest = time.monotonic() - begin + protocol.round_ms / 1e3
        return min(responses.parse_warm_up(self.name, reply), longest)

    def reporting_to(self, say: Callable[[str], None]) -> "WorkerHost":
        """The same host, with another receiver of messages."""
        return dataclasses.replace(self, say=say)

    def hello(self) -> dict[str, Any]:
        """Connect once and describe the host: ``python``, ``machine``, ``system``,
        ``devices`` and the ``versions`` of its runtimes.
        """
        process, capabilities = self.connect()
        process.close()
        return capabilities

    def time_hello(self) -> tuple[dict[str, Any], float, float]:
        """``hello``, with the seconds to start a worker and the seconds of one reply."""
        begin = time.monotonic()
        process, capabilities = self.connect()
        started = time.monotonic()
        try:
            header = {"command": "hello", "folder": self.folder}
            process.request(f"connecting to {self.name}", header)
            replied = time.monotonic()
        finally:
            process.close()
        return capabilities, started - begin, replied - started

    def clean(self) -> tuple[int, int]:
        """Remove the files that were copied there: their number and their bytes."""
        if self.shares_files:
            return 0, 0
        process, _ = self.connect()
        try:
            reply, _ = process.request(
                f"cleaning {self.name}", {"command": "clean"}
            )
        finally:
            process.close()
        return responses.parse_cleaned(self.name, reply)

    def identity(self) -> dict[str, Any]:
        """Everything that numbers from this host depend on: the machine, its Python,
        runtimes and devices, and how it is reached.
        """
        capabilities = self.hello()
        capabilities.pop("pid", None)
        return {
            "host": self.name,
            "way": [*self.start.command, *self.start.paths],
            "threads": self.threads,
            "untimed": self.untimed,
            **capabilities,
        }

    def connect(self) -> tuple[WorkerProcess, dict[str, Any]]:
        """Start a worker; the process and its description of the host. Raises HostError."""
        process = WorkerProcess(self.start, self.timeout_s)
        try:
            header = {"command": "hello", "folder": self.folder}
            reply, _ = process.request(f"starting on {self.name}", header)
            return process, responses.parse_hello(self.name, reply)
        except RunnerError as error:
            process.close()
            # No file has been loaded yet, so the host itself is at fault.
            raise HostError(
                error.message,
                fix=f"check which program replies there: edgekit hosts check {self.name}",
            ) from error
        except BaseException:
            process.close()
            raise

    def _choose(
        self, artifact: Artifact, capabilities: Mapping[str, Any]
    ) -> list[ExecutionChoice]:
        """How each part is executed here."""
        if artifact.format not in FORMATS:
            raise RunnerError(
                f"No host runs the format {artifact.format!r}.",
                fix="export the artifact first; torch networks run with TorchRunner",
            )
        return [
            choose_execution(artifact.format, part, capabilities)
            for part in artifact.parts
        ]

    def _load(
        self,
        process: WorkerProcess,
        artifact: Artifact,
        prefix: str,
        choices: Sequence[ExecutionChoice],
        options: Mapping[str, Any],
    ) -> str:
        """Load every part as ``<prefix><part>``, check it against its signature, and
        describe where it runs.
        """
        options = dict(options)
        all_proxies = all(choice.stands_in for choice in choices)
        if all_proxies and not FORMATS[artifact.format].stand_in_optimized:
            options.setdefault("optimize", False)
        if not self.shares_files:
            options["stored"] = True
        runtime = ""
        for part, choice in zip(artifact.parts, choices, strict=True):
            file = artifact.path(part, choice.role)
            part_options = dict(options)
            if choice.role == "model" and "weights" in part.files:
                weights = artifact.path(part, "weights")
                part_options["weights"] = self._provide(process, weights)
            header = {
                "command": "load",
                "name": prefix + part.name,
                "path": self._provide(process, file),
                "runtime": choice.runtime,
                "threads": self.threads,
                "options": part_options,
            }
            reply, _ = process.request(f"loading {file}", header)
            runtime, inputs, outputs = responses.parse_loaded(self.name, reply)
            by_name = choice.runtime == "onnxruntime"
            check_signature(str(file), inputs, part.signature.inputs, by_name)
            check_signature(str(file), outputs, part.signature.outputs, by_name)
        return self._describe(runtime, choices[0], options)

    def _provide(self, process: WorkerProcess, file: pathlib.Path) -> str:
        """The path of a file for the worker, or its name in the host's store."""
        if self.shares_files:
            return str(file.resolve())
        return copying.copy_file(process, file, self.name, self.say)

    def _describe(
        self, runtime: str, choice: ExecutionChoice, options: Mapping[str, Any]
    ) -> str:
        plural = "" if self.threads == 1 else "s"
        notes = [runtime, f"{self.threads} thread{plural}"]
        notes += [
            text
            for text in (choice.stands_in, choice.note, self.untimed)
            if text
        ]
        if not choice.stands_in and options.get("optimize") is False:
            notes.append("optimizations off")
        return f"{self.name}: {', '.join(notes)}"


class WorkerRunner:
    """An artifact that is loaded in a worker; leaving the context ends the worker.

    ``samples`` is how many are run at once; None leaves that to the runner.
    """

    def __init__(
        self,
        process: WorkerProcess,
        artifact: Artifact,
        where: str,
        samples: int | None = None,
    ) -> None:
        self.where = where
        self._process = process
        self._artifact = artifact
        self._samples = samples

    def __enter__(self) -> "WorkerRunner":
        return self

    def __exit__(self, *details: object) -> None:
        self._process.close()

    def infer(self, feeds: "Feeds") -> "dict[str, Array]":
        """The last part's outputs as real arrays in the task's layout, for any number of
        samples.
        """
        first = self._artifact.parts[0]
        first.signature.check_feeds(feeds, f"Part {first.name!r}")
        return chain(self._artifact.parts, self._infer_part, feeds)

    def _infer_part(self, part: Part, feeds: "Feeds") -> "dict[str, Array]":
        return infer_part(self._process, part, part.name, feeds, self._samples)


def _require_timeable(
    name: str, artifact: Artifact, choices: Sequence[ExecutionChoice]
) -> None:
    for choice in choices:
        if choice.stands_in:
            raise RunnerError(
                f"{name}: a {artifact.format} artifact cannot be timed on this host"
                f" ({choice.stands_in}).",
                fix="time it on the device",
            )
    inputs = [spec for part in artifact.parts for spec in part.signature.inputs]
    batch = max(spec.static_batch or 1 for spec in inputs)
    if batch > 1:
        raise RunnerError(
            f"{name}: the file has batch size {batch}, but latency is measured with 1.",
            fix="export with a free batch size or batch size 1",
        )
