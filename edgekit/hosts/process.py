"""A worker that is running: a Python somewhere whose stdin and stdout reach us, and which
was sent the code of ``device_worker``.

Nothing is installed there and no file name is part of a command line: the command starts a
bare Python with a text of our own (``BOOT``), which reads the worker's source from stdin.
"""

import base64
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shlex
import struct
import subprocess
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekit import device_worker
from edgekit.device_worker import frames
from edgekit.errors import EdgekitError, RunnerError
from edgekit.hosts import failures
from edgekit.hosts import timeouts as ending

if TYPE_CHECKING:
    import numpy.typing

    from edgekit.device_worker.arrays import Reply

    Array = numpy.typing.NDArray[Any]
    Feeds = Mapping[str, Array]

#: The files that every worker needs; each runtime is one more, ``runtime_<name>.py``.
CORE_MODULES = (
    "arrays",
    "batches",
    "cuda",
    "edgetpu",
    "frames",
    "gpu_timing",
    "runtimes",
    "store",
    "timing",
    "worker",
)
#: The first line that our own text prints over there. What comes before it is a login
#: script's.
MAGIC = b"edgekit-worker 1\n"
#: The most that may come before it.
NOISE_BYTES = 1 << 16
#: What the Python over there runs: it reads the worker's modules from stdin and starts
#: ``worker``. Its first lines are for any Python, so that an old one can say that it is old;
#: what cannot be imported is answered like a runtime that is missing.
BOOT = """
import json, struct, sys, types, zlib
out, read = [getattr(stream, "buffer", stream) for stream in (sys.stdout, sys.stdin)]
read = read.read
out.write(b"\\nedgekit-worker 1\\n")
out.flush()
def refuse(kind, message):
    read(struct.unpack("<I", read(4))[0])
    text = json.dumps({"error": kind, "message": message, "arrays": []}).encode()
    out.write(struct.pack("<I", len(text)) + text)
    out.flush()
    sys.exit(3)
sent = zlib.decompress(read(struct.unpack("<I", read(4))[0]))
sent = json.loads(sent.decode())
if sys.version_info < (3, 9):
    refuse("python", "found Python " + sys.version.split()[0] + ", requires 3.9 or later")
sys.path[:0] = sent["paths"]
if sent["user"] and sys.prefix == sys.base_prefix:
    import site
    site.addsitedir(site.getusersitepackages())
package = types.ModuleType("device_worker")
package.__path__ = []
sys.modules["device_worker"] = package
import importlib, importlib.abc, importlib.util
class Sent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    texts = {"device_worker." + name: text for name, text in sent["modules"]}
    def find_spec(self, name, path=None, target=None):
        if name in self.texts:
            return importlib.util.spec_from_loader(name, self)
    def exec_module(self, module):
        path = "<" + module.__name__.replace(".", "/") + ".py>"
        exec(compile(self.texts[module.__name__], path, "exec"), module.__dict__)
sys.meta_path.insert(0, Sent())
try:
    for name in Sent.texts:
        importlib.import_module(name)
except ImportError as error:
    refuse("missing", "numpy cannot be imported: " + str(error).splitlines()[0])
module = sys.modules["device_worker.worker"]
module.main()
"""
#: The same as one line without a quote that a shell would read: csh takes no line break
#: between quotes.
_LINE = (
    f'import base64;exec(base64.b64decode("{base64.b64encode(BOOT.encode()).decode()}"))'
)
#: How long a Python may take to begin, and a connection to it to stand.
START_S = 60.0
#: How long a worker may take to end by itself once it is asked to.
GRACE_S = 5.0
#: How much of what a crashed worker has printed is told.
TAIL = 1500


@dataclasses.dataclass(frozen=True)
class Start:
    """How a Python is started somewhere: words for the system, never for a shell of ours."""

    #: What comes before Python's own words: the interpreter, or ``ssh address`` and the
    #: like with the interpreter behind it.
    command: tuple[str, ...]
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: The words of Python are read by a shell on the other side (ssh, adb).
    shell: bool = False
    #: Folders over there where packages lie, beside the interpreter's own.
    paths: tuple[str, ...] = ()
    #: What errors say of the place; empty: this machine.
    place: failures.Place = dataclasses.field(default_factory=failures.Place)

    def words(self) -> list[str]:
        """The whole command. On the other side of a shell Python's words are quoted."""
        python = ["-I", "-c", _LINE]
        return [
            *self.command,
            *(shlex.quote(word) if self.shell else word for word in python),
        ]


def worker_files() -> list[pathlib.Path]:
    """The files that are sent to a Python: the core and every runtime."""
    folder = pathlib.Path(device_worker.__file__).parent
    core = [folder / f"{name}.py" for name in CORE_MODULES]
    return [*core, *sorted(folder.glob("runtime_*.py"))]


@functools.cache
def sources(paths: tuple[str, ...] = (), user: bool = False) -> bytes:
    """The worker's modules as one block, as ``BOOT`` reads it: its length, then JSON.

    ``user``: with the packages of ``pip install --user``.
    """
    modules = [[path.stem, path.read_text(encoding="utf-8")] for path in worker_files()]
    text = json.dumps({"paths": paths, "user": user, "modules": modules}).encode()
    block = zlib.compress(text)
    return struct.pack("<I", len(block)) + block


