"""Building the networks that a model's name stands for.

A name is ``zoo:NAME``, ``file.py:function`` or ``package.module:function``. A user's
function has no arguments and returns an nn.Module, or a dict of them by part name in the
order in which they run.
"""

import dataclasses
import importlib.util
import pathlib
import re
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgekit import user_code
from edgekit.artifact import MAIN
from edgekit.errors import ModelError, suggest, unknown
from edgekit.registry import SOURCES

if TYPE_CHECKING:
    from torch import nn

    Networks = Callable[[], dict[str, nn.Module]]

_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a model comes from: the zoo, or a user's function."""

    spec: str

    @property
    def is_zoo(self) -> bool:
        """Whether the network is part of edgekit."""
        return self.spec in SOURCES


def resolve(spec: str) -> Source:
    """Parse a model's name. Nothing is imported.

    Raises ModelError for an unknown name, with the nearest known one.
    """
    if spec in SOURCES or user_code.is_function_spec(spec):
        return Source(spec)
    if spec.startswith("zoo:"):
        raise ModelError(
            unknown("network", spec, SOURCES),
            fix="'edgekit models' lists them",
        )
    if spec.endswith(".py"):
        raise ModelError(
            f"{spec!r} names a file, but no function in it.",
            fix=f"write {spec}:function",
        )
    hint = suggest(f"zoo:{spec}", SOURCES)
    raise ModelError(
        f"Unknown model {spec!r}. {hint}",
        fix="write zoo:NAME, file.py:function or package.module:function",
    )


def network_builder(
    spec: str, channels: int | None, classes: int | None
) -> "Networks":
    """A function that builds new networks of a model each time it is called.

    It returns them by part name, in the order in which they run. ``channels`` and
    ``classes`` are the task's; only the zoo needs them. Raises ModelError, at once for an
    unknown name and for a file that cannot be imported, at the call for a function that
    fails.
    """
    source = resolve(spec)
    if not source.is_zoo:
        return _function_builder(spec)
    if channels is None or classes is None:
        what = "class numbers as labels"
        if channels is None:
            what = "images (one input, channels first)"
        raise ModelError(
            f"{spec} classifies images, but the task has no {what}.",
            fix="name your own network: file.py:function",
        )
    return lambda: _build_zoo_network(spec, channels, classes)


def _function_builder(spec: str) -> "Networks":
    function = user_code.load_function(spec, ModelError)
    built: list[weakref.ref[nn.Module]] = []

    def build() -> "dict[str, nn.Module]":
        networks = parts_of(function(), spec)
        earlier = [ref() for ref in built]
        alive = {id(network) for network in earlier if network is not None}
        if any(id(network) in alive for network in networks.values()):
            raise ModelError(
                f"{spec} returned the same network at its second call.",
                fix="build the network inside the function, "
                "so that each call builds a new one",
            )
        built[:] = [ref for ref in built if ref() is not None]
        built.extend(weakref.ref(network) for network in networks.values())
        return networks

    return build


def fingerprint(spec: str) -> str:
    """A hash that changes when the source code of the model does.

    It covers the model's file, and the modules next to it that the file imports.
    """
    source = resolve(spec)
    if not source.is_zoo:
        return user_code.fingerprint(user_code.module_files(spec, ModelError))
    module, _, _ = SOURCES.entry(spec).where.partition(":")
    module_spec = importlib.util.find_spec(module)
    if module_spec is None or module_spec.origin is None:
        raise ModelError(
            f"The source of {spec} is not installed.",
            fix="install edgekit again",
        )
    return user_code.fingerprint((pathlib.Path(module_spec.origin),))


def _build_zoo_network(
    spec: str, channels: int, classes: int
) -> "dict[str, nn.Module]":
    try:
        return {MAIN: SOURCES.load(spec)(channels, classes)}
    # Labels such as 1000000007 ask for a layer that does not fit in memory.
    except (RuntimeError, MemoryError) as problem:
        raise ModelError(
            f"{spec} cannot be built for {channels} channels and {classes} classes: "
            "out of memory.",
            fix="number the classes from 0, and give images of few channels",
        ) from problem


def parts_of(result: Any, spec: str) -> "dict[str, nn.Module]":
    """The networks that a user's function returned, by part name.

    ``spec`` begins the messages. Raises ModelError if the result is not an nn.Module or a
    dict of them, a part name cannot be a file name, or a network cannot be rebuilt here.
    """
    from torch import (
        nn,
    )  # the function has imported it already; `edgekit plan` must not

    is_dict = isinstance(result, Mapping)
    parts = {MAIN: result}
    if is_dict or isinstance(result, nn.ModuleDict):
        parts = dict(result.items())
    invalid = [
        f"{name}: {type(part).__name__}"
        for name, part in parts.items()
        if not isinstance(part, nn.Module)
    ]
    if invalid or not parts:
        what = ", ".join(invalid) or "an empty dict"
        fix = "return a dict of part name to nn.Module"
        if parts and not is_dict:
            what = type(result).__name__
            fix = "return the network itself, not its class or its weights"
        raise ModelError(
            f"{spec} returned {what}, not an nn.Module (or a dict of them).",
            fix=fix,
        )
    _check_part_names(parts, spec)
    for name, part in parts.items():
        where = spec if len(parts) == 1 else f"{spec}, part {name}"
        _check_rebuildable(part, where)
    return parts


def _check_part_names(parts: Mapping[Any, "nn.Module"], spec: str) -> None:
    invalid = [
        str(name)
        for name in parts
        if not isinstance(name, str) or not _PART_NAME.fullmatch(name)
    ]
    if invalid:
        raise ModelError(
            f"{spec}: these part names cannot be file names: {', '.join(invalid)}.",
            fix="use letters, digits, _ and -",
        )


def _check_rebuildable(network: "nn.Module", where: str) -> None:
    """Raise ModelError for a network that cannot be traced and rebuilt here."""
    import torch

    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(
            f"{where}: the network is compiled by torch.jit.",
            fix="return the nn.Module that it was compiled from",
        )
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    lazy = [
        name
        for name, tensor in tensors.items()
        if torch.nn.parameter.is_lazy(tensor)
    ]
    if lazy:
        names = ", ".join(lazy[:4])
        raise ModelError(
            f"{where}: the sizes of {names} are not known before the network runs.",
            fix="give the layers their sizes (Conv2d in place of LazyConv2d)",
        )
    devices = {str(tensor.device) for tensor in tensors.values()} - {"cpu"}
    if devices:
        raise ModelError(
            f"{where}: the network is on the device {', '.join(sorted(devices))}.",
            fix="return it on the CPU, with its weights: network.cpu()",
        )
