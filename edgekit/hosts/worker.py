"""Loads model files and runs them for edgekit: one program of one file, for Python 3.9 and later.

It needs the standard library, numpy and one runtime (onnxruntime, ai_edge_litert or tflite_runtime), and nothing of
edgekit, so that it can be copied to a device. It is started as ``python -I worker.py`` and answers on stdout what it
is asked on stdin, one frame for one frame:

    4 bytes   length of the header, little-endian
    header    JSON; ``arrays`` lists [name, dtype, shape] of what follows
    payload   the arrays' bytes, in that order, C order

Commands: hello, load, infer, warm, bench, close (see ``Worker``). A failure is answered with the header
``{"error": kind, "message": text}``; kinds: request, missing, load, infer.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import random
import re
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Call = Callable[[], list[Array]]
    #: A header and the arrays that follow it.
    Reply = tuple[dict[str, Any], dict[str, Array]]

#: A file with a free batch is run on at most this many samples at once.
LARGEST_SLICE = 256
#: A file that is loaded and settled in this time is loaded anew for each round of a race.
LARGEST_RELOAD_NS = 200e6
LARGEST_PADDING, SETTLING = 1 << 16, 5
#: A longer header is no header but noise on the pipe.
LARGEST_HEADER = 1 << 24
DISTRIBUTIONS = ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime")
ORT_DTYPES = {"float": "float32", "float16": "float16", "double": "float64"}


class WorkerError(Exception):
    """A failure that is answered as a frame."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write_frame(stream: BinaryIO, header: dict[str, Any], arrays: dict[str, Array] | None = None) -> None:
    """Send one frame."""
    blocks = {name: numpy.ascontiguousarray(array).reshape(numpy.shape(array)) for name, array in (arrays or {}).items()}
    listing = [[name, block.dtype.str, list(block.shape)] for name, block in blocks.items()]
    text = json.dumps({**header, "arrays": listing}).encode()
    stream.write(struct.pack("<I", len(text)))
    stream.write(text)
    for block in blocks.values():
        stream.write(block.reshape(-1).view("uint8").data)
    stream.flush()


def read_frame(stream: BinaryIO) -> Reply:
    """Receive one frame. Raises EOFError where the other side has ended, ValueError where the bytes are no frame."""
    (length,) = struct.unpack("<I", _exactly(stream, 4))
    if length > LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes is no frame")
    header = json.loads(_exactly(stream, length).decode())
    arrays = {}
    for name, dtype, shape in header.pop("arrays"):
        count = int(numpy.prod(shape, dtype="int64"))
        block = _exactly(stream, count * numpy.dtype(dtype).itemsize)
        arrays[name] = numpy.frombuffer(block, dtype=dtype, count=count).reshape(shape)
    return header, arrays


def _exactly(stream: BinaryIO, count: int) -> bytes:
    block = stream.read(count)
    if len(block) < count:
        raise EOFError
    return block


def slices(count: int, batch: int | None) -> list[tuple[int, int, int]]:
    """How ``count`` samples are cut: (start, stop, samples to add so that a fixed batch is full)."""
    width = LARGEST_SLICE if batch is None else batch
    cuts = [(start, min(start + width, count)) for start in range(0, count, width)]
    return [(start, stop, 0 if batch is None else batch - (stop - start)) for start, stop in cuts]


