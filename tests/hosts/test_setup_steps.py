"""Programs that a setup starts: bounded, ended with it, and alone at their host."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import psutil
import pytest

from edgekit.errors import HostError
from edgekit.hosts import setup_steps
from edgekit.hosts.setup_steps import ProgramFailed, host_setup
from edgekit.progress import Silent


@pytest.fixture(autouse=True)
def root(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """An empty folder for hosts."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path))
    return tmp_path


class RecordingProgress(Silent):
    """Keeps all messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_programs_words_come_line_by_line_and_as_a_whole() -> None:
    """stdout and stderr together, in a language that edgekit can read."""
    seen: list[str] = []
    with host_setup("board", Silent()) as session:
        text = session.run(
            ["sh", "-c", "echo one; echo two >&2; echo $LC_ALL $MARK"],
            {"MARK": "x"},
            seen.append,
        )
    assert text == "one\ntwo\nC x\n" and seen == ["one\n", "two\n", "C x\n"]


def test_a_program_that_fails_has_its_last_output() -> None:
    """ProgramFailed carries them; a full disk is its own error; a program that is not there is
    reported by its name.
    """
    with host_setup("board", Silent()) as session:
        with pytest.raises(ProgramFailed) as failed:
            session.run(["sh", "-c", "seq 1 100; exit 3"])
        assert failed.value.tail().splitlines() == [
            str(number) for number in range(89, 101)
        ]
        with pytest.raises(HostError, match="The disk is full"):
            session.run(
                [
                    "sh",
                    "-c",
                    "echo 'OSError: [Errno 28] No space left on device'; exit 1",
                ]
            )
        with pytest.raises(
            HostError, match="no-such-program cannot be started: No such file"
        ):
            session.run(["no-such-program"])
        with (
            pytest.raises(ProgramFailed),
            session.stream(["sh", "-c", "echo half; exit 2"]) as stream,
        ):
            assert stream.read() == b"half\n"


def test_a_program_that_takes_too_long_is_ended_with_its_children() -> None:
    """The entire group ends, in time."""
    began = time.monotonic()
    with (
        host_setup("board", Silent()) as session,
        pytest.raises(HostError, match=r"sh was killed after 0\.3 s"),
    ):
        session.run(["sh", "-c", "sleep 60 & sleep 60"], limit_s=0.3)
    assert time.monotonic() - began < 20
    assert not [
        child
        for child in psutil.Process().children(recursive=True)
        if "sleep" in child.name() and child.status() != psutil.STATUS_ZOMBIE
    ]


def test_two_setups_of_one_host_work_one_after_the_other() -> None:
    """The second waits, reports it, and begins when the first has ended; another host does not
    wait.
    """
    order, progress, inside = [], RecordingProgress(), threading.Event()

    def second() -> None:
        with host_setup("board", progress):
            order.append("second")

    other = threading.Thread(target=second)
    with host_setup("board", Silent()):
        other.start()
        with host_setup("another", Silent()):
            inside.wait(0.5)
            order.append("first")
    other.join(20)
    assert order == ["first", "second"]
    assert progress.lines == [
        "waiting for another edgekit that is setting up board"
    ]


def test_a_setup_that_hangs_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its patience the second one reports a fix."""
    monkeypatch.setattr(setup_steps, "PATIENCE_S", 0.3)
    with (
        host_setup("board", Silent()),
        pytest.raises(HostError, match="has been setting up board"),
        host_setup("board", Silent()),
    ):
        pass


def test_what_a_killed_setup_left_is_swept_once_its_programs_have_ended(
    root: pathlib.Path,
) -> None:
    """edgekit is killed, its pip goes on for a moment: the next setup waits for that too,
    and then removes what was left.
    """
    code = (
        "from edgekit.hosts.setup_steps import host_setup\n"
        "from edgekit.progress import Silent\n"
        "with host_setup('board', Silent()) as session:\n"
        "    print('in', flush=True)\n"
        "    session.run(['sleep', '1.5'])\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"in\n"
    while not psutil.Process(first.pid).children():
        time.sleep(0.01)
    (orphan,) = psutil.Process(first.pid).children()
    first.kill()
    first.wait()
    first.stdout.close()
    (root / "board" / "partial-x").mkdir(parents=True)
    with host_setup("board", Silent()):
        assert (
            not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        )
        assert list((root / "board").iterdir()) == []
