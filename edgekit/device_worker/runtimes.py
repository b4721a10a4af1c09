"""Loads a model file in its runtime.

Every runtime is one file of this folder, ``runtime_<name>.py``, found by its name. It
imports the runtime only when a file is loaded, so that the others work without it. It
defines

* ``DISTRIBUTIONS``: the packages that contain the runtime, as pip names them;
* ``SUFFIXES`` of the files that it loads;
* ``FORMATS`` whose files it loads if there is no accelerator; for some formats that file is
  a proxy for what the device executes;
* ``Model``: a class with the interface of ``LoadedModel``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any, Protocol

from .frames import WorkerError

if TYPE_CHECKING:
    from .tensors import Array, Call

_PREFIX = "runtime_"


class LoadedModel(Protocol):
    """A file in its runtime, constructed as ``Model(path, threads, optimize)``.

    ``Model`` of a format with a separate file of weights accepts its path as ``weights``.

    The constructor raises WorkerError("missing", ...) if the runtime cannot be imported;
    any other exception means that the file cannot be loaded.
    """

    #: Name and version of the runtime, such as ``onnxruntime 1.20.1``.
    runtime: str
    #: Per tensor: ``name``, ``dtype`` as numpy names it, ``shape`` with None for a free
    #: axis, and ``quantization`` as [scale, zero point] or None.
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def bind(self, arrays: dict[str, Array]) -> Call:
        """Prepare one inference on these arrays, which can be called repeatedly."""
        ...


def runtime_names() -> list[str]:
    """The runtimes that this worker has a file for, installed or not."""
    package = sys.modules[__package__ or ""]
    # On a device the modules come from a text and there is no folder to list.
    names = {name.rpartition(".")[2] for name in sys.modules if _is_ours(name)}
    names.update(
        module.name for module in pkgutil.iter_modules(package.__path__)
    )
    return sorted(
        name[len(_PREFIX) :] for name in names if name.startswith(_PREFIX)
    )


def load_model(
    runtime: str, path: str, threads: int, optimize: bool, weights: str = ""
) -> LoadedModel:
    """Load a file, with its separate file of weights if it has one.

    Raises WorkerError with the kind ``request`` for an unknown runtime, ``missing`` if the
    runtime cannot be imported, and ``load`` if there is no such file or it is refused.
    """
    names = runtime_names()
    if runtime not in names:
        raise WorkerError(
            "request",
            f"unknown runtime {runtime!r}; expected one of {', '.join(names)}",
        )
    missing = [
        file for file in (path, weights) if file and not os.path.isfile(file)
    ]
    if missing:
        raise WorkerError("load", f"file {missing[0]} does not exist")
    module = _import_runtime(runtime)
    options = {"weights": weights} if weights else {}
    try:
        model: LoadedModel = module.Model(path, threads, optimize, **options)
    except WorkerError:
        raise
    except Exception as error:
        raise WorkerError("load", f"{type(error).__name__}: {error}") from error
    return model


def list_versions() -> dict[str, str]:
    """The installed versions of numpy and of every runtime, by distribution name."""
    distributions = ["numpy"]
    for name in runtime_names():
        distributions += _import_runtime(name).DISTRIBUTIONS
    versions = {name: installed_version(name) for name in distributions}
    return {name: version for name, version in versions.items() if version}


def list_suffixes() -> set[str]:
    """The suffixes of all files that a runtime loads, with their dots."""
    suffixes: set[str] = set()
    for name in runtime_names():
        suffixes.update(_import_runtime(name).SUFFIXES)
    return suffixes


def runtime_of(format_name: str) -> str:
    """The runtime that loads the file of a format. Raises KeyError for an unknown format."""
    for name in runtime_names():
        if format_name in _import_runtime(name).FORMATS:
            return name
    raise KeyError(format_name)


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _import_runtime(name: str) -> Any:
    return importlib.import_module(f".{_PREFIX}{name}", __package__)


def _is_ours(module: str) -> bool:
    return module.startswith(f"{__package__}.")
