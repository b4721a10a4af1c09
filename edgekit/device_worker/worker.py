"""Loads model files and runs them for edgekit, on this machine or on a device, for Python
3.9 and later.

The room ``device_worker`` needs the standard library, numpy and one runtime (onnxruntime,
ai_edge_litert or tflite_runtime), and nothing of edgekit: its text is sent to a Python on
the device (hosts/process.py), which answers on stdout what it is asked on stdin, one frame
for one frame (see ``frames``).

Commands: hello, have, put, clean, load, infer, warm, bench, close (see ``Worker``). A
failure is answered with the header ``{"error": kind, "message": text}``; kinds: request,
missing, load, infer, store, full, damaged.

A header's ``limit_s`` is how long the answer is waited for over there: some seconds later
this process ends itself, so that nothing is left running on a device whose connection was
lost. For the same reason a race looks after each round whether its input is still open.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import platform
import random
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from . import edgetpu, tensorrt_engine
from .batches import in_slices
from .frames import WorkerError, read_frame, write_frame
from .runtimes import RUNTIMES, version
from .store import Store
from .timing import LARGEST_RELOAD_NS, Track, run

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    #: A header and the arrays that follow it.
    Reply = tuple[dict[str, Any], dict[str, Array]]

COMMANDS = ("hello", "have", "put", "clean", "load", "infer", "warm", "bench")
#: How long after the other side has stopped waiting this process ends itself.
LATE_S = 10.0
DISTRIBUTIONS = (
    "numpy",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-runtime",
    "tensorrt",
    "tensorrt-rtx",
)


class Worker:
    """The loaded files, and the calls that are being timed."""

    def __init__(self, gone: Callable[[], bool] = lambda: False) -> None:
        #: Whether nobody waits for an answer any more.
        self._gone = gone
        self._models: dict[str, Any] = {}
        #: How each file is loaded again.
        self._makers: dict[str, Callable[[], Any]] = {}
        self._tracks: dict[str, Track] = {}
        self._store = Store()

    def answer(self, header: dict[str, Any], arrays: dict[str, Array]) -> Reply:
        """Do what a frame asks. Raises WorkerError."""
        asked = dict(header)
        command = str(asked.pop("command", ""))
        if command not in COMMANDS:
            raise WorkerError("request", f"no command is called {command!r}")
        try:
            result = getattr(self, command)(arrays, **asked)
        except (TypeError, KeyError) as error:
            raise WorkerError(
                "request", f"{command}: {type(error).__name__}: {error}"
            ) from error
        return result  # type: ignore[no-any-return]

    def hello(self, arrays: dict[str, Array], *, folder: str = "") -> Reply:
        """Versions, machine and Python. ``folder``: where files are kept here."""
        self._store = Store(folder)
        versions = {name: version(name) for name in DISTRIBUTIONS if version(name)}
        devices = {"edgetpu": edgetpu.sticks(), "gpu": tensorrt_engine.present()}
        return {
            "devices": devices,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "pid": os.getpid(),
            "versions": versions,
        }, {}

    def have(self, arrays: dict[str, Array], *, name: str) -> Reply:
        """How many bytes of a file are in the store, whether it is whole, and whether a
        damaged one was removed.
        """
        count, whole, damaged = self._store.have(name)
        return {"bytes": count, "whole": whole, "damaged": damaged}, {}

    def put(self, arrays: dict[str, Array], *, name: str, offset: int, whole: int) -> Reply:
        """Take the next block of a file into the store."""
        count, done = self._store.put(name, offset, arrays["block"], whole)
        return {"bytes": count, "whole": done}, {}

    def clean(self, arrays: dict[str, Array]) -> Reply:
        """Remove every file of the store."""
        files, count = self._store.clean()
        return {"files": files, "bytes": count}, {}

    def load(
        self,
        arrays: dict[str, Array],
        *,
        name: str,
        path: str,
        runtime: str,
        threads: int,
        options: dict[str, Any],
    ) -> Reply:
        """Load a file under a name; tells the runtime's version and the file's inputs and
        outputs. With ``stored`` the path is a name in the store.
        """
        unknown = set(options) - {"optimize", "stored"}
        if runtime not in RUNTIMES or unknown:
            raise WorkerError(
                "request", f"unknown runtime or options: {runtime} {sorted(unknown)}"
            )
        path = self._store.path(path) if options.get("stored") else path
        if not os.path.isfile(path):
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
        return {
            "runtime": model.runtime,
            "inputs": model.inputs,
            "outputs": model.outputs,
        }, {}

    def infer(self, arrays: dict[str, Array], *, name: str) -> Reply:
        """Run a loaded file on any number of samples; the outputs are named and ordered as
        ``load`` told them.
        """
        model = self._models[name]
        names = [row["name"] for row in model.outputs]

        def call(cut: dict[str, Array]) -> dict[str, Array]:
            given = run(model.bind(cut))
            return {output: given[k] for k, output in enumerate(names)}

        shape = model.inputs[0]["shape"]
        return {}, in_slices(arrays, shape[0] if shape else None, call)

    def warm(
        self,
        arrays: dict[str, Array],
        *,
        name: str,
        models: list[str],
        warmup: int,
        round_ms: float,
    ) -> Reply:
        """Prepare a track on fixed arrays, named ``<number of the file>:<input>``, and
        choose its repetitions.

        It is loaded anew for each round where that takes little; large files are not.
        """
        parts = []
        for k, model in enumerate(models):
            prefix = f"{k}:"
            own = {
                key[len(prefix) :]: array
                for key, array in arrays.items()
                if key.startswith(prefix)
            }
            parts.append((self._makers[model], own))
        track = self._tracks[name] = Track(parts)
        loading = track.fresh(random.Random(0))
        once = max(track.time(max(1, warmup)), 1.0)
        track.inner, track.reload = (
            max(1, -int(-round_ms * 1e6 // once)),
            loading <= LARGEST_RELOAD_NS,
        )
        return {
            "inner": track.inner,
            "nanoseconds": once,
            "reload": track.reload,
            "round_ns": once * track.inner + loading,
        }, {}

    def bench(self, arrays: dict[str, Array], *, rounds: int, seed: int) -> Reply:
        """Time all tracks in turns, in shuffled order in each round; nanoseconds for one
        inference, a number a round.
        """
        chance, order = random.Random(seed), sorted(self._tracks)
        times: dict[str, list[float]] = {name: [] for name in order}
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                if self._gone():
                    raise WorkerError("request", "the connection has ended")
                chance.shuffle(order)
                for track in [
                    self._tracks[name] for name in order if self._tracks[name].reload
                ]:
                    track.fresh(chance)
                for name in order:
                    track = self._tracks[name]
                    if (
                        track.inner > 1
                        # One call that does not count: the file before has filled the caches
                        # with its own.
                    ):
                        track.time(1)
                    times[name].append(track.time(track.inner))
        finally:
            gc.enable()
        return {"nanoseconds": times}, {}


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer frames until ``close`` or the end of the input."""
    worker = Worker(lambda: _ended(requests))
    while True:
        try:
            header, arrays = read_frame(requests)
        except EOFError:
            return
        if header.get("command") == "close":
            return
        limit = header.pop("limit_s", None)
        if limit:
            faulthandler.dump_traceback_later(limit + LATE_S, exit=True)
        try:
            reply, outputs = worker.answer(header, arrays)
        except WorkerError as error:
            reply, outputs = {"error": error.kind, "message": str(error)}, {}
        write_frame(replies, reply, outputs)
        faulthandler.cancel_dump_traceback_later()


def _ended(requests: BinaryIO) -> bool:
    """Whether the pipe was closed over there: asked while nothing is sent, so anything to
    be read is its end.
    """
    return bool(select.select([requests], [], [], 0)[0])


def main() -> None:
    """Keep the pipe for frames only: whatever a runtime prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, replies)
