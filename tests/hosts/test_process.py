"""A worker whose replies are invalid, too long, too late or missing."""

import json
import os
import pathlib
import resource
import shlex
import signal
import struct
import sys
import time
from typing import Any

import numpy
import psutil
import pytest

from edgekit.artifact import Artifact
from edgekit.contracts import BenchProtocol
from edgekit.device_worker import frames
from edgekit.errors import EdgekitError, HostError, RunnerError
from edgekit.hosts import process as workers
from edgekit.hosts.failures import Place
from edgekit.hosts.process import MAGIC, Start, WorkerProcess
from edgekit.hosts.runner import WorkerHost
from tests.hosts.test_local import artifact, linear

FEEDS = {"input": numpy.ones((3, 4), "float32")}
ROW = {"dtype": "float32", "shape": [None, 4], "quantization": None}
HELLO = {
    "python": "3.11.2",
    "machine": "x86_64",
    "system": "Linux",
    "pid": 1,
    "versions": {"numpy": "2.0"},
}
LOAD = {
    "runtime": "onnxruntime 1.0",
    "inputs": [{"name": "input", **ROW}],
    "outputs": [{"name": "output", **ROW, "shape": [None, 3]}],
}


class Script(Start):
    """A shell script in place of a worker."""

    def arguments(self) -> list[str]:
        """The words as they were given."""
        return list(self.command)


def script(text: str) -> Script:
    """A host ``board`` that runs a shell script."""
    return Script(("/bin/sh", "-c", text), place=Place("board"))


def answering(*replies: Any, folder: pathlib.Path) -> WorkerHost:
    """A host that reads frames and replies with these headers and payloads, whatever was
    requested.
    """
    program = folder / "replies.py"
    written = []
    for reply in replies:
        header, payload = reply if isinstance(reply, tuple) else (reply, b"")
        text = (
            header
            if isinstance(header, bytes)
            else json.dumps(
                {"arrays": [], **header} if isinstance(header, dict) else header
            ).encode()
        )
        written.append(struct.pack("<I", len(text)) + text + payload)
    program.write_text(f"""
import json, struct, sys, time
read, out = sys.stdin.buffer.read, sys.stdout.buffer
read(struct.unpack("<I", read(4))[0])
out.write({MAGIC!r}); out.flush()
sizes = {{"<f4": 4, "|u1": 1}}
for frame in {written!r}:
    header = json.loads(read(struct.unpack("<I", read(4))[0]))
    for name, dtype, shape in header["arrays"]:
        count = sizes[dtype]
        for dim in shape: count *= dim
        read(count)
    out.write(frame); out.flush()
sys.stdin.buffer.read()
""")
    return WorkerHost(
        "board",
        Script((sys.executable, str(program)), place=Place("board")),
        timeout_s=20,
    )


@pytest.fixture
def one(tmp_path: pathlib.Path) -> Artifact:
    """A linear network."""
    return artifact(tmp_path, linear(tmp_path))


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {**HELLO, "versions": 3},
        {**HELLO, "versions": {"numpy": 3}},
        {**HELLO, "python": "\x1b[31m3"},
        {**HELLO, "machine": "x" * 10_000},
        [],
        "text",
        b"{",
        b"[" * 90_000,
        ({"arrays": [["a", "|O", [1]]]}, b"12345678"),
        ({"arrays": [["a", "|u1", [5]]]}, b"12345"),
        {"error": 3},
        {"error": "missing"},
        {"error": "load", "message": "\x1b]0;evil\x07" * 9000},
    ],
)
def test_a_wrong_greeting_is_an_error(
    reply: Any, tmp_path: pathlib.Path
) -> None:
    """Missing and wrong keys, headers that are none, arrays that nobody asked for: an error
    as text that a terminal may print.
    """
    with pytest.raises(EdgekitError, match=r"board|this machine") as error:
        answering(reply, folder=tmp_path).hello()
    assert (
        all(
            letter.isprintable() or letter == "\n"
            for letter in str(error.value)
        )
        and len(str(error.value)) < 5_000
    )


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {**LOAD, "runtime": None},
        {**LOAD, "inputs": {}},
        {**LOAD, "inputs": [3]},
        {**LOAD, "inputs": [{"name": "input"}]},
        {**LOAD, "outputs": []},
        {**LOAD, "inputs": [{"name": "input", **ROW, "shape": 3}]},
        {**LOAD, "inputs": [{"name": "input", **ROW, "quantization": [1]}]},
        {**LOAD, "inputs": [{"name": "input", **ROW, "dtype": "object"}]},
        {**LOAD, "inputs": [{"name": ["input"], **ROW}]},
    ],
)
def test_a_wrong_answer_to_load_is_an_error(
    reply: Any, tmp_path: pathlib.Path, one: Artifact
) -> None:
    """The rows of inputs and outputs are read with care."""
    with pytest.raises(RunnerError, match="."):
        answering(HELLO, reply, folder=tmp_path).open(one)


