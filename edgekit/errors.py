"""The errors that a user can fix. Anything else that escapes is a bug in edgekit.

* EdgekitError
  - RecipeError       a recipe file is invalid
  - TargetError       a target file is invalid
  - HostError         a host file is invalid, or a host is not set up or not reachable
  - TaskError         the data, the loss or the metric cannot be used
  - ModelError        the network or its weights cannot be loaded, or do not fit the task
  - PlanError         no chain of steps leads from this recipe to this target
  - MissingBackend    a package or a tool that the plan needs is not installed
  - StepError         a step refused its input, or broke its contract
    - NothingToDo     a network has nothing that a scheme could change
  - RunnerError       a runtime refused a file, crashed or timed out
  - CacheError        the cache folder cannot be read or written
  - ReportError       a finished run cannot be read back
  - BundleError       a bundle is incomplete or modified, or cannot be verified
  - EstimateError     a latency table is invalid, or was recorded for other files

The command line prints these as ``Error: ...`` with a ``Fix:`` line; a bug shows its traceback.
"""

import difflib
from collections.abc import Iterable


class EdgekitError(Exception):
    """An error that the user can fix.

    Args:
        message: What is wrong, and where.
        fix: What to do about it, in the imperative; None if there is no general advice.
    """

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = message
        self.fix = fix
        super().__init__(message if fix is None else f"{message}\n  Fix: {fix}")


class RecipeError(EdgekitError):
    """A recipe file is invalid."""


class TargetError(EdgekitError):
    """A target file is invalid."""


class HostError(EdgekitError):
    """A host file is invalid, or a host is not set up or not reachable."""


class TaskError(EdgekitError):
    """The data, the loss or the metric cannot be used."""


class ModelError(EdgekitError):
    """The network or its weights cannot be loaded, or do not fit the task."""


class PlanError(EdgekitError):
    """No chain of steps leads from this recipe to this target."""


class MissingBackend(EdgekitError):
    """A package or a tool that the plan needs is not installed."""


class StepError(EdgekitError):
    """A step refused its input, or broke its contract."""


class NothingToDo(StepError):
    """A network has nothing that a scheme could change."""


class RunnerError(EdgekitError):
    """A runtime refused a file, crashed or timed out."""


class CacheError(EdgekitError):
    """The cache folder cannot be read or written."""


class ReportError(EdgekitError):
    """A finished run cannot be read back."""


class BundleError(EdgekitError):
    """A bundle is incomplete or modified, or cannot be verified."""


class EstimateError(EdgekitError):
    """A latency table is invalid, or was recorded for other files."""


def unknown(kind: str, name: str, valid_names: Iterable[str]) -> str:
    """Return the message for a name that does not exist, with the nearest one that does.

    >>> unknown("step", "exprt_onnx", ["export_onnx", "export_tflite"])
    "Unknown step 'exprt_onnx'. Did you mean 'export_onnx'?"
    """
    return f"Unknown {kind} {name!r}. {suggest(name, valid_names)}".rstrip()


def suggest(name: str, valid_names: Iterable[str]) -> str:
    """Return a sentence that helps with an unknown name.

    The nearest valid name; all of them if none is similar; empty if there are none.
    """
    candidates = sorted(valid_names)
    closest = nearest(name, candidates)
    if closest is not None:
        return f"Did you mean {closest!r}?"
    return f"Expected one of: {', '.join(candidates)}." if candidates else ""


def nearest(name: str, valid_names: Iterable[str]) -> str | None:
    """Return the valid name that is most similar to ``name``; None if none is similar."""
    matches = difflib.get_close_matches(name, sorted(valid_names), n=1)
    return matches[0] if matches else None


def condense(message: object, limit: int = 240) -> str:
    """Return the start of another program's message on one line, at most ``limit``
    characters long.

    ``message`` is a text or an exception; the name of an exception without a text.
    """
    text = " ".join(str(message).split())[:limit]
    if not text and isinstance(message, BaseException):
        return type(message).__name__
    return text
