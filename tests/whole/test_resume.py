"""A run that is killed at any moment goes on where it was, and ends with the same report."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

SETTINGS = (
    "train.epochs=2",
    "distill.teacher_epochs=2",
    "distill.epochs=1",
    "finetune.epochs=2",
    "quantize.samples=32",
    "quantize.scheme=w8a8-static",
    "gates.accuracy_drop=0.9",
    "gates.speedup=0.01",
)
#: What a second run may say otherwise: times, and what follows from times.
TIMES = {"started", "seconds", "latency_ms", "speedup", "chosen"}


def command(folder: pathlib.Path, out: str) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "edgekit",
        "run",
        "digits",
        "--model",
        "zoo:resnet8",
        "--out",
        str(folder / out),
        "--cache",
        str(folder / f"{out}-cache"),
        "--target",
        "cpu-onnx",
        "--target",
        "coral-edgetpu",
    ]
    for setting in SETTINGS:
        words += ["--set", setting]
    return words


def run_until(
    words: list[str], start: str | None, delay_s: float = 0
) -> tuple[int, list[str]]:
    """Run; kill -9 ``delay_s`` after a line ``start: <start> ...``.

    The exit code and all started pieces of work.

    A piece is identified by its first word, so ``verify`` stands for the check of any target.
    """
    process = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    begun: list[str] = []
    output: list[str] = []
    for line in process.stderr:
        output.append(line)
        if line.startswith("start: "):
            begun.append(line.split()[1])
            if begun[-1] == start:
                threading.Event().wait(delay_s)
                os.killpg(process.pid, signal.SIGKILL)
                break
    process.stderr.read()
    process.stderr.close()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), "".join(output)
    return code, begun


def timeless(value: Any) -> Any:
    """A report without its times."""
    if isinstance(value, dict):
        if value.get("name") in TIMES:
            return value["name"]
        return {
            key: timeless(inner)
            for key, inner in value.items()
            if key not in TIMES
        }
    if isinstance(value, list):
        return [timeless(inner) for inner in value]
    return value


@pytest.fixture(scope="module")
def calm(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pathlib.Path, list[str]]:
    """A run that nobody kills: its folder, and the kinds of work in the order in which they
    began.
    """
    folder = tmp_path_factory.mktemp("resume")
    code, order = run_until(command(folder, "calm"), None)
    assert code == 0
    return folder, list(dict.fromkeys(order))


def read_report(folder: pathlib.Path, out: str) -> Any:
    """The report of a run."""
    return json.loads((folder / out / "report.json").read_text())


def test_a_run_that_is_killed_in_every_step_ends_with_the_same_report(
    calm: tuple[pathlib.Path, list[str]],
) -> None:
    """kill -9 soon after each kind of work began, then the same command: only times differ
    from a run that nobody killed.
    """
    folder, pieces = calm
    assert len(pieces) > 10
    killed = 0
    for index, piece in enumerate(pieces):
        code, _ = run_until(
            command(folder, "stormy"), piece, 0.04 * (index % 6)
        )
        killed += code != 0
    assert killed == len(pieces)
    assert not (folder / "stormy" / "report.json").exists()
    code, _ = run_until(command(folder, "stormy"), None)
    assert code == 0
    assert timeless(read_report(folder, "stormy")) == timeless(
        read_report(folder, "calm")
    )
    assert [
        path.name for path in (folder / "stormy-cache" / "tmp").iterdir()
    ] == []


def test_a_second_run_takes_everything_from_the_cache(
    calm: tuple[pathlib.Path, list[str]],
) -> None:
    """The same command again builds nothing and ends with the same numbers, times included."""
    folder, _ = calm
    before = read_report(folder, "calm")
    again = subprocess.run(
        command(folder, "calm"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert {**before, "started": "", "seconds": 0} == {
        **read_report(folder, "calm"),
        "started": "",
        "seconds": 0,
    }
    done = [
        line
        for line in again.stderr.splitlines()
        if line.startswith("done: ")
        and not line.startswith(("done: verify", "done: race"))
    ]
    assert [line for line in done if not line.endswith("cached")] == []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_half_done(
    tmp_path: pathlib.Path, signal_number: signal.Signals
) -> None:
    """Ctrl-C (and a polite kill) end the run without a traceback and without a temporary
    folder.
    """
    words = command(tmp_path, "stopped")
    process = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    output = ""
    for line in process.stderr:
        output += line
        if line.startswith("start: train"):
            process.send_signal(signal_number)
            break
    output += process.stderr.read()
    process.stderr.close()
    assert process.wait() == (130 if signal_number == signal.SIGINT else 143)
    assert "Traceback" not in output
    assert "same command resumes" in output
    assert list((tmp_path / "stopped-cache" / "tmp").iterdir()) == []
