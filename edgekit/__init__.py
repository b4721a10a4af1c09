"""edgekit: make a trained PyTorch network small and fast, and prove it on each target.

``run``, ``plan``, ``inspect``, ``verify`` and ``load_report`` are the Python API.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "EdgekitError",
    "Gates",
    "Measurement",
    "Plan",
    "Recipe",
    "Report",
    "Scheme",
    "Target",
    "Task",
    "__version__",
    "inspect",
    "load_report",
    "plan",
    "run",
    "verify",
]

if TYPE_CHECKING:
    from edgekit.api import inspect, load_report, plan, run, verify
    from edgekit.errors import EdgekitError
    from edgekit.measurement import Measurement
    from edgekit.planning.plan import Plan
    from edgekit.recipe import Gates, Recipe
    from edgekit.report import Report
    from edgekit.scheme import Scheme
    from edgekit.target import Target
    from edgekit.task import Task

_MODULES = {
    "EdgekitError": "errors",
    "Gates": "recipe",
    "Measurement": "measurement",
    "Plan": "planning.plan",
    "Recipe": "recipe",
    "Report": "report",
    "Scheme": "scheme",
    "Target": "target",
    "Task": "task",
    "inspect": "api",
    "load_report": "api",
    "plan": "api",
    "run": "api",
    "verify": "api",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``edgekit --help`` stays quick."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgekit.{_MODULES[name]}"), name)