def array(
    dtype: str, *shape: int, name: str = "output", payload: int | None = None
) -> Any:
    """An answer with one array of zeros."""
    count = int(numpy.prod(shape)) * 4 if payload is None else payload
    return {"arrays": [[name, dtype, list(shape)]]}, bytes(max(count, 0))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({}, "returned 0 outputs, expected 1"),
        (array("<f4", 2, 3), r"output as float32 \[2, 3\] for 3 samples"),
        (array("<f4", 3, 2), r"output as float32 \[3, 2\]"),
        (array("<i4", 3, 3), r"output as int32"),
        (array("<f4", 9), r"output as float32 \[9\]"),
        (array("|O", 3, 3), "unknown dtype"),
        (array("<f4", -1, 3), "is not a shape"),
        (
            array("<f4", 1 << 40, 1 << 20, payload=64),
            "expected arrays of at most 72 bytes",
        ),
        (
            array("<f4", 1 << 30, payload=64),
            "expected arrays of at most 72 bytes",
        ),
    ],
)
def test_a_wrong_answer_to_infer_is_an_error(
    reply: Any, message: str, tmp_path: pathlib.Path, one: Artifact
) -> None:
    """Another number, shape or dtype than the signature's, and sizes that nobody has:
    nothing is allocated for them.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        answering(HELLO, LOAD, reply, folder=tmp_path).open(one) as runner,
        pytest.raises(RunnerError, match=message),
    ):
        runner.infer(FEEDS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"a": [1.0] * 4},
        {"a": [1.0] * 6},
        {"a": ["1"] * 5},
        {"a": [-1.0] * 5},
        {"b": [1.0] * 5},
        {"a": 3},
        [1.0],
        {"a": [1.0] * 4 + [float("nan")]},
        {"a": [1.0] * 4 + [float("inf")]},
        {"a": [True] * 5},
    ],
)
def test_wrong_times_are_an_error(
    times: Any, tmp_path: pathlib.Path, one: Artifact
) -> None:
    """One finite time a round for each name, or none is believed."""
    replies = [
        HELLO,
        LOAD,
        array("<f4", 1, 3),
        {"inner": 1, "round_ns": 1e6},
        {"nanoseconds": times},
    ]
    with pytest.raises(
        RunnerError, match="Invalid reply to 'bench' from board"
    ):
        answering(*replies, folder=tmp_path).race(
            {"a": one}, FEEDS, BenchProtocol(rounds=5)
        )


@pytest.mark.parametrize(
    "round_ns", [None, "1", -1, float("nan"), float("inf")]
)
def test_a_wrong_warm_up_is_an_error(
    round_ns: Any, tmp_path: pathlib.Path, one: Artifact
) -> None:
    """How long a round takes sets how long is waited, so it is a finite number."""
    with pytest.raises(RunnerError, match="Invalid reply to 'warm' from board"):
        answering(
            HELLO,
            LOAD,
            array("<f4", 1, 3),
            {"inner": 1, "round_ns": round_ns},
            folder=tmp_path,
        ).race({"a": one}, FEEDS, BenchProtocol(rounds=5))


def test_a_round_that_would_take_a_year_is_not_waited_for(
    tmp_path: pathlib.Path, one: Artifact
) -> None:
    """The wait is bounded by what the warm-up has really taken."""
    host = answering(
        HELLO,
        LOAD,
        array("<f4", 1, 3),
        {"inner": 1, "round_ns": 3e16},
        folder=tmp_path,
    )
    began = time.monotonic()
    with pytest.raises(RunnerError, match="did not reply within"):
        WorkerHost("board", host.start, timeout_s=2).race(
            {"a": one}, FEEDS, BenchProtocol(rounds=1)
        )
    assert time.monotonic() - began < 20


def test_noise_without_end_is_an_error_at_once() -> None:
    """A flood on stdout is not read for ever, and one on stderr is neither kept in memory
    nor on the disk.
    """
    began = time.monotonic()
    with pytest.raises(
        RunnerError,
        match="Invalid output from board while saying hello: it keeps printing",
    ):
        WorkerProcess(script("yes noise"), 60).request(
            "saying hello", {"command": "hello"}
        )
    assert time.monotonic() - began < 30
    verbose = WorkerProcess(
        script("head -c 50000000 /dev/zero >&2; echo the end >&2; exit 9"), 60
    )
    with pytest.raises(
        HostError,
        match=r"Python did not start on board \(exit status 9\)(.|\n)*the end",
    ):
        verbose.request("saying hello", {"command": "hello"})
    assert len(verbose._stderr._tail) <= workers.TAIL


def test_a_line_without_end_is_an_error(tmp_path: pathlib.Path) -> None:
    """Zeros without a line break, too."""
    with pytest.raises(RunnerError, match="keeps printing"):
        WorkerProcess(script("cat /dev/zero"), 60).request(
            "saying hello", {"command": "hello"}
        )


def test_a_host_where_nothing_begins_is_reported_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A login that asks a question is given up after a fixed time, however long replies may
    take.
    """
    monkeypatch.setattr(workers, "START_S", 0.5)
    with pytest.raises(
        HostError,
        match=r"Python did not start on board within 0\.5 s while saying hello",
    ):
        WorkerProcess(script("exec sleep 600"), 300).request(
            "saying hello", {"command": "hello"}
        )


