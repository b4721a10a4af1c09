"""The folders in which edgekit installs hosts on this machine.

    $EDGEKIT_HOSTS/<host>/<environment>-<key>/  packages, and ready.json, written last
    $EDGEKIT_HOSTS/<host>/partial-*             being filled, or left by a killed setup
    $EDGEKIT_HOSTS/<host>.lock                  held by a running setup

``key`` is the hash of everything that the folder is installed from, so that other pins get
another folder. A folder gets its name only when it is finished, so an incomplete one is
never used.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import platformdirs

from edgekit.errors import HostError

MARKER = "ready.json"
#: Increased when edgekit puts other content into a folder, so that old ones are replaced.
LAYOUT = 1
_KEY_LENGTH = 12
_PARTIAL = "partial-"


def root() -> pathlib.Path:
    """``$EDGEKIT_HOSTS``, else edgekit's folder in the user's data folder."""
    configured = os.environ.get("EDGEKIT_HOSTS")
    if configured:
        # Absolute: a worker may be started from any folder.
        return pathlib.Path(configured).absolute()
    return (
        pathlib.Path(platformdirs.user_data_path("edgekit", appauthor=False))
        / "hosts"
    )


def folder_for(
    host: str, name: str, contents: Mapping[str, Any]
) -> pathlib.Path:
    """The path of one folder of a host, which need not exist.

    ``contents``: everything that it is installed from, as JSON values.
    """
    text = json.dumps({"layout": LAYOUT, **contents}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
    return root() / host / f"{name}-{key}"


def read_marker(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the setup has recorded about a finished folder; None if it is not finished."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def write_marker(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Record facts about a folder; to be called after all other files were written."""
    text = json.dumps({**facts, "bytes": folder_size(folder)}, indent=1)
    (folder / MARKER).write_text(text, encoding="utf-8")


def list_folders(host: str, name: str) -> list[pathlib.Path]:
    """All folders of one name, whatever they were installed from."""
    length = len(f"{name}-") + _KEY_LENGTH
    folders = (root() / host).glob(f"{name}-*")
    return sorted(folder for folder in folders if len(folder.name) == length)


def remove_outdated(host: str, name: str, *current: pathlib.Path) -> None:
    """Remove the folders of one name except the current ones.

    The caller must hold the host's lock.
    """
    for path in list_folders(host, name):
        if path not in current:
            path.rename(path.parent / f"{_PARTIAL}{path.name}")
    remove_partial(root() / host)


@contextlib.contextmanager
def new_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder that becomes ``target`` if the block succeeds, else is removed."""
    partial = target.parent / f"{_PARTIAL}{uuid.uuid4().hex}"
    try:
        with translate_errors(target):
            partial.mkdir(parents=True)
            yield partial
            if target.exists():
                target.rename(target.parent / f"{_PARTIAL}{uuid.uuid4().hex}")
            partial.rename(target)
    finally:
        remove_partial(target.parent)


def remove_partial(folder: pathlib.Path) -> None:
    """Remove unfinished folders. The caller must hold the host's lock."""
    for path in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_host(host: str) -> tuple[int, int]:
    """Remove everything installed for a host: the number of folders, and their bytes."""
    folder = root() / host
    if not folder.is_dir():
        return 0, 0
    count = sum(1 for path in folder.iterdir() if path.is_dir())
    size = folder_size(folder)
    with translate_errors(folder):
        shutil.rmtree(folder)
    return count, size


def folder_size(folder: pathlib.Path) -> int:
    """The bytes of all files in a folder; links are not followed."""
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


@contextlib.contextmanager
def translate_errors(path: pathlib.Path) -> Iterator[None]:
    """Turn an OSError within the context into a HostError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full_error() from error
        raise HostError(
            f"{error.filename or path} cannot be written: {error.strerror or error}.",
            fix="check that folder, or set EDGEKIT_HOSTS to another one",
        ) from error


def disk_full_error() -> HostError:
    """The error for a full disk."""
    return HostError(
        f"The disk is full: no space left at {root()}.",
        fix="free some space, or set EDGEKIT_HOSTS to a folder on another disk",
    )
