"""edgekit: make a trained PyTorch network small and fast, and prove it on each target."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["EdgekitError", "Recipe", "Report", "Scheme", "Target", "Task", "__version__"]

if TYPE_CHECKING:
    from edgekit.errors import EdgekitError
    from edgekit.recipe import Recipe
    from edgekit.report import Report
    from edgekit.scheme import Scheme
    from edgekit.target import Target
    from edgekit.task import Task

_HOMES = {
    "EdgekitError": "errors",
    "Recipe": "recipe",
    "Report": "report",
    "Scheme": "scheme",
    "Target": "target",
    "Task": "task",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``edgekit --help`` stays
    quick.
    """
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgekit.{_HOMES[name]}"), name)
