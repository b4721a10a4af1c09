"""Files that are copied through the worker, over a line that cuts, flips and floods."""

import dataclasses
import hashlib
import pathlib
import sys
from typing import Any

import numpy
import pytest

from edgekit.contracts import BenchProtocol
from edgekit.errors import EdgekitError, HostError, RunnerError
from edgekit.hosts import copying
from edgekit.hosts.failures import Place
from edgekit.hosts.process import Start, encode_sources
from edgekit.hosts.runner import WorkerHost
from tests.hosts.test_local import artifact, linear

FAULTY = str(pathlib.Path(__file__).with_name("faulty.py"))
SIZE = 5_000_000


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """5 MB of noise under a model's name."""
    path = tmp_path / "large.onnx"
    path.write_bytes(numpy.random.default_rng(0).bytes(SIZE))
    return path


def line(
    folder: pathlib.Path,
    fault: str = "none",
    where: int = 0,
    timeout_s: float = 60,
) -> WorkerHost:
    """A host whose line has a fault at one byte, counted from the first that is sent or
    comes back.
    """
    start = Start(
        (
            sys.executable,
            FAULTY,
            str(folder / "log"),
            fault,
            str(where),
            "--",
            sys.executable,
        ),
        place=Place("board"),
    )
    return WorkerHost(
        "board",
        start,
        timeout_s=timeout_s,
        shares_files=False,
        folder=str(folder / "store"),
    )


def copy(host: WorkerHost, path: pathlib.Path) -> tuple[str, list[str]]:
    """Copy a file: its name there, and the messages."""
    messages: list[str] = []
    process, _ = host.connect()
    try:
        return copying.copy_file(
            process, path, host.name, messages.append
        ), messages
    finally:
        process.close()


def passed(folder: pathlib.Path) -> int:
    """How many bytes have gone to the worker."""
    return int((folder / "log").read_text().split()[0])


