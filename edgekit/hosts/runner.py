"""Any host that a worker runs on: files are loaded there, checked against their signatures,
run and timed.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.artifact import Artifact, Part, chain
from edgekit.contracts import BenchProtocol, Samples
from edgekit.device_worker.batches import LARGEST_SLICE
from edgekit.device_worker.frames import LARGEST_PAYLOAD
from edgekit.device_worker.runtimes import RUNTIME_OF
from edgekit.errors import HostError, RunnerError
from edgekit.formats import FORMATS
from edgekit.hosts import copying
from edgekit.hosts import responses as replies
from edgekit.hosts.execution import ExecutionChoice, choose_execution
from edgekit.hosts.process import Start, WorkerProcess
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

#: What loads the file of each format.
RUNTIMES: Mapping[str, str] = RUNTIME_OF
#: The largest relative difference of two scales that are the same number, stored as float32
#: in one place.
SAME_SCALE = 1e-5


def _silent(text: str) -> None:
    """Nobody listens."""


@dataclasses.dataclass(frozen=True)
class WorkerHost:
    """A place where a worker runs: ONNX files in ONNX Runtime, TFLite files in LiteRT or
    tflite-runtime, on its CPU.

    For a TensorRT artifact the Q/DQ graph of the engine runs in ONNX Runtime with its
    optimizations off, for an Edge TPU artifact the TFLite file runs on the CPU; ``where``
    says so. ``timeout_s`` bounds the wait for each answer, an answer being at most 256
    samples.
    """

    name: str
    start: Start
    threads: int = 1
    timeout_s: float = 300.0
    #: The host reads our files where they lie; else they are copied into its store,
    #: ``folder`` (its own default where empty).
    shares_files: bool = True
    folder: str = ""
    #: Why its times say nothing, such as "emulated"; empty where they count.
    untimed: str = ""
    #: Where it is told that a file was damaged and is copied again.
    say: Callable[[str], None] = _silent

    def open(
        self, artifact: Artifact, options: Mapping[str, Any] | None = None
    ) -> "WorkerRunner":
        """Load the artifact.

        ``optimize``: False turns the runtime's graph optimizations off; ``samples``: how
        many are run at once.
        """
        given = dict(options or {})
        samples = given.pop("samples", None)
        process, told = self._greeted()
        try:
            return WorkerRunner(
                process,
                artifact,
                self._load(process, artifact, "", self._ways(artifact, told), given),
                samples,
            )
        except BaseException:
            process.close()
            raise

    def race(
        self, artifacts: Mapping[str, Artifact], feeds: "Feeds", protocol: BenchProtocol
    ) -> dict[str, Samples]:
        """Time the artifacts in turns in one process on the first sample of ``feeds``; raw
        times by the same names.

        One inference is the whole chain of an artifact's parts, arrays in and arrays out.
        Every part of the chain gets the inputs that it has for that sample. A round's time
        is the median of its calls; files that load in less than 0.2 s are loaded anew for
        each round. Raises RunnerError for a format whose speed here says nothing.
        """
        if self.untimed:
            raise RunnerError(
                f"Times on {self.name} say nothing: it is {self.untimed}.",
                fix="time on the device itself",
            )
        first = {name: array[:1] for name, array in feeds.items()}
        process, told = self._greeted()
        there = dataclasses.replace(self, threads=protocol.threads)
        try:
            expected = 0.0
            for name, artifact in artifacts.items():
                ways = self._ways(artifact, told)
                _refuse_to_time(name, artifact, ways)
                there._load(process, artifact, f"{name}/", ways, {})
                arrays = _record(process, artifact, f"{name}/", first)
                warm = {
                    "command": "warm",
                    "name": name,
                    "models": [f"{name}/{part.name}" for part in artifact.parts],
                    "warmup": protocol.warmup,
                    "round_ms": protocol.round_ms,
                }
                began = time.monotonic()
                reply, _ = process.ask(f"warming up {name}", warm, arrays)
                # A round is no longer than what we have just waited for, whatever a broken
                # clock over there says.
                expected += min(
                    replies.warmed(self.name, reply),
                    time.monotonic() - began + protocol.round_ms / 1e3,
                )
            # A busy machine may need ten times as long as the warm-up has told.
            limit = self.timeout_s + 10 * protocol.rounds * expected
            reply, _ = process.ask(
                "timing",
                {"command": "bench", "rounds": protocol.rounds, "seed": protocol.seed},
                timeout_s=limit,
            )
        finally:
            process.close()
        return {
            name: Samples(times)
            for name, times in replies.timed(
                self.name, reply, list(artifacts), protocol.rounds
            ).items()
        }

    def connect(self) -> WorkerProcess:
        """A worker that has said hello."""
        return self._greeted()[0]

    def hello(self) -> dict[str, Any]:
        """What the host tells of itself: ``python``, ``machine``, ``system`` and the
        ``versions`` of its runtimes.
        """
        process, told = self._greeted()
        process.close()
        return told

    def identity(self) -> dict[str, Any]:
        """The host, its machine, Python, runtimes and devices, and the way to it: numbers
        of another do not count here.
        """
        told = {key: value for key, value in self.hello().items() if key != "pid"}
        return {
            "host": self.name,
            "way": [*self.start.command, *self.start.paths],
            "threads": self.threads,
            "untimed": self.untimed,
            **told,
        }

    def _greeted(self) -> tuple[WorkerProcess, dict[str, Any]]:
        process = WorkerProcess(self.start, self.timeout_s)
        try:
            reply, _ = process.ask(
                f"starting on {self.name}", {"command": "hello", "folder": self.folder}
            )
            return process, replies.greeting(self.name, reply)
        except RunnerError as error:
            process.close()
            # No file was loaded yet: whatever went wrong is the host's.
            raise HostError(
                error.message,
                fix=f"see what answers there: edgekit hosts check {self.name}",
            ) from error
        except BaseException:
            process.close()
            raise

    def _ways(self, artifact: Artifact, told: Mapping[str, Any]) -> list[ExecutionChoice]:
        if artifact.format not in RUNTIMES:
            raise RunnerError(
                f"No host runs the format {artifact.format!r}.",
                fix="export the artifact first; torch networks run with TorchRunner",
            )
        return [choose_execution(artifact.format, part, told) for part in artifact.parts]

    def _load(
        self,
        process: WorkerProcess,
        artifact: Artifact,
        prefix: str,
        ways: Sequence[ExecutionChoice],
        options: Mapping[str, Any],
    ) -> str:
        """Load every part as ``<prefix><part>``, check it against its signature, and tell
        where it runs.
        """
        runtime, wanted = "", dict(options)
        if not FORMATS[artifact.format].stand_in_optimized and all(
            found.stands_in for found in ways
        ):
            wanted = {"optimize": False, **wanted}
        for part, found in zip(artifact.parts, ways, strict=True):
            file = artifact.path(part, found.role)
            path = str(file.resolve())
            if not self.shares_files:
                path, wanted = (
                    copying.send(process, file, self.name, self.say),
                    {**wanted, "stored": True},
                )
            header = {
                "command": "load",
                "name": prefix + part.name,
                "path": path,
                "runtime": found.runtime,
                "threads": self.threads,
                "options": wanted,
            }
            reply, _ = process.ask(f"loading {file}", header)
            runtime, inputs, outputs = replies.loaded(self.name, reply)
            for told, specs in (
                (inputs, part.signature.inputs),
                (outputs, part.signature.outputs),
            ):
                _check(str(file), told, specs, by_name=found.runtime == "onnxruntime")
        notes = [
            f"{self.threads} thread" + ("" if self.threads == 1 else "s"),
            *(text for text in (ways[0].stands_in, ways[0].note, self.untimed) if text),
        ]
        if not ways[0].stands_in and wanted.get("optimize") is False:
            notes.append("optimizations off")
        return f"{self.name}: {', '.join([runtime, *notes])}"


class WorkerRunner:
    """An artifact that is loaded in a worker; leaving the context ends the worker."""

    def __init__(
        self,
        process: WorkerProcess,
        artifact: Artifact,
        where: str,
        samples: int | None = None,
    ) -> None:
        self.where = where
        self._process, self._artifact, self._samples = process, artifact, samples

    def __enter__(self) -> "WorkerRunner":
        return self

    def __exit__(self, *details: object) -> None:
        self._process.close()

    def infer(self, feeds: "Feeds") -> "dict[str, Array]":
        """The last part's outputs, as real numbers in the task's layout, for any number of
        samples.
        """
        self._artifact.parts[0].signature.check_feeds(
            feeds, f"Part {self._artifact.parts[0].name!r}"
        )
        return chain(
            self._artifact.parts,
            lambda part, known: _infer(
                self._process, part, part.name, known, self._samples
            ),
            feeds,
        )


def _check(
    path: str, told: Sequence[Mapping[str, Any]], specs: Sequence[TensorSpec], by_name: bool
) -> None:
    """Raise RunnerError unless the file's own inputs (or outputs) are those of the
    signature.
    """
    names, wanted = [row["name"] for row in told], [spec.name for spec in specs]
    if len(names) != len(wanted) or (by_name and set(names) != set(wanted)):
        raise RunnerError(
            f"{path} has the inputs or outputs {names}; its signature says {wanted}.",
            fix="build the artifact again",
        )
    for spec, row in zip(specs, _in_order(told, wanted), strict=True):
        theirs, ours = row["quantization"], spec.quantization
        if row["dtype"] != spec.dtype:
            raise RunnerError(
                f"{path}: {spec.name} is {row['dtype']}; its signature says {spec.dtype}.",
                fix="build the artifact again",
            )
        if theirs is not None and (
            ours is None
            or theirs[1] != ours.zero_point
            or abs(theirs[0] - ours.scale) > SAME_SCALE * ours.scale
        ):
            raise RunnerError(
                f"{path}: {spec.name} has scale and zero point {theirs}; its signature says {ours}.",
                fix="build the artifact again",
            )
        if spec.axes is not None and spec.axes[0] != 0:
            raise RunnerError(
                f"{path}: the first axis of {spec.name} is not the sample.",
                fix="export the part with the sample axis first",
            )


def _in_order(
    told: Sequence[Mapping[str, Any]], wanted: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The file's rows in the signature's order: by name where the names are the same, else
    as they come.
    """
    rows = {row["name"]: row for row in told}
    return [rows[name] for name in wanted] if set(rows) == set(wanted) else list(told)


