"""Files on a machine over a real OpenSSH server: the same numbers as here, and every way in
which the connection fails.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy
import psutil
import pytest

from edgekit.contracts import BenchProtocol
from edgekit.errors import EdgekitError, HostError, MissingBackend, RunnerError
from edgekit.host import HostFile
from edgekit.hosts import lookup
from edgekit.hosts.local import LocalHost
from edgekit.hosts.process import WorkerProcess
from edgekit.hosts.runner import WorkerHost
from edgekit.hosts.ssh import Ssh
from edgekit.progress import Silent
from tests.hosts import sshd
from tests.hosts.test_local import (
    artifact,
    image_artifact,
    images,
    linear,
    tflite,
)

VALUES = numpy.random.default_rng(0).standard_normal((300, 4)).astype("float32")
PROTOCOL = BenchProtocol(rounds=8, warmup=2, round_ms=0.2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A server for all tests of this file."""
    with sshd.serving(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


@pytest.fixture
def server(running: sshd.Server) -> Iterator[sshd.Server]:
    """The server, with its client's configuration as it was at first."""
    known_hosts = (running.folder / "known_hosts").read_text()
    yield running
    (running.folder / "known_hosts").write_text(known_hosts)
    running.configure()


def host(
    server: sshd.Server,
    store: pathlib.Path | None = None,
    *python: str,
    **changes: Any,
) -> WorkerHost:
    """The server as a host of edgekit."""
    return Ssh(
        server.host_file(
            *python, store=str(store or server.folder / "store"), **changes
        )
    ).host("main")


def raised(server: sshd.Server, *python: str, **changes: Any) -> str:
    """The text of the HostError that saying hello ends with."""
    with pytest.raises(HostError) as error:
        host(server, None, *python, **changes).hello()
    return str(error.value)


def test_an_onnx_file_gives_the_same_numbers_there(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The file is copied under its hash, runs there, and computes bit for bit what it computes
    here.
    """
    example, store = artifact(tmp_path, linear(tmp_path)), tmp_path / "store"
    with (
        LocalHost().open(example) as here,
        host(server, store).open(example) as there,
    ):
        assert numpy.array_equal(
            here.infer({"input": VALUES})["output"],
            there.infer({"input": VALUES})["output"],
        )
        assert there.where.startswith("board: onnxruntime ")
    (copied,) = store.iterdir()
    assert copied.read_bytes() == (tmp_path / "main.onnx").read_bytes()


@pytest.mark.parametrize("name", ["float", "int8"])
def test_a_tflite_file_gives_the_same_numbers_there(
    server: sshd.Server, tmp_path: pathlib.Path, tflite: pathlib.Path, name: str
) -> None:
    """Float and integer files, fed in the task's layout."""
    example = image_artifact(tflite, name)
    with (
        LocalHost().open(example) as here,
        host(server, tmp_path / "store").open(example) as there,
    ):
        assert numpy.array_equal(
            here.infer({"input": images(20)})["output"],
            there.infer({"input": images(20)})["output"],
        )


def test_files_are_raced_there(
    server: sshd.Server, tmp_path: pathlib.Path, tflite: pathlib.Path
) -> None:
    """Raw times of every round come back."""
    times = host(server, tmp_path / "store").race(
        {name: image_artifact(tflite, name) for name in ("float", "int8")},
        {"input": images(1)},
        PROTOCOL,
    )
    assert {
        name: len(samples.nanoseconds) for name, samples in times.items()
    } == {
        "float": 8,
        "int8": 8,
    }
    assert all(
        time > 100 for samples in times.values() for time in samples.nanoseconds
    )


def test_setting_up_reports_what_is_there_and_changes_nothing(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The runtimes are named; no folder is created."""
    messages: list[str] = []

    class Listening(Silent):
        def finish(self, note: str = "") -> None:
            messages.append(note)

    kind = Ssh(server.host_file(store=str(tmp_path / "store")))
    kind.setup(Listening())
    assert (
        kind.problem("main") is None
        and len(messages) == 1
        and "onnxruntime" in messages[0]
        and "ai-edge-litert" in messages[0]
    )
    assert not (tmp_path / "store").exists()


def test_a_machine_without_numpy_or_runtime_is_reported_with_the_command(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The command to type is for that machine."""
    for hidden, package in (
        ({"numpy"}, "numpy"),
        ({"onnxruntime", "ai_edge_litert"}, "onnxruntime"),
    ):
        program = tmp_path / f"without {package}"
        code = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); exec(sys.argv.pop())"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -I -c {shlex.quote(code)} "$3"\n'
        )
        program.chmod(0o755)
        with pytest.raises(MissingBackend) as error:
            host(server, tmp_path / "store", str(program)).open(
                artifact(tmp_path, linear(tmp_path))
            )
        assert (
            package in error.value.message and "on board" in error.value.message
        )
        assert (
            error.value.fix is not None
            and "ssh -F" in error.value.fix
            and error.value.fix.endswith(f"-m pip install {package}")
        )
        assert "without" in error.value.fix


def test_a_file_that_is_newer_than_the_runtime_is_reported(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """An ONNX file of a later version is an error whose fix is a newer runtime there."""
    import onnx

    example = artifact(tmp_path, linear(tmp_path))
    model = onnx.load(tmp_path / "main.onnx")
    model.ir_version = 99
    onnx.save(model, tmp_path / "main.onnx")
    with pytest.raises(
        RunnerError,
        match=r"on board is older than the file(.|\n)*pip install --upgrade onnxruntime",
    ):
        host(server, tmp_path / "store").open(example)


def test_a_tflite_file_that_is_newer_than_the_runtime_is_reported(
    server: sshd.Server, tmp_path: pathlib.Path, tflite: pathlib.Path
) -> None:
    """Operators of a version that LiteRT does not know: the fix is a newer LiteRT
    there.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(tflite / "float.tflite"))
    for code in model.operatorCodes:
        code.version = 99
    flatbuffer_utils.write_model(model, str(tmp_path / "float.tflite"))
    with pytest.raises(
        RunnerError,
        match=r"on board is older than the file(.|\n)*pip install --upgrade ai-edge-litert",
    ):
        host(server, tmp_path / "store").open(image_artifact(tmp_path, "float"))


def test_an_old_python_is_reported(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The worker's first lines run in it and report it."""
    program = tmp_path / "old"
    code = (
        "import sys; sys.version_info, sys.version = (3, 6, 9), chr(51) + '.6.9 (old)';"
        " exec(sys.argv.pop())"
    )
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -c {shlex.quote(code)} "$3"\n'
    )
    program.chmod(0o755)
    assert "on board is too old: found Python 3.6.9, requires 3.9" in raised(
        server, str(program)
    )


def test_what_a_configuration_asks_for_besides_is_left_out(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """Terminals, forwardings, commands and master connections of the user's own are for
    people: none of them is needed for a worker.
    """
    canary = tmp_path / "canary"
    server.configure(
        RequestTTY="force",
        RemoteCommand=f"touch {canary}",
        PermitLocalCommand="yes",
        LocalCommand=f"touch {canary}",
        ControlMaster="auto",
        ControlPath=tmp_path / "mux",
        ControlPersist=60,
        LocalForward=f"{server.port} 127.0.0.1:1",
        ExitOnForwardFailure="yes",
        EscapeChar="E",
        LogLevel="QUIET",
    )
    assert host(server).hello()["pid"]
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_not_there_is_a_problem_before_any_connection(
    server: sshd.Server,
) -> None:
    """Its path is in the error."""
    problem = Ssh(server.host_file(config="/nothing/config")).problem("main")
    assert problem is not None and "/nothing/config" in problem[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"HostName": "nothing.invalid"}, "Unknown host board"),
        ({"Port": 1}, "refuses the connection"),
        ({"UserKnownHostsFile": "/dev/null"}, "host key of board is not known"),
        ({"IdentityFile": "/dev/null"}, "denied the login"),
        ({"User": "nobody-at-all"}, "denied the login"),
        ({"NoSuchOption": "yes"}, "cannot read its configuration"),
        ({"ProxyCommand": "false"}, "ended the connection before the login"),
        ({"ProxyCommand": "'echo not an ssh server; sleep 1'"}, "board"),
    ],
)
def test_a_failed_connection_is_reported(
    server: sshd.Server, options: dict[str, object], message: str
) -> None:
    """Each failure of ssh is a HostError with ssh's own message and a fix."""
    server.configure(**options)
    text = raised(server)
    assert message in text and "Fix: " in text and "Traceback" not in text


