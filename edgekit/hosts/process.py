"""A running worker: a Python somewhere whose stdin and stdout are connected to edgekit, and
which was sent the code of ``device_worker``.

Nothing is installed there, and no file name is part of a command line: the command starts
Python with a constant text (``BOOT``), which reads the worker's source from stdin.
"""

import base64
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shlex
import signal
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

if TYPE_CHECKING:
    from edgekit.arrays import Feeds
    from edgekit.device_worker.tensors import Reply

#: The files that every worker needs; each runtime is one more, ``runtime_<name>.py``.
CORE_MODULES = (
    "batches",
    "cuda",
    "edgetpu",
    "frames",
    "runtimes",
    "store",
    "tensors",
    "timing",
    "worker",
)
#: The first line that ``BOOT`` prints. What comes before it is from a login script.
MAGIC = b"edgekit-worker 1\n"
#: The most bytes that may come before it.
NOISE_BYTES = 1 << 16
#: What the Python on the host runs: it reads the worker's modules from stdin and starts
#: ``worker``. Its first lines work in any Python, so that an old one can report that it is
#: old; a failing import is reported like a missing runtime.
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
#: The same as one line without a quote that a shell would read: csh allows no line break
#: between quotes.
_LINE = f'import base64;exec(base64.b64decode("{base64.b64encode(BOOT.encode()).decode()}"))'
#: How long a Python may take to start, and a connection to it to be established.
START_S = 60.0
#: How long a worker may take to end by itself once it is asked to.
GRACE_S = 5.0
#: How many bytes of a crashed worker's output are shown.
TAIL = 1500


@dataclasses.dataclass(frozen=True)
class Start:
    """How a Python is started somewhere: arguments for the system, never for a local shell."""

    #: What precedes Python's own arguments: the interpreter, or ``ssh address`` and the like
    #: followed by the interpreter.
    command: tuple[str, ...]
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: A shell on the other side reads Python's arguments (ssh, adb).
    shell: bool = False
    #: Folders of packages on the host, in addition to the interpreter's own.
    paths: tuple[str, ...] = ()
    #: The place for errors; by default this machine.
    place: failures.Place = dataclasses.field(default_factory=failures.Place)

    def arguments(self) -> list[str]:
        """The entire command; Python's arguments are quoted if a shell reads them."""
        python = ["-I", "-c", _LINE]
        if self.shell:
            python = [shlex.quote(argument) for argument in python]
        return [*self.command, *python]


def worker_files() -> list[pathlib.Path]:
    """The files that are sent to a Python: the core and every runtime."""
    folder = pathlib.Path(device_worker.__file__).parent
    core = [folder / f"{name}.py" for name in CORE_MODULES]
    return [*core, *sorted(folder.glob("runtime_*.py"))]


@functools.cache
def encode_sources(paths: tuple[str, ...] = (), user: bool = False) -> bytes:
    """The worker's modules as one block for ``BOOT``: its length, then compressed JSON.

    ``user``: also use the packages of ``pip install --user``. Compressed, the block fits
    into the buffer of a pipe, so that sending it never blocks on a program that does not
    read.
    """
    modules = [
        [path.stem, path.read_text(encoding="utf-8")] for path in worker_files()
    ]
    text = json.dumps(
        {"paths": paths, "user": user, "modules": modules}
    ).encode()
    block = zlib.compress(text)
    return struct.pack("<I", len(block)) + block