def test_a_worker_that_hangs_or_dies_is_reported_with_its_host(
    one: Artifact,
) -> None:
    """SIGSTOP and SIGKILL on a host that has a name."""
    host = WorkerHost(
        "board", Start((sys.executable,), place=Place("board")), timeout_s=60
    )
    for sent, message in (
        (signal.SIGSTOP, r"runtime on board did not reply within 0\.5 s"),
        (signal.SIGKILL, r"runtime on board crashed \(SIGKILL\)"),
    ):
        with host.open(one) as runner:
            runner._process._timeout_s = 0.5
            os.kill(runner._process.pid, sent)
            with pytest.raises(RunnerError, match=message):
                runner.infer(FEEDS)


def test_an_answer_after_the_deadline_is_late(tmp_path: pathlib.Path) -> None:
    """It is not taken for the answer to the next question: the process is gone."""
    program = tmp_path / "late.py"
    text = json.dumps({**HELLO, "arrays": []}).encode()
    frame = struct.pack("<I", len(text)) + text
    program.write_text(
        f"import sys, time\nout = sys.stdout.buffer\nout.write({MAGIC!r})\n"
        f"out.flush()\ntime.sleep(1.5)\nout.write({frame!r})\n"
    )
    late = WorkerProcess(
        Script((sys.executable, str(program)), place=Place("board")), 1
    )
    with pytest.raises(RunnerError, match="did not reply within 1 s"):
        late.request("saying hello", {"command": "hello"})
    with pytest.raises(RunnerError, match="has ended"):
        late.request("saying hello", {"command": "hello"})


def test_a_worker_that_nobody_waits_for_ends_itself(
    tmp_path: pathlib.Path,
) -> None:
    """Over there a call that hangs ends some seconds after its limit, although no signal
    from here can reach it.
    """
    hang = (
        "module.LATE_S = 0.5; module.Worker.hello = lambda *a, **k: time.sleep(600);"
        " module.main()"
    )
    early = f"import sys, time; exec(sys.argv[1].replace('module.main()', {hang!r}))"
    # Our own text is wrapped once more, so that the stand-in can change it.
    start = Script(
        (sys.executable, "-I", "-c", early, workers.BOOT), place=Place("board")
    )
    hanging = WorkerProcess(start, 60)
    with pytest.raises(
        EdgekitError,
        match=r"crashed \(exit status 1\) while saying hello(.|\n)*Timeout",
    ):
        _unwatched(hanging)


def _unwatched(process: WorkerProcess) -> None:
    """Ask with a limit for the other side only."""
    process._started = True
    stdin, stdout = process._process.stdin, process._process.stdout
    assert stdin is not None and stdout is not None
    stdin.write(workers.encode_sources())
    frames.write_frame(
        stdin, {"command": "hello", "folder": "", "limit_s": 0.5}
    )  # type: ignore[arg-type]
    while stdout.readline() != MAGIC:
        pass
    try:
        frames.read_frame(stdout)  # type: ignore[arg-type]
    except EOFError as error:
        raise process._explain("saying hello", error) from error


def test_forgotten_processes_leave_nothing(tmp_path: pathlib.Path) -> None:
    """No thread, descriptor or process of those that failed is left."""
    import threading

    me = psutil.Process()
    files, threads = me.num_fds(), threading.active_count()
    for text in ("exit 3", "yes", "exec sleep 600"):
        with pytest.raises(EdgekitError):
            WorkerProcess(script(text), 1).request(
                "saying hello", {"command": "hello"}
            )
    end = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.05)
    assert (
        me.num_fds(),
        threading.active_count(),
        [
            child
            for child in me.children()
            if "sleep 600" in shlex.join(child.cmdline())
        ],
    ) == (files, threads, [])


def test_what_a_script_has_started_is_ended_with_it() -> None:
    """A child that holds the pipes open does not make the wait longer than its limit."""
    process, began = (
        WorkerProcess(script("sleep 60 & wait"), 1.0),
        time.monotonic(),
    )
    with pytest.raises(EdgekitError):
        process.request("waiting", {"command": "hello"})
    assert time.monotonic() - began < 30
