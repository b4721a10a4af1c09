"""Every error that a user can mend.

Anything else that escapes is a bug in edgekit and shows its traceback.

* EdgekitError
  - RecipeError       a recipe file is wrong
  - TargetError       a target file is wrong
  - HostError         a host file is wrong, or a host is not set up or cannot be reached
  - TaskError         the data, the loss or the metric cannot be used
  - ModelError        the network or its weights cannot be loaded, or do not fit the task
  - PlanError         no chain of steps leads from this recipe to this target
  - MissingBackend    a package or a tool that the plan needs is not installed
  - StepError         a step refused its input, or broke its promise
    - NothingToDo     a network has nothing that a scheme could change
  - RunnerError       a runtime refused a file, crashed or did not answer in time
  - CacheError        the cache folder cannot be read or written
  - ReportError       a finished run cannot be read back
  - BundleError       a shipped folder is not whole, or cannot be verified
  - EstimateError     a latency table is wrong, or was recorded for other files
"""


class EdgekitError(Exception):
    """An error with a message for the user and, where there is one, the way out."""

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = message
        self.fix = fix
        super().__init__(message if fix is None else f"{message}\n  Fix: {fix}")


class RecipeError(EdgekitError):
    """A recipe file is wrong."""


class TargetError(EdgekitError):
    """A target file is wrong."""


class HostError(EdgekitError):
    """A host file is wrong, or a host is not set up or cannot be reached."""


class TaskError(EdgekitError):
    """The data, the loss or the metric cannot be used."""


class ModelError(EdgekitError):
    """The network or its weights cannot be loaded, or do not fit the task."""


class PlanError(EdgekitError):
    """No chain of steps leads from this recipe to this target."""


class MissingBackend(EdgekitError):
    """A package or a tool that the plan needs is not installed."""


class StepError(EdgekitError):
    """A step refused its input, or broke its promise."""


class NothingToDo(StepError):
    """A network has nothing that a scheme could change."""


class RunnerError(EdgekitError):
    """A runtime refused a file, crashed or did not answer in time."""


class CacheError(EdgekitError):
    """The cache folder cannot be read or written."""


class ReportError(EdgekitError):
    """A finished run cannot be read back."""


class BundleError(EdgekitError):
    """A shipped folder is not whole, or cannot be verified."""


class EstimateError(EdgekitError):
    """A latency table is wrong, or was recorded for other files."""