def test_a_host_key_that_has_changed_is_reported(server: sshd.Server) -> None:
    """The fix is not to connect all the same."""
    other = (server.folder / "client.pub").read_text()
    (server.folder / "known_hosts").write_text(
        f"[127.0.0.1]:{server.port} {other}"
    )
    text = raised(server)
    assert (
        "host key of board differs from the known one" in text
        and "If not, do not connect" in text
    )


def test_a_silent_server_is_not_waited_for_long(server: sshd.Server) -> None:
    """A port that is open and silent ends in ssh's own time limit."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server.configure(Port=silent.getsockname()[1])
        board = Ssh(server.host_file()).host("main")
        words = tuple(
            "ConnectTimeout=1" if word.startswith("ConnectTimeout") else word
            for word in board.start.command
        )
        quick = dataclasses.replace(
            board, start=dataclasses.replace(board.start, command=words)
        )
        with pytest.raises(
            HostError, match="did not respond in time|ended the connection"
        ):
            quick.hello()


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/nothing/python3", "cannot be started"),
        ("/etc/passwd", "cannot be started"),
        ("true", "Python did not start on board"),
    ],
)
def test_a_python_that_is_not_there_is_reported(
    server: sshd.Server, python: str, message: str
) -> None:
    """A missing program, a file that is none, and a program that is no Python."""
    assert message in raised(server, python)


def test_python_may_be_several_words(server: sshd.Server) -> None:
    """An interpreter under another program, such as an emulator."""
    assert host(
        server, None, "/usr/bin/env", "EDGEKIT_X=a b", sys.executable
    ).hello()["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_login_script_that_prints_is_no_matter(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """Lines before the worker's first frame, one without an end too, are passed over; much
    more than that is an error.
    """
    program = tmp_path / "noisy"
    for noise, good in (
        ("echo Welcome; printf 'no end'", True),
        ("head -c 60000 /dev/zero", True),
        ("yes noise", False),
    ):
        program.write_text(f'#!/bin/sh\n{noise}\nexec {sys.executable} "$@"\n')
        program.chmod(0o755)
        if good:
            assert host(server, None, str(program)).hello()["pid"]
        else:
            with pytest.raises(
                HostError,
                match="Invalid output from board while starting on board",
            ):
                host(server, None, str(program)).hello()


def test_a_line_that_is_cut_between_two_calls_is_reported(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The server's process dies; the error names the host, and a new one can be opened."""
    example = artifact(tmp_path, linear(tmp_path))
    with host(server, tmp_path / "store").open(example) as runner:
        server.cut()
        with pytest.raises(
            HostError,
            match="connection to board ended while running part 'main'",
        ):
            runner.infer({"input": VALUES})
    with host(server, tmp_path / "store").open(example) as runner:
        assert runner.infer({"input": VALUES})["output"].shape == (300, 3)