class WorkerProcess:
    """A running worker.

    Waits at most ``timeout_s`` seconds for every reply; then the process is killed. It is in
    its own process group: Ctrl-C reaches edgekit alone, which ends the worker.
    """

    def __init__(self, start: Start, timeout_s: float) -> None:
        self._start = start
        self._timeout_s = timeout_s
        self._started = False
        self._early_output = b""
        command = start.arguments()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, **start.environ},
            )
        except OSError as error:
            raise RunnerError(
                f"The worker cannot be started: {error}.",
                fix=f"check that {command[0]} can be run",
            ) from error
        self._stderr = _StderrTail(self._process)
        self._end = weakref.finalize(self, _end, self._process, self._stderr)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def request(
        self,
        activity: str,
        header: Mapping[str, Any],
        arrays: "Feeds | None" = None,
        timeout_s: float | None = None,
        largest: int = 0,
    ) -> "Reply":
        """Send one frame and wait for the reply.

        ``activity`` completes "... while" in an error; ``largest`` is the most bytes that
        the arrays of the reply may have. Raises MissingBackend if the runtime cannot be
        imported, HostError if another machine cannot be reached, else RunnerError. After a
        crash or a timeout the process has ended.
        """
        if not self._end.alive:
            raise RunnerError(
                f"The worker has ended and cannot continue {activity}.",
                fix="open the artifact again",
            )
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            if not self._started:
                with _time_limit(self._process, min(limit_s, START_S)):
                    self._wait_for_start()
            with _time_limit(self._process, limit_s):
                frames.write_frame(
                    _require(self._process.stdin),
                    {**header, "limit_s": limit_s},
                    dict(arrays or {}),
                )
                stdout = _require(self._process.stdout)
                reply, outputs = frames.read_frame(stdout, largest)
        except (OSError, EOFError, ValueError) as error:
            raise self._explain(activity, error) from error
        except BaseException:
            self._end()
            raise
        if "error" in reply:
            kind, message = str(reply["error"]), str(reply.get("message"))
            raise failures.translate_error(
                self._start.place, activity, kind, message
            )
        return reply, outputs

    def close(self) -> None:
        """Ask the process to end, and make sure that it does."""
        if not self._end.alive:
            return
        try:
            with (
                contextlib.suppress(OSError),
                _time_limit(self._process, GRACE_S),
            ):
                with contextlib.suppress(OSError):
                    stdin = _require(self._process.stdin)
                    frames.write_frame(stdin, {"command": "close"})
                    stdin.close()
                self._process.wait()
        finally:
            self._end()

    def _wait_for_start(self) -> None:
        """Send the worker's source, and read up to its first line; what a login script has
        printed before is kept for an error.
        """
        stdin = _require(self._process.stdin)
        stdin.write(encode_sources(self._start.paths, self._start.shell))
        stdin.flush()
        while True:
            line = _require(self._process.stdout).readline(NOISE_BYTES)
            if line == MAGIC:
                self._started = True
                return
            self._early_output += line
            if not line:
                raise EOFError
            if len(self._early_output) > NOISE_BYTES:
                raise ValueError("it keeps printing, and no worker starts")

    def _explain(self, activity: str, error: Exception) -> EdgekitError:
        """End the process, and the error for it, with the end of what it printed."""
        place = self._start.place
        has_ended = isinstance(error, OSError | EOFError) and not isinstance(
            error, _Late
        )
        if has_ended:
            with contextlib.suppress(OSError):
                _require(self._process.stdin).close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        code = self._process.poll()
        kill_group(self._process)
        stderr = self._stderr.read()
        self._end()
        if isinstance(error, _Late):
            return failures.explain_timeout(
                place, activity, error.limit_s, self._started
            )
        if isinstance(error, ValueError):
            return failures.explain_invalid_output(place, activity, str(error))
        early_output = (
            self._early_output[-TAIL:].decode(errors="replace").strip()
        )
        report = failures.ExitReport(
            activity, code, stderr, early_output, self._started
        )
        return failures.explain_exit(place, report)


class _Late(OSError):
    """A process was killed because it took too long."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self.limit_s = limit_s


@contextlib.contextmanager
def _time_limit(
    process: "subprocess.Popen[bytes]", limit_s: float
) -> Iterator[None]:
    """Kill the process after ``limit_s`` seconds, which ends every wait for it; raises
    _Late if that happened.
    """
    with deadline(process, limit_s) as expired:
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            if expired.is_set():
                raise _Late(limit_s) from error
            raise
    # The reply may have come at the same moment; the process is killed all the same.
    if expired.is_set():
        raise _Late(limit_s)


class _StderrTail:
    """The end of what a process prints to stderr, however much that is."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._tail = bytearray()
        self._reader = threading.Thread(
            target=_keep_tail,
            args=(_require(process.stderr), self._tail),
            daemon=True,
        )
        self._reader.start()

    def read(self) -> str:
        """The text, once the process has ended."""
        self._reader.join(1.0)
        return bytes(self._tail[-TAIL:]).decode(errors="replace").strip()


def _keep_tail(stream: Any, tail: bytearray) -> None:
    with stream:
        for block in iter(lambda: os.read(stream.fileno(), 1 << 16), b""):
            tail += block
            del tail[:-TAIL]


def _end(process: "subprocess.Popen[bytes]", stderr: _StderrTail) -> None:
    """Leave no process, no zombie and no open pipe."""
    kill_group(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    stderr.read()


def _require(pipe: Any) -> Any:
    assert pipe is not None
    return pipe


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a running program and its children, which would keep our pipes open."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def deadline(
    process: "subprocess.Popen[bytes]", limit_s: float
) -> Iterator[threading.Event]:
    """Kill the program after ``limit_s`` seconds, which ends every wait for it.

    The event is set if that happened.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill_group(process)

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()
