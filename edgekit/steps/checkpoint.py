"""Reading a checkpoint without running any code that it may hold, and fitting it to a
network.
"""

import pathlib
import pickle
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgekit.artifact import MAIN
from edgekit.errors import ModelError

#: Where training scripts put the weights inside a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: At most this many lines of mistakes are told.
MOST_LINES = 30


def read(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a PyTorch checkpoint
    (``weights_only=True``), by name.
    """
    if not path.is_file():
        raise ModelError(
            f"There is no checkpoint {path}.",
            fix="give the path of a .safetensors file or of a saved state_dict",
        )
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except (SafetensorError, OSError, ValueError) as problem:
            raise ModelError(
                f"{path} is not a whole safetensors file: {problem}.",
                fix="write it again with safetensors.torch.save_file",
            ) from problem
    return _tensors(_unpickled(path), path)


def fit(
    networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], path: pathlib.Path
) -> None:
    """Load ``tensors`` into the networks, or raise one ModelError that lists everything
    that does not fit.

    With several parts the names begin with the part's: ``encoder.conv1.weight``.
    """
    own = {
        name: tensor
        for part, network in networks.items()
        for name, tensor in _named(part, network)
    }
    given = _without_prefix(tensors, own)
    both = [name for name in own if name in given]
    lines = [
        *(
            f"{name}: the network has {list(own[name].shape)}, the checkpoint {list(given[name].shape)}"
            for name in both
            if given[name].shape != own[name].shape
        ),
        *(
            f"{name}: {unlike}"
            for name in both
            if given[name].shape == own[name].shape
            and (unlike := _unlike(own[name], given[name]))
        ),
        *(f"{name}: the checkpoint lacks it" for name in own if name not in given),
        *(f"{name}: the network has no such tensor" for name in given if name not in own),
    ]
    if lines:
        more = (
            [f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
        )
        listing = "\n  ".join([*lines[:MOST_LINES], *more])
        fix = "take the checkpoint of this network, or give the network the checkpoint's sizes"
        raise ModelError(f"{path} does not fit the network:\n  {listing}", fix=fix)
    for part, network in networks.items():
        network.load_state_dict(
            {
                key: given[name]
                for name, key in ((_name(part, key), key) for key in network.state_dict())
            },
            strict=True,
        )


def _unlike(own: Tensor, given: Tensor) -> str:
    """Why a tensor of the right shape cannot be taken; float weights may have another
    precision, never be integers.
    """
    if given.layout != torch.strided or given.is_meta or given.is_quantized:
        kind = (
            "has no values (it was saved from the device meta)"
            if given.is_meta
            else "is quantized"
            if given.is_quantized
            else "is sparse"
        )
        return f"the checkpoint's tensor {kind}"
    if own.is_floating_point() and not given.is_floating_point():
        return f"the network has {_dtype(own)}, the checkpoint {_dtype(given)}"
    return ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _name(part: str, key: str) -> str:
    return key if part == MAIN else f"{part}.{key}"


def _named(part: str, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((_name(part, key), tensor) for key, tensor in network.state_dict().items())


def _without_prefix(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Names without the ``module.`` or ``_orig_mod.`` that DataParallel and torch.compile
    put before them.
    """
    for prefix in ("module.", "_orig_mod."):
        if (
            tensors
            and all(name.startswith(prefix) for name in tensors)
            and not any(name.startswith(prefix) for name in own)
        ):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _unpickled(path: pathlib.Path) -> Any:
    try:
        with warnings.catch_warnings():
            for told_below in (
                "'torch.load' received a zip file that looks like a TorchScript archive",
                "Detected pickle protocol",
            ):
                warnings.filterwarnings("ignore", message=told_below, category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        fix = "save the weights alone, safetensors.torch.save_file(network.state_dict(), path), and give the network as file.py:function"
        what = "holds more than tensors (a whole pickled network, or code); it is not loaded, because loading would run it"
        raise ModelError(f"{path} {what}.", fix=fix) from problem
    except (
        Exception
    ) as problem:  # the boundary to torch.load, which raises many kinds for broken files
        if "TorchScript" in str(problem):
            fix = "save the weights alone: safetensors.torch.save_file(network.state_dict(), path)"
            raise ModelError(
                f"{path} is a TorchScript archive, which holds code; it is not loaded.",
                fix=fix,
            ) from problem
        # Only what PyTorch words for people is told; what its unpickler stumbles over (a
        # KeyError of 101) helps nobody.
        said = (
            f": {str(problem).partition(chr(10))[0]}"
            if isinstance(problem, RuntimeError) and str(problem)
            else ", or not a whole one"
        )
        raise ModelError(
            f"{path} is not a PyTorch checkpoint{said}.",
            fix="give a .safetensors file or a saved state_dict",
        ) from problem


def _tensors(loaded: Any, path: pathlib.Path) -> dict[str, Tensor]:
    """The state dict inside what was loaded."""
    if isinstance(loaded, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(loaded.get(wrapper), Mapping):
                loaded = loaded[wrapper]
                break
    tensors = (
        {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not tensors or len(tensors) < len(loaded):
        what = (
            type(loaded).__name__
            if not isinstance(loaded, Mapping)
            else f"a dict with the keys {', '.join(map(str, list(loaded)[:8])) or '(none)'}"
        )
        raise ModelError(
            f"{path} holds {what}, not a state_dict.",
            fix="save the weights alone: torch.save(network.state_dict(), path)",
        )
    return tensors