def in_slices(arrays: dict[str, Array], batch: int | None, call: Callable[[dict[str, Array]], dict[str, Array]]) -> dict[str, Array]:
    """Run ``call`` on slices of the samples and join what it gives.

    A fixed batch that is not full is filled with copies of the last sample, whose outputs are dropped.
    Raises WorkerError where an input or output has no row for each sample.
    """
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(counts) < len(arrays) or len(set(counts.values())) != 1 or not all(counts.values()):
        raise WorkerError("request", f"every input needs one row a sample, at least one; the rows are {counts}")
    parts: dict[str, list[Array]] = {}
    for start, stop, missing in slices(next(iter(counts.values())), batch):
        cut = {name: array[start:stop] for name, array in arrays.items()}
        if missing:
            cut = {name: numpy.concatenate([array, numpy.repeat(array[-1:], missing, axis=0)]) for name, array in cut.items()}
        for name, output in call(cut).items():
            given = stop - start + missing
            if output.ndim == 0 or len(output) != given:
                raise WorkerError("infer", f"output {name} has shape {list(output.shape)} for {given} samples; its first axis is not the sample")
            parts.setdefault(name, []).append(output[: stop - start])
    return {name: numpy.concatenate(blocks) for name, blocks in parts.items()}


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU; inputs go by name."""

    def __init__(self, path: str, threads: int, optimize: bool) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise WorkerError("missing", f"onnxruntime cannot be imported: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._running = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.inputs = [_ort_row(given) for given in self._running.get_inputs()]
        self.outputs = [_ort_row(given) for given in self._running.get_outputs()]

    def bind(self, arrays: dict[str, Array]) -> Call:
        """One inference on these arrays, ready to be called again and again."""
        return lambda: list(self._running.run(None, arrays))


class TfliteModel:
    """A TFLite file in LiteRT (or the older tflite_runtime), on the CPU.

    Inputs go by name where the file's signature has the same names, else by order: the files' own names
    (``args_0``, ``args_1``) are sorted by their number.
    """

    def __init__(self, path: str, threads: int, optimize: bool) -> None:
        interpreter, resolvers, self.runtime = _litert()
        kind = resolvers.AUTO if optimize else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._running = interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=kind)
        self._running.allocate_tensors()
        inputs, outputs = self._details()
        self.inputs, self.outputs = [_tflite_row(*row) for row in inputs], [_tflite_row(*row) for row in outputs]
        self._input_index = [detail["index"] for _, detail in inputs]
        self._output_index = [detail["index"] for _, detail in outputs]

    def bind(self, arrays: dict[str, Array]) -> Call:
        """One inference on these arrays, their copying included, ready to be called again and again."""
        names = [row["name"] for row in self.inputs]
        ordered = [arrays[name] for name in names] if set(names) == set(arrays) else list(arrays.values())
        feeds = [(index, ordered[k]) for k, index in enumerate(self._input_index)]
        running, outputs = self._running, self._output_index

        def call() -> list[Array]:
            for index, array in feeds:
                running.set_tensor(index, array)
            running.invoke()
            return [running.get_tensor(index) for index in outputs]

        return call

    def _details(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        names = list(self._running.get_signature_list())
        if len(names) == 1:
            signature = self._running.get_signature_runner(names[0])
            found = signature.get_input_details(), signature.get_output_details()
        else:
            found = _named(self._running.get_input_details()), _named(self._running.get_output_details())
        return sorted(found[0].items(), key=_by_number), sorted(found[1].items(), key=_by_number)


def _litert() -> tuple[Any, Any, str]:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise WorkerError("missing", "neither ai_edge_litert nor tflite_runtime can be imported") from error
    name = "ai-edge-litert" if interpreter.__name__.startswith("ai_edge") else "tflite-runtime"
    return interpreter.Interpreter, interpreter.OpResolverType, f"{name} {_version(name)}"


def _named(details: Any) -> dict[str, Any]:
    return {detail["name"]: detail for detail in details}


def _by_number(item: tuple[str, Any]) -> list[Any]:
    """A key that sorts ``args_10`` after ``args_2``."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", item[0])]


def _ort_row(given: Any) -> dict[str, Any]:
    kind = str(given.type)[len("tensor(") : -1]
    shape = [dim if isinstance(dim, int) else None for dim in given.shape]
    return {"name": given.name, "dtype": ORT_DTYPES.get(kind, kind), "shape": shape, "quantization": None}


def _tflite_row(name: str, detail: Any) -> dict[str, Any]:
    scale, zero_point = detail["quantization"]
    shape = [int(dim) if dim >= 0 else None for dim in detail["shape_signature"]]
    quantization = [float(scale), int(zero_point)] if scale else None
    return {"name": name, "dtype": numpy.dtype(detail["dtype"]).name, "shape": shape, "quantization": quantization}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


RUNTIMES: dict[str, Any] = {"onnxruntime": OnnxModel, "litert": TfliteModel}


