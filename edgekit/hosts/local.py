"""This machine as a host: files run in a worker process of their own, so that a runtime's crash is an error and no more."""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy

from edgekit.artifact import Artifact, Form, Part, chain
from edgekit.contracts import BenchProtocol, Samples
from edgekit.errors import EdgekitError, MissingBackend, RunnerError
from edgekit.hosts import worker
from edgekit.signature import TensorSpec

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

WORKER = pathlib.Path(worker.__file__)
#: What loads the file of each form here.
RUNTIMES: Mapping[Form, str] = {"onnx": "onnxruntime", "tensorrt": "onnxruntime", "tflite": "litert", "edgetpu": "litert", "ort": "onnxruntime"}
#: Forms whose file only stands in for what the device runs.
STANDS_IN: Mapping[Form, str] = {
    "tensorrt": "same Q/DQ graph; TensorRT engine not executed",
    "edgetpu": "CPU; Edge TPU not executed",
}
#: How long a worker may take to end by itself once it is asked to.
GRACE_S = 5.0
#: How much of what a crashed worker has printed is told.
TAIL = 1500
#: The largest relative difference of two scales that are the same number, stored as float32 in one place.
SAME_SCALE = 1e-5


class WorkerProcess:
    """A running worker. Every answer is waited for at most ``timeout_s`` seconds; then the process is killed.

    It is in a process group of its own: Ctrl-C reaches edgekit alone, which ends the worker.
    """

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True)
        except OSError as error:
            self._said.close()
            raise RunnerError(f"The worker cannot be started: {error}.", fix=f"check that {command[0]} can be run") from error
        self._end = weakref.finalize(self, _end, self._process, self._said)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, doing: str, header: Mapping[str, Any], arrays: "Feeds | None" = None, timeout_s: float | None = None) -> "worker.Reply":
        """Send one frame and wait for its answer; ``doing`` says in an error what was going on.

        Raises MissingBackend where the runtime cannot be imported, RunnerError for all else. After a crash or a
        timeout the process is gone.
        """
        if not self._end.alive:
            raise RunnerError(f"The worker has ended, so it cannot go on {doing}.", fix="open the artifact again")
        limit = self._timeout_s if timeout_s is None else timeout_s
        try:
            with _watched(self._process, limit) as late:
                worker.write_frame(_pipe(self._process.stdin), dict(header), dict(arrays or {}))
                reply, outputs = worker.read_frame(_pipe(self._process.stdout))
        except (OSError, EOFError, ValueError) as error:
            raise self._ended(doing, limit if late.is_set() else None) from error
        except BaseException:
            self._end()
            raise
        if late.is_set():  # The answer came in the same moment; the process is gone all the same.
            raise self._ended(doing, limit)
        if "error" in reply:
            raise _translated(doing, str(reply["error"]), str(reply["message"]))
        return reply, outputs

    def close(self) -> None:
        """Ask the process to end, and see to it that it does."""
        if not self._end.alive:
            return
        try:
            with _watched(self._process, GRACE_S):
                with contextlib.suppress(OSError):
                    worker.write_frame(_pipe(self._process.stdin), {"command": "close"})
                self._process.wait()
        finally:
            self._end()

    def _ended(self, doing: str, limit: float | None) -> RunnerError:
        """The error for a worker that gave no answer, with the last of what it printed."""
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        code, tail = self._process.poll(), _tail(self._said)
        self._end()
        if limit is not None:
            return RunnerError(f"The runtime gave no answer within {limit:g} s while {doing}.", fix="give the host a longer timeout_s")
        said = f" Its last words:\n{tail}" if tail else ""
        return RunnerError(f"The runtime crashed ({_cause(code)}) while {doing}.{said}", fix="try another scheme or another version of the runtime")


@contextlib.contextmanager
def _watched(process: "subprocess.Popen[bytes]", limit_s: float) -> Iterator[threading.Event]:
    """Kill the process after ``limit_s`` seconds, which ends every wait for it; the event tells that this was done."""
    late = threading.Event()

    def expire() -> None:
        late.set()
        process.kill()

    watch = threading.Timer(limit_s, expire)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()
        watch.join()


def _end(process: "subprocess.Popen[bytes]", said: IO[bytes]) -> None:
    """Leave no process, no zombie and no open pipe behind."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    said.close()


def _pipe(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    return pipe


def _tail(said: IO[bytes]) -> str:
    said.seek(0, 2)
    said.seek(max(0, said.tell() - TAIL))
    return said.read().decode(errors="replace").strip()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"


def _translated(doing: str, kind: str, message: str) -> EdgekitError:
    """The worker's answer to a failure as an error of edgekit."""
    if kind == "missing":
        return MissingBackend(f"The runtime is missing while {doing}: {message}.", fix="pip install 'edgekit[onnx]' or 'edgekit[tflite]'")
    fix = {"load": "check that the file is whole and made for this runtime", "infer": "check that the data fit the file's inputs"}.get(kind)
    return RunnerError(f"The runtime failed while {doing}: {message}", fix=fix or "this is a fault of edgekit; please report it")


