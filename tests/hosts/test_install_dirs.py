"""The folders of hosts: complete or absent, and distinguished by their contents."""

import errno
import json
import pathlib

import pytest

from edgekit.errors import HostError
from edgekit.hosts import install_dirs


@pytest.fixture(autouse=True)
def root(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """An empty folder for hosts."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    return tmp_path / "hosts"


def make(folder: pathlib.Path, text: str = "x") -> None:
    """A finished folder with one file."""
    with install_dirs.new_folder(folder) as partial:
        (partial / "file").write_text(text)
        install_dirs.write_marker(partial, {"python": "3"})


def test_what_it_is_made_of_is_part_of_a_folders_name() -> None:
    """Other pins are another folder; the same ones, in any order of their keys, are the
    same.
    """
    first = install_dirs.folder_for(
        "board", "main", {"packages": ["a==1"], "version": "3.11"}
    )
    assert first == install_dirs.folder_for(
        "board", "main", {"version": "3.11", "packages": ["a==1"]}
    )
    assert first != install_dirs.folder_for(
        "board", "main", {"packages": ["a==2"], "version": "3.11"}
    )


def test_a_folder_has_its_name_only_once_it_is_complete(
    root: pathlib.Path,
) -> None:
    """While it is filled it has another name; where the work fails nothing is left."""
    target = install_dirs.folder_for("board", "main", {})
    with (
        pytest.raises(RuntimeError),
        install_dirs.new_folder(target) as partial,
    ):
        (partial / "file").write_text("x")
        assert not target.exists() and partial.parent == root / "board"
        raise RuntimeError
    assert list((root / "board").iterdir()) == []
    make(target)
    assert install_dirs.read_marker(target) == {"python": "3", "bytes": 1}
    make(target, "xyz")  # Once more in the same place.
    assert (target / "file").read_text() == "xyz"
    assert list((root / "board").iterdir()) == [target]


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_folder_without_a_valid_marker_does_not_count(text: str) -> None:
    """A marker that is missing, cut off or of another kind is none."""
    target = install_dirs.folder_for("board", "main", {})
    target.mkdir(parents=True)
    assert install_dirs.read_marker(target) is None
    (target / install_dirs.MARKER).write_text(text)
    assert install_dirs.read_marker(target) is None


def test_older_folders_of_a_name_are_retired(root: pathlib.Path) -> None:
    """Only those of the same name go; ``main-two`` is another environment than ``main``."""
    old, new, other = (
        install_dirs.folder_for("board", name, {"made": contents})
        for name, contents in (("main", 1), ("main", 2), ("main-two", 1))
    )
    for folder in (old, new, other):
        make(folder)
    assert install_dirs.list_folders("board", "main") == sorted([old, new])
    install_dirs.remove_outdated("board", "main", new)
    assert sorted((root / "board").iterdir()) == sorted([new, other])


def test_a_host_is_removed_and_counted(root: pathlib.Path) -> None:
    """Links are not followed."""
    make(install_dirs.folder_for("board", "main", {}))
    (root / "board" / "link").symlink_to(root)
    folders, count = install_dirs.remove_host("board")
    assert (folders, count > 1) == (2, True)
    assert not (root / "board").exists()
    assert install_dirs.remove_host("board") == (0, 0)


def test_errors_of_the_system_are_reported_with_a_fix(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, and a folder that is a file."""
    with (
        pytest.raises(HostError, match=r"The disk is full(.|\n)*EDGEKIT_HOSTS"),
        install_dirs.translate_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "file"))
    with (
        pytest.raises(HostError, match="cannot be written: Not a directory"),
        install_dirs.new_folder(install_dirs.folder_for("board", "main", {})),
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
    assert (
        install_dirs.root().name == "hosts"
        and "edgekit" in install_dirs.root().parts
    )
    monkeypatch.setenv("EDGEKIT_HOSTS", "some")
    assert install_dirs.root() == pathlib.Path.cwd() / "some"


def test_the_marker_is_json_with_the_size(root: pathlib.Path) -> None:
    """The bytes are those of the files, without the marker itself."""
    target = install_dirs.folder_for("board", "main", {})
    make(target, "12345")
    assert json.loads((target / install_dirs.MARKER).read_text())["bytes"] == 5
