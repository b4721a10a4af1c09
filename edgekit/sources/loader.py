"""From a model's name to a function that makes its fresh networks.

``zoo:NAME``, ``file.py:function`` or ``package.module:function``. A user's function takes
no arguments and gives an nn.Module, or a dict of them by part name in the order in which
they run.
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
    """Where a model comes from: of the zoo, or a user's function."""

    spec: str

    @property
    def is_zoo(self) -> bool:
        """True for a network that edgekit brings."""
        return self.spec in SOURCES


def resolve(spec: str) -> Source:
    """Read a model's name, or raise ModelError with the nearest known one.

    Nothing is imported.
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
            f"{spec!r} names a file, but no function in it.", fix=f"write {spec}:function"
        )
    hint = suggest(f"zoo:{spec}", SOURCES)
    raise ModelError(
        f"Unknown model {spec!r}. {hint}",
        fix="write zoo:NAME, file.py:function or package.module:function",
    )


def networks(spec: str, channels: int | None, classes: int | None) -> "Networks":
    """A function that makes the model's fresh networks, by part name, in the order in which
    they run.

    ``channels`` and ``classes`` are the task's; only the zoo needs them. Raises ModelError,
    at once for a wrong name and for a file that cannot be imported, at the call for a
    function that fails.
    """
    source = resolve(spec)
    if source.is_zoo:
        if channels is None or classes is None:
            what = (
                "images (one input, channels first)"
                if channels is None
                else "class numbers as labels"
            )
            raise ModelError(
                f"{spec} classifies images, but the task has no {what}.",
                fix="name your own network: file.py:function",
            )
        return lambda: _of_zoo(spec, channels, classes)
    function = user_code.load_function(spec, ModelError)
    given: list[weakref.ref[nn.Module]] = []

    def fresh() -> "dict[str, nn.Module]":
        made = _by_part(function(), spec)
        earlier = [network for ref in given if (network := ref()) is not None]
        if any(network is other for network in made.values() for other in earlier):
            fix = "build the network inside the function, so that each call makes a new one"
            raise ModelError(
                f"{spec} gives the same network again at its second call.", fix=fix
            )
        given[:] = [weakref.ref(network) for network in (*earlier, *made.values())]
        return made

    return fresh


def fingerprint(spec: str) -> str:
    """A hash that changes when the source code of the model does: its file, and the
    neighbours that the file imports.
    """
    source = resolve(spec)
    if not source.is_zoo:
        return user_code.fingerprint(user_code.module_files(spec, ModelError))
    found = importlib.util.find_spec(SOURCES.entry(spec).where.partition(":")[0])
    if found is None or found.origin is None:
        raise ModelError(
            f"The source of {spec} is not installed.", fix="install edgekit again"
        )
    return user_code.fingerprint((pathlib.Path(found.origin),))


def _of_zoo(spec: str, channels: int, classes: int) -> "dict[str, nn.Module]":
    try:
        return {MAIN: SOURCES.load(spec)(channels, classes)}
    except (
        RuntimeError,
        MemoryError,
    ) as problem:  # labels such as 1000000007 ask for a layer that does not fit in memory
        fix = "number the classes from 0, and give images of few channels"
        raise ModelError(
            f"{spec} cannot be made for {channels} channels and {classes} classes: out of memory.",
            fix=fix,
        ) from problem


def _by_part(made: Any, spec: str) -> "dict[str, nn.Module]":
    """What a user's function gave, checked."""
    from torch import nn  # the function has imported it already; `edgekit plan` must not

    parts = dict(made) if isinstance(made, Mapping) else {MAIN: made}
    if isinstance(made, nn.ModuleDict):
        parts = dict(made.items())
    wrong = [
        f"{name}: {type(part).__name__}"
        for name, part in parts.items()
        if not isinstance(part, nn.Module)
    ]
    if wrong or not parts:
        what = (
            "an empty dict"
            if not parts
            else ", ".join(wrong)
            if isinstance(made, Mapping)
            else type(made).__name__
        )
        hint = (
            "return the network itself, not its class or its weights"
            if not isinstance(made, Mapping)
            else "return a dict of part name to nn.Module"
        )
        raise ModelError(
            f"{spec} gave {what}, not an nn.Module (or a dict of them).", fix=hint
        )
    bad = [
        str(name)
        for name in parts
        if not isinstance(name, str) or not _PART_NAME.fullmatch(name)
    ]
    if bad:
        raise ModelError(
            f"{spec}: these part names cannot be file names: {', '.join(bad)}.",
            fix="use letters, digits, _ and -",
        )
    for name, part in parts.items():
        _refuse_unfinished(part, spec if len(parts) == 1 else f"{spec}, part {name}")
    return parts


def _refuse_unfinished(network: "nn.Module", where: str) -> None:
    """Raise ModelError for a network that cannot be taken apart and rebuilt here, whatever
    its data are.
    """
    import torch

    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(
            f"{where}: the network is compiled by torch.jit.",
            fix="return the nn.Module that it was compiled from",
        )
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    lazy = [name for name, tensor in tensors.items() if torch.nn.parameter.is_lazy(tensor)]
    if lazy:
        fix = "give the layers their sizes (Conv2d in place of LazyConv2d)"
        raise ModelError(
            f"{where}: the sizes of {', '.join(lazy[:4])} are not known before the network runs.",
            fix=fix,
        )
    away = sorted({str(tensor.device) for tensor in tensors.values()} - {"cpu"})
    if away:
        raise ModelError(
            f"{where}: the network is on the device {', '.join(away)}.",
            fix="return it on the CPU, with its weights: network.cpu()",
        )