@dataclasses.dataclass(frozen=True)
class LocalHost:
    """This machine, on its CPU: ONNX files in ONNX Runtime, TFLite files in LiteRT.

    For a TensorRT artifact the Q/DQ graph of the engine runs in ONNX Runtime with its optimizations off, for an Edge TPU
    artifact the TFLite file runs on the CPU; ``where`` says so. ``timeout_s`` bounds the wait for each answer, an answer
    being at most 256 samples.
    """

    threads: int = 1
    timeout_s: float = 300.0

    def open(self, artifact: Artifact, options: Mapping[str, Any] | None = None) -> "LocalRunner":
        """Load the artifact. ``optimize``: False turns the runtime's graph optimizations off; ``samples``: how many are run at once."""
        given = dict(options or {})
        samples = given.pop("samples", None)
        process = self._start()
        try:
            return LocalRunner(process, artifact, _load(process, artifact, "", self.threads, given), samples)
        except BaseException:
            process.close()
            raise

    def race(self, artifacts: Mapping[str, Artifact], feeds: "Feeds", protocol: BenchProtocol) -> dict[str, Samples]:
        """Time the artifacts in turns in one process on the first sample of ``feeds``; raw times by the same names.

        One inference is the whole chain of an artifact's parts, arrays in and arrays out. Every part of the chain gets the
        inputs that it has for that sample. A round's time is the median of its calls; files that load in less than 0.2 s
        are loaded anew for each round. Raises RunnerError for a form whose speed here says nothing.
        """
        first = {name: array[:1] for name, array in feeds.items()}
        process = self._start()
        try:
            expected = 0.0
            for name, artifact in artifacts.items():
                _refuse_to_time(name, artifact)
                _load(process, artifact, f"{name}/", protocol.threads, {})
                arrays = _record(process, artifact, f"{name}/", first)
                warm = {"command": "warm", "name": name, "models": [f"{name}/{part.name}" for part in artifact.parts],
                        "warmup": protocol.warmup, "round_ms": protocol.round_ms}  # fmt: skip
                reply, _ = process.ask(f"warming up {name}", warm, arrays)
                expected += reply["round_ns"] / 1e9
            # A busy machine may need ten times as long as the warm-up has told.
            limit = self.timeout_s + 10 * protocol.rounds * expected
            reply, _ = process.ask("timing", {"command": "bench", "rounds": protocol.rounds, "seed": protocol.seed}, timeout_s=limit)
        finally:
            process.close()
        return {name: Samples(tuple(reply["nanoseconds"][name])) for name in artifacts}

    def _start(self) -> WorkerProcess:
        return WorkerProcess([sys.executable, "-I", str(WORKER)], self.timeout_s)


class LocalRunner:
    """An artifact that is loaded in a worker; leaving the context ends the worker."""

    def __init__(self, process: WorkerProcess, artifact: Artifact, where: str, samples: int | None = None) -> None:
        self.where = where
        self._process, self._artifact, self._samples = process, artifact, samples

    def __enter__(self) -> "LocalRunner":
        return self

    def __exit__(self, *details: object) -> None:
        self._process.close()

    def infer(self, feeds: "Feeds") -> "dict[str, Array]":
        """The last part's outputs, as real numbers in the task's layout, for any number of samples."""
        self._artifact.parts[0].signature.check_feeds(feeds, f"Part {self._artifact.parts[0].name!r}")
        return chain(self._artifact.parts, lambda part, known: _infer(self._process, part, part.name, known, self._samples), feeds)


def _load(process: WorkerProcess, artifact: Artifact, prefix: str, threads: int, options: Mapping[str, Any]) -> str:
    """Load every part as ``<prefix><part>``, check it against its signature, and tell where it runs."""
    if artifact.form not in RUNTIMES:
        raise RunnerError(f"The local host cannot run the form {artifact.form!r}.", fix="export the artifact first; torch networks run with TorchRunner")
    wanted = {"optimize": False, **options} if artifact.form == "tensorrt" else dict(options)
    runtime = ""
    for part in artifact.parts:
        header = {"command": "load", "name": prefix + part.name, "path": str(artifact.path(part).resolve()), "runtime": RUNTIMES[artifact.form],
                  "threads": threads, "options": wanted}  # fmt: skip
        reply, _ = process.ask(f"loading {artifact.path(part)}", header)
        runtime = reply["runtime"]
        for told, specs in ((reply["inputs"], part.signature.inputs), (reply["outputs"], part.signature.outputs)):
            _check(str(artifact.path(part)), told, specs, by_name=RUNTIMES[artifact.form] == "onnxruntime")
    notes = [f"{threads} thread" + ("" if threads == 1 else "s")]
    if artifact.form in STANDS_IN:
        notes.append(STANDS_IN[artifact.form])
    elif wanted.get("optimize") is False:
        notes.append("optimizations off")
    return f"local: {runtime}, {', '.join(notes)}"


