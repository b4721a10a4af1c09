"""The folders of hosts: whole or not there, told apart by what they are made of."""

import errno
import json
import pathlib

import pytest

from edgekit.errors import HostError
from edgekit.hosts import install_dirs as places


@pytest.fixture(autouse=True)
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder for hosts."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    return tmp_path / "hosts"


def make(folder: pathlib.Path, text: str = "x") -> None:
    """A finished folder with one file."""
    with places.filling(folder) as partial:
        (partial / "file").write_text(text)
        places.note(partial, {"python": "3"})


def test_what_it_is_made_of_is_part_of_a_folders_name() -> None:
    """Other pins are another folder; the same ones, in any order of their keys, are the
    same.
    """
    first = places.place("board", "main", {"packages": ["a==1"], "version": "3.11"})
    assert first == places.place("board", "main", {"version": "3.11", "packages": ["a==1"]})
    assert first != places.place("board", "main", {"packages": ["a==2"], "version": "3.11"})


def test_a_folder_has_its_name_only_once_it_is_whole(root: pathlib.Path) -> None:
    """While it is filled it has another name; where the work fails nothing is left."""
    target = places.place("board", "main", {})
    with pytest.raises(RuntimeError), places.filling(target) as partial:
        (partial / "file").write_text("x")
        assert not target.exists() and partial.parent == root / "board"
        raise RuntimeError
    assert list((root / "board").iterdir()) == []
    make(target)
    assert places.told(target) == {"python": "3", "bytes": 1}
    make(target, "xyz")  # Made again in the same place.
    assert (target / "file").read_text() == "xyz"
    assert list((root / "board").iterdir()) == [target]


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_folder_without_a_whole_marker_does_not_count(text: str) -> None:
    """A marker that is missing, cut off or of another kind is none."""
    target = places.place("board", "main", {})
    target.mkdir(parents=True)
    assert places.told(target) is None
    (target / places.MARKER).write_text(text)
    assert places.told(target) is None


def test_older_folders_of_a_name_are_retired(root: pathlib.Path) -> None:
    """Only those of the same name go; ``main-two`` is another environment than ``main``."""
    old, new, other = (
        places.place("board", name, {"made": made})
        for name, made in (("main", 1), ("main", 2), ("main-two", 1))
    )
    for folder in (old, new, other):
        make(folder)
    assert places.older("board", "main") == sorted([old, new])
    places.retire("board", "main", new)
    assert sorted((root / "board").iterdir()) == sorted([new, other])


def test_a_host_is_removed_and_counted(root: pathlib.Path) -> None:
    """Links are not followed."""
    make(places.place("board", "main", {}))
    (root / "board" / "link").symlink_to(root)
    folders, count = places.remove("board")
    assert (folders, count > 1) == (2, True)
    assert not (root / "board").exists()
    assert places.remove("board") == (0, 0)


def test_what_the_system_says_is_told_with_a_way_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, and a folder that is a file."""
    with (
        pytest.raises(HostError, match=r"The disk is full(.|\n)*EDGEKIT_HOSTS"),
        places.writing(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "file"))
    with (
        pytest.raises(HostError, match="cannot be written: Not a directory"),
        places.filling(places.place("board", "main", {})),
    ):
        pass


def test_the_folder_is_the_users_own_without_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """The data folder of the system's rules; a relative variable is taken from the current
    folder.
    """
    monkeypatch.delenv("EDGEKIT_HOSTS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert places.root().name == "hosts" and "edgekit" in places.root().parts
    monkeypatch.setenv("EDGEKIT_HOSTS", "some")
    assert places.root() == pathlib.Path.cwd() / "some"


def test_the_marker_is_json_with_the_size(root: pathlib.Path) -> None:
    """The bytes are those of the files, without the marker itself."""
    target = places.place("board", "main", {})
    make(target, "12345")
    assert json.loads((target / places.MARKER).read_text())["bytes"] == 5