def test_a_copy_that_was_cut_sends_only_the_rest(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The error names host and file; the second command sends what was missing, and a third
    one nothing.
    """
    with pytest.raises(
        EdgekitError,
        match=r"on board crashed \(exit status 255\) while copying large\.onnx to board"
        r"(.|\n)*the line was cut",
    ):
        copy(line(tmp_path, "cut-in", 3_000_000), file)
    (part,) = (tmp_path / "store").iterdir()
    there = part.stat().st_size
    assert part.suffix == ".part" and there == 2 * copying.BLOCK_BYTES
    name, messages = copy(line(tmp_path), file)
    assert (
        messages == []
        and SIZE - there
        < passed(tmp_path)
        < SIZE - there + len(encode_sources()) + 5_000
    )
    assert (tmp_path / "store" / name).read_bytes() == file.read_bytes()
    copy(line(tmp_path), file)
    assert passed(tmp_path) < len(encode_sources()) + 5_000


def test_a_bit_that_was_flipped_on_the_way_is_reported_and_copied_again(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The hash over there detects it; the second copy is right."""
    name, messages = copy(line(tmp_path, "flip-in", 3_000_000), file)
    assert (
        len(messages) == 1
        and "arrived with the hash" in messages[0]
        and "once more" in messages[0]
    )
    assert (tmp_path / "store" / name).read_bytes() == file.read_bytes()


def test_a_bit_that_was_flipped_on_the_disk_is_reported_and_copied_again(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Complete files are checked by each command; a damaged part is found when it is
    complete.
    """
    name, _ = copy(line(tmp_path), file)
    stored = tmp_path / "store" / name
    stored.write_bytes(b"x" + file.read_bytes()[1:])
    _, messages = copy(line(tmp_path), file)
    assert (
        messages
        == [
            "large.onnx was damaged on board; it was removed and is being copied again"
        ]
        and stored.read_bytes() == file.read_bytes()
    )
    stored.unlink()
    stored.with_name(f"{name}.part").write_bytes(
        b"x" + file.read_bytes()[1:2000]
    )
    _, messages = copy(line(tmp_path), file)
    assert (
        len(messages) == 1
        and "once more" in messages[0]
        and stored.read_bytes() == file.read_bytes()
    )


def test_a_file_that_is_damaged_twice_is_an_error(
    file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that damages every copy is reported once the second has failed; nothing is left
    there.
    """
    process, _ = line(tmp_path).connect()
    request = process.request

    def damage(activity: str, header: Any, arrays: Any = None) -> Any:
        return request(
            activity,
            header,
            {name: array ^ 1 for name, array in arrays.items()}
            if arrays
            else None,
        )

    monkeypatch.setattr(process, "request", damage)
    with pytest.raises(
        RunnerError,
        match=r"Damaged while copying large\.onnx to board(.|\n)*check the cable",
    ):
        copying.copy_file(process, file, "board", lambda text: None)
    process.close()
    assert list((tmp_path / "store").iterdir()) == []


def test_a_full_device_is_reported(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The device takes 2 MB: the error names it and the fix; with more space the copy
    goes on.
    """
    host = line(tmp_path)
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000000,) * 2); exec(sys.argv[-1])"
    small = dataclasses.replace(
        host, start=Start((sys.executable, "-c", limited), place=Place("board"))
    )
    with pytest.raises(
        RunnerError,
        match=r"Not enough disk space on board while copying large\.onnx"
        r"(.|\n)*edgekit hosts clean board; the copy then continues",
    ):
        copy(small, file)
    (part,) = (tmp_path / "store").iterdir()
    there = part.stat().st_size
    assert part.suffix == ".part" and 0 < there <= 2_000_000
    name, _ = copy(host, file)
    assert (
        passed(tmp_path) < SIZE - there + len(encode_sources()) + 5_000
        and (tmp_path / "store" / name).stat().st_size == SIZE
    )


def test_a_folder_that_cannot_be_written_to_is_reported(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A file where the folder belongs."""
    (tmp_path / "store").write_text("a file")
    with pytest.raises(
        RunnerError,
        match=r"on board failed while copying(.|\n)*the folder on board is writable",
    ):
        copy(line(tmp_path), file)


def test_two_that_copy_the_same_file_help_each_other(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Two lines to one device at once end with one complete file and no error."""
    import threading

    names: list[str] = []
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    hosts = [
        dataclasses.replace(line(folder), folder=str(tmp_path / "store"))
        for folder in folders
    ]
    threads = [
        threading.Thread(
            target=lambda host=host: names.append(copy(host, file)[0])
        )
        for host in hosts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        names == [f"{hashlib.sha256(file.read_bytes()).hexdigest()}.onnx"] * 2
    )
    assert [path.name for path in (tmp_path / "store").iterdir()] == names[:1]


def test_a_device_that_never_takes_a_block_is_given_up(
    file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies of 'no bytes here yet' for ever end in an error, and invalid ones
    at once.
    """
    process, _ = line(tmp_path).connect()
    for reply, messages in (
        ({"bytes": 0, "complete": False}, "does not accept the file"),
        ({"bytes": 9 * SIZE, "complete": False}, "has 45000000 bytes"),
        ({"bytes": -1, "complete": False}, "Invalid reply to"),
        ({"bytes": "1", "complete": False}, "Invalid reply to"),
        ({}, "Invalid reply to"),
        ({"bytes": True, "complete": False}, "Invalid reply to"),
        ({"bytes": 0, "complete": "no"}, "Invalid reply to"),
    ):
        monkeypatch.setattr(
            process, "request", lambda *arguments, reply=reply: (reply, {})
        )
        with pytest.raises(RunnerError, match=messages):
            copying.copy_file(process, file, "board", print)
    monkeypatch.undo()
    process.close()


FEEDS = {
    "input": numpy.random.default_rng(0)
    .standard_normal((2000, 4))
    .astype("float32")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["cut-in", "cut-out", "flip-in", "flip-out", "flood-out", "stop-out"],
)
def test_no_fault_is_more_than_an_error(
    tmp_path: pathlib.Path, fault: str
) -> None:
    """Wherever the line breaks, in the greeting, a header or an array: the outputs are
    right, or there is an error with the host's name.

    A bit that is flipped in the numbers themselves cannot be seen here; ssh's own sums do.
    """
    example = artifact(tmp_path, linear(tmp_path))
    with line(tmp_path).open(example) as runner:
        runner.infer(FEEDS)
    counts = [int(number) for number in (tmp_path / "log").read_text().split()]
    total = counts[0 if fault.endswith("in") else 1]
    for where in (0, 3, 10, 25, total // 3, total // 2, total - 200):
        host = line(
            tmp_path, fault, where, timeout_s=4 if fault != "stop-out" else 2
        )
        try:
            with host.open(example) as runner:
                outputs = runner.infer(FEEDS)["output"]
            assert outputs.shape == (2000, 3)
        except (RunnerError, HostError) as error:
            assert "board" in str(error) and error.fix, (where, str(error))


def test_a_slow_line_is_no_fault(tmp_path: pathlib.Path) -> None:
    """Replies that come late, but come, are accepted; a race over it works too."""
    example = artifact(tmp_path, linear(tmp_path))
    with line(tmp_path, "slow-out", 30).open(example) as runner:
        assert runner.infer(FEEDS)["output"].shape == (2000, 3)
    times = line(tmp_path, "slow-out", 30).race(
        {"a": example}, FEEDS, BenchProtocol(rounds=5, warmup=2, round_ms=0.2)
    )
    assert len(times["a"].nanoseconds) == 5


def test_the_process_of_a_failed_copy_is_gone(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """After a cut nothing can be requested any more, which is an error."""
    process, _ = line(tmp_path, "cut-in", 3_000_000).connect()
    with pytest.raises(EdgekitError, match="crashed"):
        copying.copy_file(process, file, "board", print)
    with pytest.raises(RunnerError, match="has ended"):
        copying.copy_file(process, file, "board", print)
