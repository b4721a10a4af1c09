"""The cache: complete entries or none, damaged ones rebuilt, disk errors reported."""

import errno
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.cache import (
    Cache,
    _temporary_name,
    default_root,
    digest,
    file_digest,
    write_text,
    writing,
)
from edgekit.errors import CacheError
from edgekit.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 4)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 2)),),
)


def make(text: str):
    """Return a step's work: one file in the folder."""

    def work(folder: pathlib.Path) -> Artifact:
        (folder / "main.onnx").write_text(text)
        part = Part(
            name="main",
            signature=SIGNATURE,
            files={"model": File(path="main.onnx")},
        )
        return Artifact(
            format="onnx", parts=(part,), notes={"text": text}, folder=folder
        )

    return work


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_built_entry_is_read_with_its_hashes(cache: Cache) -> None:
    """An entry is read back unchanged, with the size and the hash of its file."""
    built = cache.build("k1", "parent", "torch_to_onnx", make("weights"))
    entry = Cache(cache.root).find("k1")
    assert entry == built
    assert entry is not None
    assert (entry.parent, entry.step, entry.size_bytes) == (
        "parent",
        "torch_to_onnx",
        7,
    )
    assert entry.path(entry.parts[0]).read_text() == "weights"


def test_an_unknown_key_is_not_found(cache: Cache) -> None:
    """A key that was never built has no entry."""
    assert cache.find("nothing") is None


def test_a_failed_step_leaves_nothing(cache: Cache) -> None:
    """If the work raises, neither an entry nor a temporary folder remains."""

    def fails(folder: pathlib.Path) -> Artifact:
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.build("k1", None, "train", fails)
    assert cache.find("k1") is None
    assert list((cache.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("victim", ["main.onnx", "manifest.json"])
def test_a_modified_entry_is_removed_and_reported(
    cache: Cache, victim: str
) -> None:
    """A changed byte in a file or in the manifest makes the entry unusable."""
    cache.build("k1", None, "train", make("weights"))
    path = cache.root / "k1" / victim
    path.write_text(path.read_text().replace("weights", "weightz"))
    messages: list[str] = []
    again = Cache(cache.root, messages.append)
    assert again.find("k1") is None
    assert len(messages) == 1
    assert "rebuilding damaged cache entry k1" in messages[0]
    assert again.build("k1", None, "train", make("weights")).notes == {
        "text": "weights"
    }
    assert again.find("k1") is not None


def test_an_entry_under_a_wrong_name_is_not_used(cache: Cache) -> None:
    """An entry that was renamed to another key is refused, although its hashes match."""
    cache.build("k1", None, "train", make("weights"))
    (cache.root / "k1").rename(cache.root / "k2")
    assert cache.find("k2") is None


def test_a_truncated_manifest_is_rebuilt(cache: Cache) -> None:
    """A partial manifest is treated as damage, not as a crash."""
    cache.build("k1", None, "train", make("weights"))
    manifest = cache.root / "k1" / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    assert cache.find("k1") is None


def test_two_runs_that_build_the_same_key_keep_one(cache: Cache) -> None:
    """The second to finish leaves the first one's entry unchanged."""

    def slow(folder: pathlib.Path) -> Artifact:
        Cache(cache.root).build("k1", None, "train", make("first"))
        return make("second")(folder)

    built = cache.build("k1", None, "train", slow)
    entry = cache.find("k1")
    assert built == entry
    assert built.parts[0].files["model"].sha256 == file_digest(
        built.path(built.parts[0])
    )
    assert entry is not None
    assert entry.path(entry.parts[0]).read_text() == "first"


def test_a_measurement_is_taken_once_unless_fresh(cache: Cache) -> None:
    """A record is read from the cache unless ``fresh`` is set or it is damaged."""
    taken: list[int] = []

    def measure() -> dict[str, int]:
        taken.append(1)
        return {"count": len(taken)}

    assert cache.record("m", measure) == {"count": 1}
    assert cache.record("m", measure) == {"count": 1}
    assert cache.record("m", measure, fresh=True) == {"count": 2}
    manifest = cache.root / "m" / "manifest.json"
    manifest.write_text(json.dumps({"value": {"count": 99}, "seal": "x"}))
    assert cache.record("m", measure) == {"count": 3}


def test_temporary_folders_of_killed_runs_are_removed(cache: Cache) -> None:
    """Those of a running process, or of another machine on the same cache, are kept."""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    own = _temporary_name().split("-")
    names = [
        f"{dead}-{own[1]}-x",
        f"{own[0]}-{own[1]}-y",
        f"{dead}-0123456789ab-z",
    ]
    for name in names:
        (cache.root / "tmp" / name).mkdir()
    Cache(cache.root)
    assert sorted(
        path.name for path in (cache.root / "tmp").iterdir()
    ) == sorted(names[1:])


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (ValueError("write: No space left on device"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "Cannot write"),
    ],
)
def test_disk_errors_are_reported(
    tmp_path: pathlib.Path, problem: Exception, word: str
) -> None:
    """A full or read-only disk raises a CacheError with a fix."""
    with pytest.raises(CacheError, match=word) as caught, writing(tmp_path):
        raise problem
    assert "Fix:" in str(caught.value)


def test_a_full_disk_is_reported(cache: Cache) -> None:
    """/dev/full refuses every byte, as a full disk does; no entry remains."""

    def full(folder: pathlib.Path) -> Artifact:
        with pathlib.Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")
        return make("never")(folder)

    with pytest.raises(CacheError, match="disk is full"):
        cache.build("k1", None, "train", full)
    assert cache.find("k1") is None


def test_text_is_written_atomically(tmp_path: pathlib.Path) -> None:
    """A failed write keeps the old file and leaves no partial one."""
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_an_environment_variable_sets_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """EDGEKIT_CACHE takes precedence over the user's cache folder."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("EDGEKIT_CACHE")
    assert default_root().name == "edgekit"


def test_a_key_does_not_depend_on_the_order_of_parameters() -> None:
    """The same values in another order have the same hash; another value has another."""
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@pytest.mark.parametrize("edit", ["file", "folder", "deep"])
def test_replaced_files_and_folders_are_damage_too(
    cache: Cache, edit: str
) -> None:
    """A file instead of the entry, a folder instead of the manifest, or a manifest of a
    hundred thousand brackets: rebuilt.
    """
    cache.build("k1", None, "train", make("weights"))
    manifest = cache.root / "k1" / "manifest.json"
    if edit == "deep":
        manifest.write_text("[" * 100_000)
    elif edit == "folder":
        manifest.unlink()
        manifest.mkdir()
    else:
        shutil.rmtree(cache.root / "k1")
        (cache.root / "k1").write_text("mine")
    assert cache.find("k1") is None
    assert cache.build("k1", None, "train", make("weights")).notes == {
        "text": "weights"
    }


def test_an_impossible_folder_is_reported() -> None:
    """A folder in /proc is refused with a fix."""
    with pytest.raises(CacheError, match="--cache"):
        Cache(pathlib.Path("/proc/edgekit-nowhere/cache"))