class Track:
    """What is timed as one: the files of an artifact, run one after another on fixed arrays."""

    def __init__(self, parts: list[tuple[Callable[[], Any], dict[str, Array]]]) -> None:
        self._parts = parts
        self.calls: list[Call] = []
        self.inner, self.reload = 1, True

    def fresh(self, chance: random.Random) -> float:
        """Load the files anew, at another place in memory, and let them settle. Nanoseconds that it took.

        Where a network lies decides some per cent of its speed; a copy that stays in one place would hand that to every
        round alike, and a file would seem faster than itself (Mytkowicz et al. 2009, "Producing wrong data without doing
        anything obviously wrong", ASPLOS).
        """
        start = time.perf_counter_ns()
        padding = bytearray(chance.randrange(1, LARGEST_PADDING))
        # The old ones go only after the new ones are there, or these would get the same place.
        self.calls = [make().bind({name: array.copy() for name, array in arrays.items()}) for make, arrays in self._parts]
        del padding
        self.time(SETTLING)
        return time.perf_counter_ns() - start

    def time(self, count: int) -> float:
        """Nanoseconds for one inference: the median of ``count`` calls, which a few interrupted ones do not move."""
        clock, calls, times = time.perf_counter_ns, self.calls, []
        before = clock()
        for _ in range(count):
            for call in calls:
                _run(call)
            now = clock()
            times.append(now - before)
            before = now
        return float(sorted(times)[count // 2])


class Worker:
    """The loaded files, and the calls that are being timed."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        #: How each file is loaded again.
        self._makers: dict[str, Callable[[], Any]] = {}
        self._tracks: dict[str, Track] = {}

    def answer(self, header: dict[str, Any], arrays: dict[str, Array]) -> Reply:
        """Do what a frame asks. Raises WorkerError."""
        asked = dict(header)
        command = str(asked.pop("command", ""))
        if command not in ("hello", "load", "infer", "warm", "bench"):
            raise WorkerError("request", f"no command is called {command!r}")
        try:
            result = getattr(self, command)(arrays, **asked)
        except (TypeError, KeyError) as error:
            raise WorkerError("request", f"{command}: {type(error).__name__}: {error}") from error
        return result  # type: ignore[no-any-return]

    def hello(self, arrays: dict[str, Array]) -> Reply:
        """Versions, machine and Python."""
        versions = {name: _version(name) for name in DISTRIBUTIONS if _version(name)}
        return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(), "pid": os.getpid(), "versions": versions}, {}

    def load(self, arrays: dict[str, Array], *, name: str, path: str, runtime: str, threads: int, options: dict[str, Any]) -> Reply:
        """Load a file under a name; tells the runtime's version and the file's inputs and outputs."""
        unknown = set(options) - {"optimize"}
        if runtime not in RUNTIMES or unknown:
            raise WorkerError("request", f"unknown runtime or options: {runtime} {sorted(unknown)}")
        if not os.path.isfile(path):  # noqa: PTH113
            raise WorkerError("load", f"there is no file {path}")

        def make() -> Any:
            try:
                return RUNTIMES[runtime](path, threads, bool(options.get("optimize", True)))
            except WorkerError:
                raise
            except Exception as error:
                raise WorkerError("load", f"{type(error).__name__}: {error}") from error

        model = self._models[name] = make()
        self._makers[name] = make
        return {"runtime": model.runtime, "inputs": model.inputs, "outputs": model.outputs}, {}

    def infer(self, arrays: dict[str, Array], *, name: str) -> Reply:
        """Run a loaded file on any number of samples; the outputs are named and ordered as ``load`` told them."""
        model = self._models[name]
        names = [row["name"] for row in model.outputs]

        def call(cut: dict[str, Array]) -> dict[str, Array]:
            given = _run(model.bind(cut))
            return {output: given[k] for k, output in enumerate(names)}

        shape = model.inputs[0]["shape"]
        return {}, in_slices(arrays, shape[0] if shape else None, call)

    def warm(self, arrays: dict[str, Array], *, name: str, models: list[str], warmup: int, round_ms: float) -> Reply:
        """Prepare a track on fixed arrays, named ``<number of the file>:<input>``, and choose its repetitions.

        It is loaded anew for each round where that takes little; large files are not.
        """
        parts = []
        for k, model in enumerate(models):
            prefix = f"{k}:"
            own = {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}
            parts.append((self._makers[model], own))
        track = self._tracks[name] = Track(parts)
        loading = track.fresh(random.Random(0))
        once = max(track.time(max(1, warmup)), 1.0)
        track.inner, track.reload = max(1, -int(-round_ms * 1e6 // once)), loading <= LARGEST_RELOAD_NS
        return {"inner": track.inner, "nanoseconds": once, "reload": track.reload, "round_ns": once * track.inner + loading}, {}

    def bench(self, arrays: dict[str, Array], *, rounds: int, seed: int) -> Reply:
        """Time all tracks in turns, in shuffled order in each round; nanoseconds for one inference, a number a round."""
        chance, order = random.Random(seed), sorted(self._tracks)
        times: dict[str, list[float]] = {name: [] for name in order}
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                chance.shuffle(order)
                for track in [self._tracks[name] for name in order if self._tracks[name].reload]:
                    track.fresh(chance)
                for name in order:
                    track = self._tracks[name]
                    if track.inner > 1:  # One call that does not count: the file before has filled the caches with its own.
                        track.time(1)
                    times[name].append(track.time(track.inner))
        finally:
            gc.enable()
        return {"nanoseconds": times}, {}


def _run(call: Call) -> list[Array]:
    try:
        return call()
    except Exception as error:
        raise WorkerError("infer", f"{type(error).__name__}: {error}") from error


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer frames until ``close`` or the end of the input."""
    worker = Worker()
    while True:
        try:
            header, arrays = read_frame(requests)
        except EOFError:
            return
        if header.get("command") == "close":
            return
        try:
            reply, outputs = worker.answer(header, arrays)
        except WorkerError as error:
            reply, outputs = {"error": error.kind, "message": str(error)}, {}
        write_frame(replies, reply, outputs)


def main() -> None:
    """Keep the pipe for frames only: whatever a runtime prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
