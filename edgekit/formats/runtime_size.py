"""How large the runtime is that a file needs: what can be measured of it here, and what it
is the size of.
"""

import importlib.metadata
import platform
from typing import Any


def measured(
    package: str, library: str, needed: int, available: int, what: str = "operators"
) -> dict[str, Any]:
    """The bytes of an installed package's shared library, and how many of its ``what`` a
    file needs.

    The library holds all of them and Python's bindings, so it is an upper bound of a build
    for one model.
    """
    files = importlib.metadata.files(package) or []
    path = next(
        (
            entry
            for entry in files
            if entry.name.startswith(library) and ".so" in entry.name
        ),
        None,
    )
    found = path.locate().stat().st_size if path is not None else None  # type: ignore[attr-defined]  # a pathlib.Path
    where = f"{path.name if path else library} of {package} {importlib.metadata.version(package)} for {platform.machine()}, with all {what}"
    return {
        "runtime_bytes": found,
        "runtime_is": f"{where}; a build for one model is smaller, and was not made here",
        what: needed,
        f"{what}_of": available,
    }