def _infer(
    process: WorkerProcess,
    part: Part,
    name: str,
    feeds: "Feeds",
    samples: int | None = None,
) -> "dict[str, Array]":
    """One part on any number of samples, in pieces that are answered one by one;
    ``samples`` is how many a piece has.
    """
    part.signature.check_feeds(feeds, f"Part {part.name!r}")
    counts = {spec.name: len(feeds[spec.name]) for spec in part.signature.inputs}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise RunnerError(
            f"Part {part.name!r} needs one row a sample in every input, at least one; given: {counts}.",
            fix="give each input one row a sample",
        )
    batch = part.signature.inputs[0].static_batch or 1
    piece = (
        max(LARGEST_SLICE // batch, 1) if samples is None else -(-samples // batch)
    ) * batch
    pieces = []
    for start in range(0, next(iter(counts.values())), piece):
        encoded = {
            spec.name: spec.encode(feeds[spec.name][start : start + piece])
            for spec in part.signature.inputs
        }
        rows, specs = len(next(iter(encoded.values()))), part.signature.outputs
        largest = replies.largest(specs, rows, LARGEST_PAYLOAD)
        _, given = process.ask(
            f"running part {part.name!r}",
            {"command": "infer", "name": name},
            encoded,
            largest=largest,
        )
        found = replies.outputs(f"The runtime for part {part.name!r}", given, specs, rows)
        pieces.append(
            {
                spec.name: spec.decode(array)
                for spec, array in zip(specs, found, strict=True)
            }
        )
    return {
        key: numpy.concatenate([outputs[key] for outputs in pieces]) for key in pieces[0]
    }


def _record(
    process: WorkerProcess, artifact: Artifact, prefix: str, feeds: "Feeds"
) -> "dict[str, Array]":
    """The encoded inputs of every part for one sample, named ``<number of the
    part>:<input>``.
    """
    arrays: dict[str, Array] = {}

    def call(part: Part, known: "Feeds") -> "dict[str, Array]":
        number = artifact.parts.index(part)
        arrays.update(
            {
                f"{number}:{spec.name}": spec.encode(known[spec.name])
                for spec in part.signature.inputs
            }
        )
        return _infer(process, part, prefix + part.name, known)

    chain(artifact.parts, call, feeds)
    return arrays


def _refuse_to_time(name: str, artifact: Artifact, ways: Sequence[ExecutionChoice]) -> None:
    why = next((found.stands_in for found in ways if found.stands_in), "")
    if why:
        raise RunnerError(
            f"{name}: the speed of a {artifact.format} artifact cannot be taken on this host ({why}).",
            fix="time it on the device",
        )
    batch = max(
        spec.static_batch or 1 for part in artifact.parts for spec in part.signature.inputs
    )
    if batch > 1:
        raise RunnerError(
            f"{name}: the file takes {batch} samples at once; latency is taken with one.",
            fix="export with a free batch or batch 1",
        )
