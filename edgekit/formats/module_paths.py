"""Paths of PyTorch modules, such as ``encoder.layers.0.conv``, as files store them."""

from collections.abc import Iterable


def is_within(path: str, modules: Iterable[str]) -> bool:
    """Whether a module's path is one of ``modules``, or below one of them."""
    return any(
        path == outer or path.startswith(f"{outer}.") for outer in modules
    )
