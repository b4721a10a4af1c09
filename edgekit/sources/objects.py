"""Networks that are given to the Python API as objects instead of by name."""

import copy
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.recipe import OBJECT_PREFIX
from edgekit.sources.loader import parts_of

#: Modules of these packages do not change without their version.
_PACKAGES = ("torch", "torchvision", "timm", "transformers")


class ModelObject:
    """A network, or a function that builds one, under a name for the recipe.

    Attributes:
        name: starts with ``object:`` and ends with a piece of the fingerprint.
        fingerprint: changes with the weights, the structure and the classes' source code.
    """

    def __init__(self, model: nn.Module | Callable[[], Any]) -> None:
        """Check the network, and hash it.

        Args:
            model: an ``nn.Module`` with its weights, or a function without arguments that
                returns one or a dict of part name to ``nn.Module``.

        Raises:
            ModelError: the object is neither, or the function does not return networks.
        """
        self._label = _label(model)
        self._build = _builder(model, self._label)
        self.fingerprint = _fingerprint(self.networks())
        self.name = f"{OBJECT_PREFIX}{self._label}-{self.fingerprint[:8]}"

    def networks(self) -> dict[str, nn.Module]:
        """Fresh networks by part name, in the order in which they run."""
        return parts_of(self._build(), self._label)


def _label(model: Any) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    return str(getattr(model, "__name__", type(model).__name__))


def _builder(model: Any, label: str) -> Callable[[], Any]:
    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    if callable(model) and not inspect.isclass(model):
        function: Callable[[], Any] = model
        return function
    raise ModelError(
        f"Expected a network, got {label}.",
        fix="give an nn.Module, a function that returns one, or a name such as zoo:resnet8",
    )


def _fingerprint(parts: dict[str, nn.Module]) -> str:
    total = hashlib.sha256()
    for name, network in parts.items():
        total.update(f"{name}:{network!r}".encode())
        for key, tensor in network.state_dict().items():
            total.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            content = tensor.detach().cpu().contiguous().reshape(-1)
            total.update(content.view(torch.uint8).numpy().tobytes())
        for source in sorted(_sources(network)):
            total.update(source.encode())
    return total.hexdigest()


def _sources(network: nn.Module) -> set[str]:
    """The source code of the classes of a network, except those of known packages."""
    classes = {type(module) for module in network.modules()}
    sources = set()
    for each in classes:
        if each.__module__.partition(".")[0] in _PACKAGES:
            continue
        try:
            sources.add(inspect.getsource(each))
        except (OSError, TypeError):
            sources.add(each.__qualname__)  # defined in an interactive session
    return sources