def test_a_copy_that_was_cut_goes_on(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The server's process dies in the middle of 24 MB; what is there stays, and the next
    copy sends the rest.
    """
    from edgekit.hosts import copying

    path, store = tmp_path / "large.onnx", tmp_path / "store"
    path.write_bytes(numpy.random.default_rng(0).bytes(24_000_000))
    first, _ = host(server, store).connect()
    cutter = threading.Thread(
        target=cut_when, args=(server, lambda: parts(store) > 4_000_000)
    )
    cutter.start()
    with pytest.raises(
        HostError,
        match=r"connection to board ended while copying large\.onnx to board",
    ):
        copying.copy_file(first, path, "board", print)
    cutter.join()
    there = parts(store)
    assert 4_000_000 < there < 24_000_000
    second, _ = host(server, store).connect()
    sent = counted(second)
    name = copying.copy_file(second, path, "board", print)
    second.close()
    assert (
        sum(sent) == 24_000_000 - there
        and (store / name).read_bytes() == path.read_bytes()
    )


def cut_when(server: sshd.Server, come: Any) -> None:
    """Cut every connection once something has come to be."""
    end = time.monotonic() + 60
    while not come() and time.monotonic() < end:
        time.sleep(0.001)
    server.cut()


def parts(store: pathlib.Path) -> int:
    """How many bytes unfinished files have."""
    with contextlib.suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in store.glob("*.part"))
    return 0


def counted(process: Any) -> list[int]:
    """The sizes of the blocks that a worker is sent from now on."""
    sizes: list[int] = []
    request = process.request

    def record(
        activity: str, header: Any, arrays: Any = None, **options: Any
    ) -> Any:
        sizes.extend(array.nbytes for array in (arrays or {}).values())
        return request(activity, header, arrays, **options)

    process.request = record
    return sizes


def test_a_race_that_was_cut_leaves_no_worker_there(
    server: sshd.Server,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the host, and the worker over there ends within its round instead of
    heating the next race.
    """
    example = {"a": artifact(tmp_path, linear(tmp_path))}
    before = workers(tmp_path)
    asked: list[float] = []
    request = WorkerProcess.request

    def observed(
        process: WorkerProcess, activity: str, *rest: Any, **options: Any
    ) -> Any:
        if activity == "timing":
            asked.append(time.monotonic())
        return request(process, activity, *rest, **options)

    monkeypatch.setattr(WorkerProcess, "request", observed)
    cutter = threading.Thread(
        target=cut_when,
        args=(server, lambda: asked and time.monotonic() > asked[0] + 0.5),
    )
    cutter.start()
    with pytest.raises(
        HostError, match="connection to board ended while timing"
    ):
        host(server, tmp_path / "store").race(
            example,
            {"input": VALUES},
            BenchProtocol(rounds=20_000, warmup=2, round_ms=2),
        )
    cutter.join()
    end = time.monotonic() + 60
    while time.monotonic() < end and workers(tmp_path) - before:
        time.sleep(0.1)
    assert not workers(tmp_path) - before


def workers(folder: pathlib.Path) -> set[int]:
    """The processes that ``store_of`` accepts."""
    return {
        child.pid for child in psutil.process_iter() if store_of(child, folder)
    }


def store_of(process: psutil.Process, folder: pathlib.Path) -> bool:
    """Whether a process has a file of a folder mapped or is a worker that nobody is the
    parent of.
    """
    with contextlib.suppress(psutil.Error):
        return process.ppid() == 1 and "exec(base64" in " ".join(
            process.cmdline()
        )
    return False


def test_a_worker_that_is_killed_there_is_reported_as_such(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """The connection stands and the program is gone: the runtime's fault, not the line's."""
    with host(server, tmp_path / "store").open(
        artifact(tmp_path, linear(tmp_path))
    ) as runner:
        for child in server.process.children(recursive=True):
            if "exec(base64" in " ".join(child.cmdline()):
                child.kill()
        with pytest.raises(RunnerError, match="runtime on board was killed"):
            runner.infer({"input": VALUES})


EVIL = [
    "a'b",
    'a"b',
    "a b",
    "a;touch CANARY",
    "a`touch CANARY`",
    "a$(touch CANARY)",
    "a\ntouch CANARY\n",
    "-oProxyCommand=touch CANARY",
    "--",
    "a|touch CANARY",
    "a&touch CANARY&",
    "a>CANARY",
    "~",
    "*",
    "a\\'; touch CANARY; '",
    "!touch CANARY",
    "a'$(touch CANARY)'b",
    'a"$(touch CANARY)"b',
]


@pytest.mark.parametrize("evil", EVIL)
def test_no_name_runs_a_command(
    server: sshd.Server,
    tmp_path: pathlib.Path,
    evil: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names of hosts, addresses, folders, Pythons, environments, files and parts are
    refused or used literally: nothing is run.
    """
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "CANARY"
    evil = evil.replace("CANARY", str(canary))
    attempts: list[dict[str, Any]] = [
        {"address": evil},
        {"name": evil},
        {"folder": evil},
        {"config": evil},
        {"environments": {evil: {"python": [sys.executable]}}},
        {"environments": {"main": {"python": [evil]}}},
        {"environments": {"main": {"python": [sys.executable, evil]}}},
    ]
    for change in attempts:
        with contextlib.suppress(EdgekitError, ValueError):
            file = HostFile.model_validate(
                {**server.host_file().model_dump(), **change}
            )
            Ssh(file).host(next(iter(file.environments))).hello()
    with contextlib.suppress(EdgekitError, OSError, ValueError):
        lookup.open_host(f"ssh:{evil}").hello()
    folder = tmp_path / evil.replace("/", "_")
    folder.mkdir(exist_ok=True)
    part = linear(folder).model_copy(update={"name": evil})
    with (
        contextlib.suppress(EdgekitError),
        host(server, tmp_path / "store").open(artifact(folder, part)) as runner,
    ):
        runner.infer({"input": VALUES})
    created = [
        path
        for place in (tmp_path, pathlib.Path.home())
        for path in place.glob("*CANARY*")
        if path != folder
    ]
    assert created == []


def test_an_odd_path_to_python_is_taken_as_it_is(
    server: sshd.Server, tmp_path: pathlib.Path
) -> None:
    """A folder with spaces, quotes, semicolons and dollars holds the interpreter, and it
    runs.
    """
    folder = tmp_path / "a b;c'd\"e$(f)`g`&*"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    assert host(server, None, "/usr/bin/env", str(folder / "python")).hello()[
        "pid"
    ]
