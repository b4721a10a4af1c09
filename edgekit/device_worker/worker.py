"""Loads model files and runs them for edgekit, on this machine or on a device.

Requires Python 3.9 or later, the standard library, numpy and one runtime. The source text of
this package is sent to a Python on the device (hosts/process.py). It reads requests from
stdin and writes one reply per request to stdout, both as frames (see ``frames``).

Commands: hello, have, put, clean, load, infer, warm, bench, close (see ``Worker``). The reply
to a failure has the header ``{"error": kind, "message": text}``; kinds: request, missing,
load, infer, store, full, damaged.

``limit_s`` in a request is how long the other side waits for the reply. Some seconds later
this process ends itself, so that nothing keeps running on a device whose connection was
lost. For the same reason a race checks after each round whether its input is still open.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import os
import platform
import random
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from . import cuda, edgetpu
from .batches import run_in_slices
from .frames import WorkerError, read_frame, write_frame
from .runtimes import LoadedModel, list_versions, load_model
from .store import Store
from .timing import LARGEST_RELOAD_NS, Track, run_call

if TYPE_CHECKING:
    from .tensors import Array, Reply

COMMANDS = ("hello", "have", "put", "clean", "load", "infer", "warm", "bench")
LOAD_OPTIONS = frozenset(("optimize", "stored", "weights"))
#: How long after the other side has stopped waiting this process ends itself.
LATE_S = 10.0


def _never() -> bool:
    return False


class Worker:
    """The loaded files and the tracks to be timed; one method per command.

    ``disconnected`` reports whether the other side no longer waits for a reply.
    """

    def __init__(self, disconnected: Callable[[], bool] = _never) -> None:
        self._disconnected = disconnected
        self._models: dict[str, LoadedModel] = {}
        #: Loads a file once more.
        self._loaders: dict[str, Callable[[], LoadedModel]] = {}
        self._tracks: dict[str, Track] = {}
        self._store = Store()

    def answer(self, header: dict[str, Any], arrays: dict[str, Array]) -> Reply:
        """Execute one request. Raises WorkerError."""
        arguments = dict(header)
        command = str(arguments.pop("command", ""))
        if command not in COMMANDS:
            raise WorkerError("request", f"unknown command {command!r}")
        try:
            reply: Reply = getattr(self, command)(arrays, **arguments)
        except (TypeError, KeyError) as error:
            raise WorkerError(
                "request", f"{command}: {type(error).__name__}: {error}"
            ) from error
        return reply

    def hello(self, arrays: dict[str, Array], *, folder: str = "") -> Reply:
        """Versions, machine, Python and devices. ``folder``: where model files are stored."""
        self._store = Store(folder)
        description = {
            "devices": {
                "edgetpu": edgetpu.find_devices(),
                "gpu": cuda.has_gpu(),
            },
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "pid": os.getpid(),
            "versions": list_versions(),
        }
        return description, {}

    def have(self, arrays: dict[str, Array], *, name: str) -> Reply:
        """How many bytes of a file are stored, whether it is complete, and whether a damaged
        one was removed.
        """
        count, complete, damaged = self._store.have(name)
        return {"bytes": count, "complete": complete, "damaged": damaged}, {}

    def put(
        self, arrays: dict[str, Array], *, name: str, offset: int, total: int
    ) -> Reply:
        """Store the next block of a file."""
        count, complete = self._store.put(name, offset, arrays["block"], total)
        return {"bytes": count, "complete": complete}, {}

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
        """Load a file under a name; the runtime's version and the file's inputs and outputs.

        ``options``: ``optimize`` (True) applies the runtime's graph optimizations;
        ``stored`` (False) means that ``path`` is a name in the store. ``weights`` is the file
        of the weights of a format that stores them separately, a path or a name likewise.
        """
        unknown = sorted(set(options) - LOAD_OPTIONS)
        if unknown:
            raise WorkerError(
                "request", f"unknown options: {', '.join(unknown)}"
            )
        weights = options.get("weights", "")
        if options.get("stored"):
            path = self._store.path(path)
            weights = self._store.path(weights) if weights else ""
        optimize = bool(options.get("optimize", True))
        loader = functools.partial(
            load_model, runtime, path, threads, optimize, weights
        )
        model = loader()
        self._models[name] = model
        self._loaders[name] = loader
        description = {
            "runtime": model.runtime,
            "inputs": model.inputs,
            "outputs": model.outputs,
        }
        return description, {}

    def infer(self, arrays: dict[str, Array], *, name: str) -> Reply:
        """Run a loaded file on any number of samples; outputs are named and ordered as in the
        reply to ``load``.
        """
        model = self._models[name]
        names = [row["name"] for row in model.outputs]

        def call(feeds: dict[str, Array]) -> dict[str, Array]:
            return dict(zip(names, run_call(model.bind(feeds))))

        shape = model.inputs[0]["shape"]
        batch = shape[0] if shape else None
        return {}, run_in_slices(arrays, batch, call)

    def warm(
        self,
        arrays: dict[str, Array],
        *,
        name: str,
        models: list[str],
        warmup: int,
        round_ms: float,
    ) -> Reply:
        """Prepare a track on fixed arrays, named ``<index of the file>:<input>``, and choose
        how often it is repeated so that one timing lasts ``round_ms``.

        Files that load quickly are reloaded in each round (``Track.reload_files``).
        """
        parts = []
        for index, model in enumerate(models):
            feeds = _select(arrays, f"{index}:")
            parts.append((self._loaders[model], feeds))
        track = self._tracks[name] = Track(parts)
        loading_ns = track.reload_files(random.Random(0))
        inference_ns = max(track.time(max(1, warmup)), 1.0)
        track.repetitions = max(1, -int(-round_ms * 1e6 // inference_ns))
        track.reload = loading_ns <= LARGEST_RELOAD_NS
        reply = {
            "inner": track.repetitions,
            "nanoseconds": inference_ns,
            "reload": track.reload,
            "round_ns": inference_ns * track.repetitions + loading_ns,
        }
        return reply, {}

    def bench(
        self, arrays: dict[str, Array], *, rounds: int, seed: int
    ) -> Reply:
        """Time all tracks interleaved, in another random order in each round.

        The reply contains, per track and round, nanoseconds per inference.
        """
        generator = random.Random(seed)
        order = sorted(self._tracks)
        times: dict[str, list[float]] = {name: [] for name in order}
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                if self._disconnected():
                    raise WorkerError("request", "the connection has ended")
                generator.shuffle(order)
                self._reload_tracks(order, generator)
                for name in order:
                    times[name].append(_time_track(self._tracks[name]))
        finally:
            gc.enable()
        return {"nanoseconds": times}, {}

    def _reload_tracks(
        self, order: list[str], generator: random.Random
    ) -> None:
        for name in order:
            if self._tracks[name].reload:
                self._tracks[name].reload_files(generator)


def _time_track(track: Track) -> float:
    if track.repetitions > 1:
        # One call that does not count: the previous track has filled the caches.
        track.time(1)
    return track.time(track.repetitions)


def _select(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {
        name[len(prefix) :]: array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until ``close`` or the end of the input."""
    worker = Worker(functools.partial(_is_closed, requests))
    while True:
        try:
            header, arrays = read_frame(requests)
        except EOFError:
            return
        if header.get("command") == "close":
            return
        limit_s = header.pop("limit_s", None)
        if limit_s:
            faulthandler.dump_traceback_later(limit_s + LATE_S, exit=True)
        try:
            reply, outputs = worker.answer(header, arrays)
        except WorkerError as error:
            reply = {"error": error.kind, "message": str(error)}
            outputs = {}
        write_frame(replies, reply, outputs)
        faulthandler.cancel_dump_traceback_later()


def _is_closed(requests: BinaryIO) -> bool:
    """Whether the other side has closed the pipe: it sends nothing while a request is being
    executed, so anything that can be read is the end.
    """
    return bool(select.select([requests], [], [], 0)[0])


def main() -> None:
    """Serve stdin, and keep stdout for frames: what a runtime prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    serve(sys.stdin.buffer, replies)