class WorkerProcess:
    """A running worker.

    Every answer is waited for at most ``timeout_s`` seconds; then the process is killed.

    It is in a process group of its own: Ctrl-C reaches edgekit alone, which ends the
    worker.
    """

    def __init__(self, start: Start, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._start, self._started, self._noise = start, False, b""
        command, environ, pipe = (
            start.words(),
            {**os.environ, **start.environ},
            subprocess.PIPE,
        )
        try:
            self._process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
                env=environ,
            )
        except OSError as error:
            raise RunnerError(
                f"The worker cannot be started: {error}.",
                fix=f"check that {command[0]} can be run",
            ) from error
        self._said = _Said(self._process)
        self._end = weakref.finalize(self, _end, self._process, self._said)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(
        self,
        doing: str,
        header: Mapping[str, Any],
        arrays: "Feeds | None" = None,
        timeout_s: float | None = None,
        largest: int = 0,
    ) -> "Reply":
        """Send one frame and wait for its answer; ``doing`` says in an error what was going
        on.

        ``largest``: how many bytes the arrays of the answer may have. Raises MissingBackend
        where the runtime cannot be imported, HostError where another machine cannot be
        reached, RunnerError for all else. After a crash or a timeout the process is gone.
        """
        if not self._end.alive:
            raise RunnerError(
                f"The worker has ended, so it cannot go on {doing}.",
                fix="open the artifact again",
            )
        limit = self._timeout_s if timeout_s is None else timeout_s
        try:
            if not self._started:
                with _within(self._process, min(limit, START_S)):
                    self._greet()
            with _within(self._process, limit):
                frames.write_frame(
                    _pipe(self._process.stdin),
                    {**header, "limit_s": limit},
                    dict(arrays or {}),
                )
                reply, outputs = frames.read_frame(_pipe(self._process.stdout), largest)
        except (OSError, EOFError, ValueError) as error:
            raise self._failed(doing, error) from error
        except BaseException:
            self._end()
            raise
        if "error" in reply:
            raise failures.translated(
                self._start.place, doing, str(reply["error"]), str(reply.get("message"))
            )
        return reply, outputs

    def close(self) -> None:
        """Ask the process to end, and see to it that it does."""
        if not self._end.alive:
            return
        try:
            with contextlib.suppress(OSError), _within(self._process, GRACE_S):
                with contextlib.suppress(OSError):
                    frames.write_frame(_pipe(self._process.stdin), {"command": "close"})
                    _pipe(self._process.stdin).close()
                self._process.wait()
        finally:
            self._end()

    def _greet(self) -> None:
        """Send the worker's text, and read up to the line with which it begins; what a
        login script has printed before is kept for an error.
        """
        _pipe(self._process.stdin).write(sources(self._start.paths, self._start.shell))
        _pipe(self._process.stdin).flush()
        while True:
            line = _pipe(self._process.stdout).readline(NOISE_BYTES)
            if line == MAGIC:
                self._started = True
                return
            self._noise += line
            if not line:
                raise EOFError
            if len(self._noise) > NOISE_BYTES:
                raise ValueError("it prints more and more, and no worker begins")

    def _failed(self, doing: str, error: Exception) -> EdgekitError:
        """The error for a worker that gave no answer, with the last of what it printed."""
        place = self._start.place
        if isinstance(error, OSError | EOFError) and not isinstance(error, _Late):
            with contextlib.suppress(OSError):
                _pipe(self._process.stdin).close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        code = self._process.poll()
        ending.kill(self._process)
        said = self._said.tail()
        self._end()
        if isinstance(error, _Late):
            return failures.late(place, doing, error.limit_s, self._started)
        if isinstance(error, ValueError):
            return failures.garbled(place, doing, str(error))
        return failures.ended(
            place,
            failures.Ended(
                doing,
                code,
                said,
                self._noise[-TAIL:].decode(errors="replace").strip(),
                self._started,
            ),
        )


class _Late(OSError):
    """A process was killed because it took too long."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self.limit_s = limit_s


@contextlib.contextmanager
def _within(process: "subprocess.Popen[bytes]", limit_s: float) -> Iterator[None]:
    """Kill the process after ``limit_s`` seconds, which ends every wait for it; raises
    _Late where this was done.
    """
    with ending.deadline(process, limit_s) as late:
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            if late.is_set():
                raise _Late(limit_s) from error
            raise
    if (
        late.is_set()
    ):  # The answer came in the same moment; the process is gone all the same.
        raise _Late(limit_s)


class _Said:
    """The end of what a process prints to stderr, however much that is."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._kept = bytearray()
        self._reader = threading.Thread(
            target=_keep, args=(_pipe(process.stderr), self._kept), daemon=True
        )
        self._reader.start()

    def tail(self) -> str:
        """What there is once the process has ended."""
        self._reader.join(1.0)
        return bytes(self._kept[-TAIL:]).decode(errors="replace").strip()


def _keep(stream: Any, kept: bytearray) -> None:
    with stream:
        for block in iter(lambda: os.read(stream.fileno(), 1 << 16), b""):
            kept += block
            del kept[:-TAIL]


def _end(process: "subprocess.Popen[bytes]", said: _Said) -> None:
    """Leave no process, no zombie and no open pipe behind."""
    ending.kill(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    said.tail()


def _pipe(pipe: Any) -> Any:
    assert pipe is not None
    return pipe
