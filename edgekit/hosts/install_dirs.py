"""Where the hosts that edgekit makes lie on this machine, and what counts as ready.

    $EDGEKIT_HOSTS/<host>/<environment>-<key>/     the packages, and ready.json, written last
    $EDGEKIT_HOSTS/<host>/partial-*                what a setup is filling, or what a killed one has left
    $EDGEKIT_HOSTS/<host>.lock                     held by the setup that is at work

``key`` is the hash of all that the folder is made of, so that other pins are another
folder. A folder gets its name only when it is finished: there is never half of one.
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
#: Raised when what edgekit puts into a folder changes, so that older ones are made anew.
LAYOUT = 1


def root() -> pathlib.Path:
    """``$EDGEKIT_HOSTS``, else edgekit's folder in the user's data folder."""
    given = os.environ.get("EDGEKIT_HOSTS")
    # Absolute: a worker may be started from any folder.
    return (
        pathlib.Path(given).absolute()
        if given
        else pathlib.Path(platformdirs.user_data_path("edgekit", appauthor=False)) / "hosts"
    )


def place(host: str, name: str, made_of: Mapping[str, Any]) -> pathlib.Path:
    """Where one finished folder of a host lies, or would lie."""
    text = json.dumps({"layout": LAYOUT, **made_of}, sort_keys=True)
    return root() / host / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def told(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the setup has noted of a finished folder; None where there is no such folder, or
    none that counts.
    """
    try:
        noted = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def older(host: str, name: str) -> list[pathlib.Path]:
    """Every folder of one name, whatever it was made of."""
    return sorted(
        path
        for path in (root() / host).glob(f"{name}-*")
        if len(path.name) == len(name) + 13
    )


def retire(host: str, name: str, *kept: pathlib.Path) -> None:
    """Remove the folders of one name that were made of something else; only whoever holds
    the host's lock may.
    """
    for path in older(host, name):
        if path not in kept:
            path.rename(path.parent / f"partial-{path.name}")
    sweep(root() / host)


@contextlib.contextmanager
def filling(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder that becomes ``target`` where the block ends well, and is removed
    where it does not.
    """
    partial = target.parent / f"partial-{uuid.uuid4().hex}"
    try:
        with writing(target):
            partial.mkdir(parents=True)
            yield partial
            if target.exists():
                target.rename(target.parent / f"partial-{uuid.uuid4().hex}")
            partial.rename(target)
    finally:
        sweep(target.parent)


def sweep(folder: pathlib.Path) -> None:
    """Remove what was left half made; only whoever holds the host's lock may."""
    for path in folder.glob("partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def note(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Write the marker, as the last file."""
    (folder / MARKER).write_text(
        json.dumps({**facts, "bytes": size(folder)}, indent=1), encoding="utf-8"
    )


def remove(host: str) -> tuple[int, int]:
    """Remove all that was made for a host: how many folders, and how many bytes."""
    folder = root() / host
    if not folder.is_dir():
        return 0, 0
    count, found = sum(1 for path in folder.iterdir() if path.is_dir()), size(folder)
    with writing(folder):
        shutil.rmtree(folder)
    return count, found


def size(folder: pathlib.Path) -> int:
    """The bytes of all files in a folder; links are not followed."""
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turn what the system says of a folder into an error with a way out."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from problem
        told_by = problem.strerror or str(problem)
        raise HostError(
            f"{problem.filename or path} cannot be written: {told_by}.",
            fix="check that folder, or set EDGEKIT_HOSTS to another one",
        ) from problem


def disk_full() -> HostError:
    """The error for a full disk."""
    return HostError(
        f"The disk is full: there is no room left at {root()}.",
        fix="make room, or set EDGEKIT_HOSTS to a folder on another disk",
    )
