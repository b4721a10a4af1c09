"""The folder on a device: what was cut off goes on, what is damaged goes, and a full disk
costs nothing that was there.
"""

import contextlib
import hashlib
import pathlib
import resource
import signal
import subprocess
from collections.abc import Iterator

import numpy
import pytest

from edgekit.device_worker.frames import WorkerError
from edgekit.device_worker.store import Store

DATA = bytes(range(256)) * 4096
NAME = hashlib.sha256(DATA).hexdigest() + ".onnx"


def put(store: Store, offset: int, data: bytes) -> tuple[int, bool]:
    """One block of DATA's file."""
    return store.put(NAME, offset, numpy.frombuffer(data, "uint8"), len(DATA))


def test_a_file_comes_in_blocks_and_goes_on_in_another_process(
    tmp_path: pathlib.Path,
) -> None:
    """Half of a file does not count; another store continues after it, and the complete file
    has the right bytes.
    """
    assert Store(str(tmp_path)).have(NAME) == (0, False, False)
    assert put(Store(str(tmp_path)), 0, DATA[:1000]) == (1000, False)
    assert Store(str(tmp_path)).have(NAME) == (1000, False, False)
    assert put(Store(str(tmp_path)), 1000, DATA[1000:]) == (len(DATA), True)
    assert Store(str(tmp_path)).have(NAME) == (len(DATA), True, False)
    assert (tmp_path / NAME).read_bytes() == DATA and [
        path.name for path in tmp_path.iterdir()
    ] == [NAME]


def test_a_block_at_another_place_is_not_taken(tmp_path: pathlib.Path) -> None:
    """The result is where to continue; nothing is written."""
    store = Store(str(tmp_path))
    put(store, 0, DATA[:1000])
    assert put(store, 500, DATA[500:2000]) == (1000, False)
    assert put(store, 2000, DATA[2000:]) == (1000, False)
    assert (tmp_path / f"{NAME}.part").read_bytes() == DATA[:1000]


def test_two_that_copy_the_same_file_end_with_one(
    tmp_path: pathlib.Path,
) -> None:
    """One that comes late gets the result that the file is complete."""
    first, second = Store(str(tmp_path)), Store(str(tmp_path))
    put(first, 0, DATA[:1000])
    put(second, 1000, DATA[1000:])
    assert put(first, 1000, DATA[1000:]) == (len(DATA), True)


def test_a_file_with_another_hash_is_removed(tmp_path: pathlib.Path) -> None:
    """A bit flipped on the way is reported and leaves nothing; so is one on the disk, at the
    next look.
    """
    store = Store(str(tmp_path))
    with pytest.raises(WorkerError, match="arrived with the hash") as raised:
        put(store, 0, b"x" + DATA[1:])
    assert raised.value.kind == "damaged" and list(tmp_path.iterdir()) == []
    put(store, 0, DATA)
    (tmp_path / NAME).write_bytes(DATA[:-1] + b"x")
    assert (
        store.have(NAME) == (0, False, True) and list(tmp_path.iterdir()) == []
    )


@pytest.mark.parametrize(
    "name",
    [
        "../x.onnx",
        "x.onnx",
        NAME + "\n",
        NAME[:-5] + ".sh",
        "/etc/passwd",
        "",
        NAME + ".part",
    ],
)
def test_a_name_that_is_no_hash_is_refused(
    tmp_path: pathlib.Path, name: str
) -> None:
    """No path leads out of the folder."""
    with pytest.raises(WorkerError, match="invalid file name for the store"):
        Store(str(tmp_path)).have(name)


def test_a_link_in_the_way_is_not_followed(tmp_path: pathlib.Path) -> None:
    """What somebody has laid where the part belongs is not written through."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / f"{NAME}.part").symlink_to(victim)
    with pytest.raises(WorkerError):
        put(Store(str(folder)), 0, DATA)
    assert victim.read_text() == "as it was"


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may become larger: the system then writes what fits and
    refuses the rest, as a quota does.
    """
    before, old = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_an_unexpected_limit_costs_nothing_that_is_there(
    tmp_path: pathlib.Path,
) -> None:
    """The disk seems free and the write fails in the middle: reported as full, the part is no
    file, and the copy goes on later.
    """
    store = Store(str(tmp_path))
    (tmp_path / "other").write_text("mine")
    with (
        largest_file(100_000),
        pytest.raises(WorkerError, match="not enough space for") as raised,
    ):
        put(store, 0, DATA)
    assert (
        raised.value.kind == "full"
        and (tmp_path / "other").read_text() == "mine"
    )
    stored, complete, _ = store.have(NAME)
    assert not complete and 0 < stored <= 100_000
    assert put(store, stored, DATA[stored:]) == (len(DATA), True)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 512 KiB. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            "size=512k",
            "edgekit-test",
            str(folder),
        ],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_reported_before_a_byte_is_written(
    small_disk: pathlib.Path,
) -> None:
    """1 MiB does not fit in 512 KiB; the free space is reported."""
    with pytest.raises(
        WorkerError, match=r"the disk is full: \d+ bytes are free"
    ) as raised:
        put(Store(str(small_disk)), 0, DATA[:1000])
    assert raised.value.kind == "full" and list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_reported(
    small_disk: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own error (ENOSPC) counts if the free space was reported wrong; the part
    stays for later and is no file.
    """
    import shutil

    monkeypatch.setattr(
        "edgekit.device_worker.store.shutil.disk_usage",
        lambda folder: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40),
    )  # type: ignore[attr-defined]
    store = Store(str(small_disk))
    with pytest.raises(WorkerError, match="not enough space for") as raised:
        put(store, 0, DATA)
    assert raised.value.kind == "full"
    stored, complete, damaged = store.have(NAME)
    assert not complete and not damaged and stored <= 512 * 1024
    assert not (small_disk / NAME).exists()
