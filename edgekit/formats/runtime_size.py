"""The size of the runtime that a file needs, as far as it can be measured here."""

import importlib.metadata
import platform
from typing import Any


def measure_runtime(
    package: str,
    library: str,
    needed: int,
    available: int,
    what: str = "operators",
) -> dict[str, Any]:
    """Return the bytes of an installed package's shared library, and how many of its ``what``
    a file needs.

    The library has all ``available`` ones and Python's bindings, so it is an upper bound of a
    build for one model. ``runtime_bytes`` is None if the package has no such library.
    """
    files = importlib.metadata.files(package) or []
    libraries = [
        file
        for file in files
        if file.name.startswith(library) and ".so" in file.name
    ]
    name = libraries[0].name if libraries else library
    version = importlib.metadata.version(package)
    return {
        "runtime_bytes": _size(libraries[0]) if libraries else None,
        "runtime_is": f"{name} of {package} {version} for {platform.machine()}, with all"
        f" {what}; a build for one model is smaller, and was not built here",
        what: needed,
        f"{what}_of": available,
    }


def _size(file: importlib.metadata.PackagePath) -> int:
    size: int = file.locate().stat().st_size  # type: ignore[attr-defined]  # a pathlib.Path
    return size
