"""The content-addressed store of artifacts and measurements.

An entry is a folder ``<root>/<key>/`` with a ``manifest.json``. It is written under another
name, synced and renamed, so a killed run leaves no half entry. Every file's hash is checked
when an entry is read; an entry that was changed is rebuilt.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import platformdirs

from edgekit.artifact import Artifact, File
from edgekit.errors import CacheError

MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
)


def default_root() -> pathlib.Path:
    """``$EDGEKIT_CACHE``, else edgekit's folder in the user's cache folder."""
    given = os.environ.get("EDGEKIT_CACHE")
    return (
        pathlib.Path(given)
        if given
        else pathlib.Path(platformdirs.user_cache_dir("edgekit", appauthor=False))
    )


def digest(value: Any) -> str:
    """The hash of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
    ).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Cache:
    """Artifacts and measurements by key. ``say`` is told when an entry is rebuilt."""

    def __init__(
        self, root: pathlib.Path, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.root = root
        self._say = say
        with writing(root):
            make_folder(root / "tmp")
        self._sweep()

    def find(self, key: str) -> Artifact | None:
        """The sealed artifact of a key; None where there is none, or where it was damaged
        (it is then removed).
        """
        folder = self.root / key
        if not folder.exists():
            return None
        try:
            return _opened(folder)
        except _DAMAGE as problem:
            self._say(
                f"the cache entry {key[:12]} was damaged ({_short(problem)}); it is built again"
            )
            self._drop(folder)
            return None

    def build(
        self,
        key: str,
        parent: str | None,
        step: str,
        make: Callable[[pathlib.Path], Artifact],
    ) -> Artifact:
        """Let ``make`` fill an empty folder, then seal it under ``key``.

        Nothing is left behind where ``make`` fails.
        """
        with self._folder() as folder:
            made = make(folder)
            _seal(
                made.model_copy(update={"key": key, "parent": parent, "step": step}), folder
            )
            self._publish(folder, self.root / key)
        # Read back: where another run has sealed the key first, its files are the ones that
        # count.
        return _opened(self.root / key)

    def record(self, key: str, make: Callable[[], Any], *, fresh: bool = False) -> Any:
        """A JSON value by key: read where it is there and whole, else made and kept.

        ``fresh`` makes it again.
        """
        folder = self.root / key
        if not fresh and folder.exists():
            try:
                return _unwrapped(
                    json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                )
            except _DAMAGE as problem:
                self._say(
                    f"the cached measurement {key[:12]} was damaged ({_short(problem)}); it is taken again"
                )
        value = make()
        with self._folder() as made:
            _write(made / MANIFEST, {"value": value, "seal": digest(value)})
            self._drop(folder)
            self._publish(made, folder)
        return value

    @contextlib.contextmanager
    def _folder(self) -> Iterator[pathlib.Path]:
        folder = self.root / "tmp" / _own_name()
        with writing(self.root):
            try:
                folder.mkdir(parents=True)  # inside: Ctrl-C may come right behind it
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: pathlib.Path, final: pathlib.Path) -> None:
        sync_folder(folder)
        try:
            folder.rename(final)
        except OSError as problem:
            # Another run has sealed the same key first: the same content, so that one is
            # kept.
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync_folder(self.root)

    def _drop(self, folder: pathlib.Path) -> None:
        """Remove an entry in one move, so that no half of it is ever seen."""
        gone = self.root / "tmp" / _own_name()
        with (
            writing(self.root),
            contextlib.suppress(FileNotFoundError),
        ):  # another run may have removed it first
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed runs have left under ``tmp``."""
        for folder in (self.root / "tmp").iterdir():
            process, _, place = folder.name.partition("-")
            # A folder of another machine or container is left alone: its processes cannot
            # be seen from here.
            if (
                process.isdigit()
                and place.partition("-")[0] == _place()
                and int(process) != os.getpid()
                and not _alive(int(process))
            ):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(where: pathlib.Path) -> Iterator[None]:
    """Translate what the disk refuses into a CacheError that says what to do."""
    try:
        yield
    except OSError as problem:
        if problem.errno in _FULL:
            raise CacheError(
                f"The disk is full: {where} could not be written. What was finished before is kept.",
                fix="free some space and run the same command, or give another folder with --cache or --out",
            ) from problem
        if problem.errno in _UNWRITABLE:
            raise CacheError(
                f"{where} cannot be written: {problem.strerror}.",
                fix="give another folder with --cache or --out, or set EDGEKIT_CACHE",
            ) from problem
        raise
    except Exception as problem:
        # safetensors, onnx and torch wrap the system's error in their own; only its text is
        # left.
        if "No space left on device" in str(problem) and not isinstance(
            problem, CacheError
        ):
            raise CacheError(
                f"The disk is full: {where} could not be written. What was finished before is kept.",
                fix="free some space and run the same command, or give another folder with --cache or --out",
            ) from problem
        raise


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder and those above it, or raise CacheError where the system has no such
    place.
    """
    with writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as problem:
            raise CacheError(
                f"{folder} cannot be made: {problem.strerror}.",
                fix="give another folder with --cache or --out",
            ) from problem


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a whole file or nothing: under another name, synced, then renamed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            with partial.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def sync_folder(folder: pathlib.Path) -> None:
    """Make a folder's entries last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _DamagedError(Exception):
    """An entry is not what was sealed."""


#: What reading an entry that was changed by hand may raise. Other errors of the system are
#: not the entry's fault.
_DAMAGE = (
    _DamagedError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    ValueError,
    RecursionError,
)


def _seal(artifact: Artifact, folder: pathlib.Path) -> None:
    """Fill in hashes and sizes, and write the manifest with a seal of its own."""
    parts = []
    for part in artifact.parts:
        files = {}
        for role, file in part.files.items():
            path = folder / file.path
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            files[role] = File(
                path=file.path, sha256=file_digest(path), bytes=path.stat().st_size
            )
        parts.append(part.model_copy(update={"files": files}))
    body = artifact.model_copy(update={"parts": tuple(parts)}).model_dump(mode="json")
    _write(folder / MANIFEST, {"value": body, "seal": digest(body)})


def _opened(folder: pathlib.Path) -> Artifact:
    body = _unwrapped(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    artifact = Artifact.model_validate(body).model_copy(update={"folder": folder})
    if artifact.key != folder.name:
        raise _DamagedError("its key differs")
    for part in artifact.parts:
        for file in part.files.values():
            if file_digest(folder / file.path) != file.sha256:
                raise _DamagedError(f"{file.path} has another hash")
    return artifact


def _unwrapped(manifest: Any) -> Any:
    if not isinstance(manifest, Mapping) or manifest.get("seal") != digest(
        manifest.get("value")
    ):
        raise _DamagedError("its manifest was changed")
    return manifest["value"]


def _write(path: pathlib.Path, value: Any) -> None:
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())


def _place() -> str:
    """This machine's processes as seen from here: host name and, on Linux, the pid
    namespace; letters and digits only.
    """
    try:
        namespace = pathlib.Path("/proc/self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:12]


def _own_name() -> str:
    """A new name for a temporary folder that tells whose it is."""
    return f"{os.getpid()}-{_place()}-{uuid.uuid4().hex}"


def _short(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
