"""A worker that is running: a Python somewhere whose stdin and stdout reach us, and which was sent the code of ``onboard``.

Nothing is installed there and no file name is part of a command line: the command starts a bare Python with a text of our own
(``BOOT``), which reads the worker's source from stdin.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from edgekit import onboard
from edgekit.errors import EdgekitError, MissingBackend, RunnerError
from edgekit.onboard import frames

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

#: The files of the worker, each after those that it imports.
MODULES = ("frames", "batches", "store", "runtimes", "timing", "worker")
#: What the Python over there runs: it reads the worker's modules from stdin and starts the last one. Holds no single quote, for shells.
BOOT = """
import json, struct, sys, types
read = sys.stdin.buffer.read
package = types.ModuleType("onboard")
package.__path__ = []
sys.modules["onboard"] = package
sent = json.loads(read(struct.unpack("<I", read(4))[0]).decode())
sys.path[:0] = sent["paths"]
for name, text in sent["modules"]:
    module = types.ModuleType("onboard." + name)
    module.__package__ = "onboard"
    sys.modules[module.__name__] = module
    exec(compile(text, "<onboard/" + name + ".py>", "exec"), module.__dict__)
module.main()
"""
#: How long a worker may take to end by itself once it is asked to.
GRACE_S = 5.0
#: How much of what a crashed worker has printed is told.
TAIL = 1500


@dataclasses.dataclass(frozen=True)
class Start:
    """How a Python is started somewhere: words for the system, never for a shell of ours."""

    #: What comes before Python's own words: the interpreter, or ``ssh address`` and the like with the interpreter behind it.
    command: tuple[str, ...]
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: The words of Python are read by a shell on the other side (ssh, adb).
    shell: bool = False
    #: Folders over there where packages lie, beside the interpreter's own.
    paths: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The whole command. On the other side of a shell Python's words are quoted."""
        python = ["-I", "-c", BOOT]
        return [*self.command, *(f"'{word}'" if self.shell else word for word in python)]


@functools.cache
def sources(paths: tuple[str, ...] = ()) -> bytes:
    """The worker's modules as one block, as ``BOOT`` reads it: its length, then JSON."""
    folder = pathlib.Path(onboard.__file__).parent
    modules = [[name, (folder / f"{name}.py").read_text(encoding="utf-8")] for name in MODULES]
    text = json.dumps({"paths": paths, "modules": modules}).encode()
    return struct.pack("<I", len(text)) + text


class WorkerProcess:
    """A running worker. Every answer is waited for at most ``timeout_s`` seconds; then the process is killed.

    It is in a process group of its own: Ctrl-C reaches edgekit alone, which ends the worker.
    """

    def __init__(self, start: Start, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        command, environ = start.words(), {**os.environ, **start.environ}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True, env=environ)
        except OSError as error:
            self._said.close()
            raise RunnerError(f"The worker cannot be started: {error}.", fix=f"check that {command[0]} can be run") from error
        self._end = weakref.finalize(self, _end, self._process, self._said)
        self._greeted, self._paths = False, start.paths

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, doing: str, header: Mapping[str, Any], arrays: "Feeds | None" = None, timeout_s: float | None = None) -> "frames.Reply":
        """Send one frame and wait for its answer; ``doing`` says in an error what was going on.

        Raises MissingBackend where the runtime cannot be imported, RunnerError for all else. After a crash or a
        timeout the process is gone.
        """
        if not self._end.alive:
            raise RunnerError(f"The worker has ended, so it cannot go on {doing}.", fix="open the artifact again")
        limit = self._timeout_s if timeout_s is None else timeout_s
        try:
            with _watched(self._process, limit) as late:
                if not self._greeted:
                    _pipe(self._process.stdin).write(sources(self._paths))
                    self._greeted = True
                frames.write_frame(_pipe(self._process.stdin), dict(header), dict(arrays or {}))
                reply, outputs = frames.read_frame(_pipe(self._process.stdout))
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
                    frames.write_frame(_pipe(self._process.stdin), {"command": "close"})
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