def _check(path: str, told: Sequence[Mapping[str, Any]], specs: Sequence[TensorSpec], by_name: bool) -> None:
    """Raise RunnerError unless the file's own inputs (or outputs) are those of the signature."""
    names, wanted = [row["name"] for row in told], [spec.name for spec in specs]
    if len(names) != len(wanted) or (by_name and set(names) != set(wanted)):
        raise RunnerError(f"{path} has the inputs or outputs {names}; its signature says {wanted}.", fix="build the artifact again")
    for spec, row in zip(specs, _in_order(told, wanted), strict=True):
        theirs, ours = row["quantization"], spec.quantization
        if row["dtype"] != spec.dtype:
            raise RunnerError(f"{path}: {spec.name} is {row['dtype']}; its signature says {spec.dtype}.", fix="build the artifact again")
        if theirs is not None and (ours is None or theirs[1] != ours.zero_point or abs(theirs[0] - ours.scale) > SAME_SCALE * ours.scale):
            raise RunnerError(f"{path}: {spec.name} has scale and zero point {theirs}; its signature says {ours}.", fix="build the artifact again")
        if spec.axes is not None and spec.axes[0] != 0:
            raise RunnerError(f"{path}: the first axis of {spec.name} is not the sample.", fix="export the part with the sample axis first")


def _in_order(told: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[Mapping[str, Any]]:
    """The file's rows in the signature's order: by name where the names are the same, else as they come."""
    rows = {row["name"]: row for row in told}
    return [rows[name] for name in wanted] if set(rows) == set(wanted) else list(told)


def _infer(process: WorkerProcess, part: Part, name: str, feeds: "Feeds", samples: int | None = None) -> "dict[str, Array]":
    """One part on any number of samples, in pieces that are answered one by one; ``samples`` is how many a piece has."""
    part.signature.check_feeds(feeds, f"Part {part.name!r}")
    counts = {spec.name: len(feeds[spec.name]) for spec in part.signature.inputs}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise RunnerError(f"Part {part.name!r} needs one row a sample in every input, at least one; given: {counts}.", fix="give each input one row a sample")
    batch = part.signature.inputs[0].static_batch or 1
    piece = (max(worker.LARGEST_SLICE // batch, 1) if samples is None else -(-samples // batch)) * batch
    pieces = []
    for start in range(0, next(iter(counts.values())), piece):
        encoded = {spec.name: spec.encode(feeds[spec.name][start : start + piece]) for spec in part.signature.inputs}
        _, outputs = process.ask(f"running part {part.name!r}", {"command": "infer", "name": name}, encoded)
        pieces.append(_decoded(part, outputs))
    return {key: numpy.concatenate([outputs[key] for outputs in pieces]) for key in pieces[0]}


def _decoded(part: Part, outputs: "Feeds") -> "dict[str, Array]":
    specs = part.signature.outputs
    ordered = outputs.values() if set(outputs) != {spec.name for spec in specs} else [outputs[spec.name] for spec in specs]
    return {spec.name: spec.decode(array) for spec, array in zip(specs, ordered, strict=True)}


def _record(process: WorkerProcess, artifact: Artifact, prefix: str, feeds: "Feeds") -> "dict[str, Array]":
    """The encoded inputs of every part for one sample, named ``<number of the part>:<input>``."""
    arrays: dict[str, Array] = {}

    def call(part: Part, known: "Feeds") -> "dict[str, Array]":
        number = artifact.parts.index(part)
        arrays.update({f"{number}:{spec.name}": spec.encode(known[spec.name]) for spec in part.signature.inputs})
        return _infer(process, part, prefix + part.name, known)

    chain(artifact.parts, call, feeds)
    return arrays


def _refuse_to_time(name: str, artifact: Artifact) -> None:
    if artifact.form in STANDS_IN:
        why = STANDS_IN[artifact.form]
        raise RunnerError(f"{name}: the speed of a {artifact.form} artifact cannot be taken on this host ({why}).", fix="time it on the device")
    batch = max(spec.static_batch or 1 for part in artifact.parts for spec in part.signature.inputs)
    if batch > 1:
        raise RunnerError(f"{name}: the file takes {batch} samples at once; latency is taken with one.", fix="export with a free batch or batch 1")
