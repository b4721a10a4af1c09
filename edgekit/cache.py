"""The content-addressed store of artifacts and measurements.

An entry is a folder ``<root>/<key>/`` with a ``manifest.json``. It is written under a temporary
name, synced and renamed, so a killed run leaves no partial entry. The hash of every file is
checked when an entry is read; a modified entry is rebuilt.
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
    """Return ``$EDGEKIT_CACHE``, else edgekit's folder in the user's cache folder."""
    configured = os.environ.get("EDGEKIT_CACHE")
    if configured:
        return pathlib.Path(configured)
    return pathlib.Path(platformdirs.user_cache_dir("edgekit", appauthor=False))


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Cache:
    """Artifacts and measurements by key.

    Args:
        root: The folder of the entries; it is created, and what killed runs left is removed.
        say: Called with one line for each damaged entry.

    Raises:
        CacheError: The folder cannot be created or written.
    """

    def __init__(
        self, root: pathlib.Path, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.root = root
        self._say = say
        with writing(root):
            make_folder(root / "tmp")
        self._sweep()

    def find(self, key: str) -> Artifact | None:
        """Return the artifact of a key; None if there is none, or a damaged one.

        A damaged entry is removed.
        """
        folder = self.root / key
        if not folder.exists():
            return None
        try:
            return _open(folder)
        except _DAMAGE as problem:
            self._say(
                f"rebuilding damaged cache entry {key[:12]}: {_first_line(problem)}"
            )
            self._remove(folder)
            return None

    def build(
        self,
        key: str,
        parent: str | None,
        step: str,
        make: Callable[[pathlib.Path], Artifact],
    ) -> Artifact:
        """Let ``make`` fill an empty folder, then seal it as the entry of ``key``.

        Atomic: if ``make`` fails, no entry and no temporary folder remain.
        """
        with self._temporary_folder() as folder:
            identity = {"key": key, "parent": parent, "step": step}
            _seal(make(folder).model_copy(update=identity), folder)
            self._publish(folder, self.root / key)
        # Read back: if another run has sealed the same key first, its files are used.
        return _open(self.root / key)

    def record(
        self, key: str, make: Callable[[], Any], *, fresh: bool = False
    ) -> Any:
        """Return the JSON value of a key, computing and storing it if it is missing.

        Args:
            key: The entry.
            make: Computes the value.
            fresh: Compute it even if it is stored.
        """
        folder = self.root / key
        if not fresh and folder.exists():
            try:
                return _read_manifest(folder)
            except _DAMAGE as problem:
                self._say(
                    f"repeating damaged cached measurement {key[:12]}: {_first_line(problem)}"
                )
        value = make()
        with self._temporary_folder() as temporary:
            _write(
                temporary / MANIFEST, {"value": value, "seal": digest(value)}
            )
            self._remove(folder)
            self._publish(temporary, folder)
        return value

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[pathlib.Path]:
        folder = self.root / "tmp" / _temporary_name()
        with writing(self.root):
            try:
                folder.mkdir(
                    parents=True
                )  # inside: Ctrl-C may follow immediately
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: pathlib.Path, final: pathlib.Path) -> None:
        sync_folder(folder)
        try:
            folder.rename(final)
        except OSError as problem:
            # Another run has sealed the same key first; its content is the same.
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync_folder(self.root)

    def _remove(self, folder: pathlib.Path) -> None:
        """Remove an entry by one rename, so that no other run sees a partial one."""
        removed = self.root / "tmp" / _temporary_name()
        # Another run may have removed it first.
        with writing(self.root), contextlib.suppress(FileNotFoundError):
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove the temporary folders of killed runs."""
        for folder in (self.root / "tmp").iterdir():
            process, _, rest = folder.name.partition("-")
            # The processes of another machine or container are not visible from here, so its
            # folders are kept.
            is_local = rest.partition("-")[0] == _machine_id()
            if (
                not is_local
                or not process.isdigit()
                or int(process) == os.getpid()
            ):
                continue
            if not _is_alive(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(where: pathlib.Path) -> Iterator[None]:
    """Translate errors of the file system inside the block into CacheError."""
    try:
        yield
    except OSError as problem:
        if problem.errno in _FULL:
            raise _disk_full(where) from problem
        if problem.errno in _UNWRITABLE:
            raise CacheError(
                f"Cannot write {where}: {problem.strerror}.",
                fix="choose another folder with --cache or --out, or set EDGEKIT_CACHE",
            ) from problem
        raise
    except CacheError:
        raise
    except Exception as problem:
        # safetensors, onnx and torch wrap the system's error; only its text remains.
        if "No space left on device" in str(problem):
            raise _disk_full(where) from problem
        raise


def _disk_full(where: pathlib.Path) -> CacheError:
    return CacheError(
        f"The disk is full: cannot write {where}. Finished steps are kept.",
        fix="free some space and run the same command, "
        "or choose another folder with --cache or --out",
    )


def make_folder(folder: pathlib.Path) -> None:
    """Create a folder and its parents, or raise CacheError."""
    with writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as problem:
            raise CacheError(
                f"Cannot create {folder}: {problem.strerror}.",
                fix="choose another folder with --cache or --out",
            ) from problem


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file atomically: under a temporary name, synced, then renamed."""
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
    """Flush a folder's entries to disk, so that they survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _DamagedError(Exception):
    """An entry differs from what was sealed."""


#: What reading a modified entry may raise. Other errors of the system do not mean damage.
_DAMAGE = (
    _DamagedError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    ValueError,
    RecursionError,
)


def _seal(artifact: Artifact, folder: pathlib.Path) -> None:
    """Sync the files, fill in their hashes and sizes, and write the manifest with its seal."""
    parts = []
    for part in artifact.parts:
        files = {
            role: _seal_file(file, folder) for role, file in part.files.items()
        }
        parts.append(part.model_copy(update={"files": files}))
    body = artifact.model_copy(update={"parts": tuple(parts)}).model_dump(
        mode="json"
    )
    _write(folder / MANIFEST, {"value": body, "seal": digest(body)})


def _seal_file(file: File, folder: pathlib.Path) -> File:
    path = folder / file.path
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return File(
        path=file.path, sha256=file_digest(path), bytes=path.stat().st_size
    )


def _open(folder: pathlib.Path) -> Artifact:
    artifact = Artifact.model_validate(_read_manifest(folder))
    artifact = artifact.model_copy(update={"folder": folder})
    if artifact.key != folder.name:
        raise _DamagedError("its key differs")
    for part in artifact.parts:
        for file in part.files.values():
            if file_digest(folder / file.path) != file.sha256:
                raise _DamagedError(f"the hash of {file.path} differs")
    return artifact


def _read_manifest(folder: pathlib.Path) -> Any:
    """Return the value of a manifest whose seal matches."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    is_valid = isinstance(manifest, Mapping) and "seal" in manifest
    if not is_valid or manifest["seal"] != digest(manifest.get("value")):
        raise _DamagedError("its manifest was modified")
    return manifest["value"]


def _write(path: pathlib.Path, value: Any) -> None:
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())


def _machine_id() -> str:
    """Identify the set of processes that is visible from here, in hexadecimal digits.

    The host name and, on Linux, the pid namespace.
    """
    try:
        namespace = pathlib.Path("/proc/self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return hashlib.sha256(
        f"{platform.node()} {namespace}".encode()
    ).hexdigest()[:12]


def _temporary_name() -> str:
    """Return a unique name for a temporary folder that identifies its process."""
    return f"{os.getpid()}-{_machine_id()}-{uuid.uuid4().hex}"


def _first_line(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
