"""Reading a checkpoint without running any code in it, and loading it into a network."""

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

#: The keys under which training scripts store the weights in a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: A message lists at most this many mistakes.
MOST_LINES = 30
#: What DataParallel and torch.compile put before the names of tensors.
_PREFIXES = ("module.", "_orig_mod.")
_REPORTED_HERE = (
    "'torch.load' received a zip file that looks like a TorchScript archive",
    "Detected pickle protocol",
)


def read(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a PyTorch checkpoint, by name.

    PyTorch checkpoints are loaded with ``weights_only=True``. Raises ModelError if the file
    does not exist, is damaged, or contains more than tensors.
    """
    if not path.is_file():
        raise ModelError(
            f"No such checkpoint: {path}.",
            fix="give the path of a .safetensors file or of a saved state_dict",
        )
    if path.suffix != ".safetensors":
        return _find_state_dict(_unpickle(path), path)
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError, ValueError) as problem:
        raise ModelError(
            f"{path} is not a valid safetensors file: {problem}.",
            fix="write it again with safetensors.torch.save_file",
        ) from problem


def fit(
    networks: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    path: pathlib.Path,
) -> None:
    """Load ``tensors`` into the networks.

    With several parts the names begin with the part's: ``encoder.conv1.weight``. Raises one
    ModelError that lists everything that does not fit.
    """
    expected: dict[str, Tensor] = {}
    for part, network in networks.items():
        expected.update(_named_tensors(part, network))
    stored = _remove_prefix(tensors, expected)
    mistakes = list(_find_mistakes(expected, stored))
    if mistakes:
        hidden = len(mistakes) - MOST_LINES
        more = [f"... and {hidden} more"] if hidden > 0 else []
        listing = "\n  ".join([*mistakes[:MOST_LINES], *more])
        raise ModelError(
            f"{path} does not fit the network:\n  {listing}",
            fix="use the checkpoint of this network, "
            "or give the network the checkpoint's sizes",
        )
    for part, network in networks.items():
        state = {
            key: stored[_full_name(part, key)] for key in network.state_dict()
        }
        network.load_state_dict(state, strict=True)


def _find_mistakes(
    expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> Iterator[str]:
    """One line for each tensor that does not fit: shapes, then types, then missing ones."""
    both = [name for name in expected if name in stored]
    same_shape = {
        name for name in both if stored[name].shape == expected[name].shape
    }
    for name in both:
        if name not in same_shape:
            network_shape = list(expected[name].shape)
            shape = list(stored[name].shape)
            yield f"{name}: the network has {network_shape}, the checkpoint {shape}"
    for name in both:
        difference = _difference(expected[name], stored[name])
        if name in same_shape and difference:
            yield f"{name}: {difference}"
    for name in expected:
        if name not in stored:
            yield f"{name}: missing from the checkpoint"
    for name in stored:
        if name not in expected:
            yield f"{name}: the network has no such tensor"


def _difference(expected: Tensor, stored: Tensor) -> str:
    """Why a tensor of the right shape cannot be loaded; the empty string if it can.

    Float weights may have another precision, but must not be integers.
    """
    if stored.is_meta:
        return "the checkpoint's tensor has no values (it was saved from the device meta)"
    if stored.is_quantized:
        return "the checkpoint's tensor is quantized"
    if stored.layout != torch.strided:
        return "the checkpoint's tensor is sparse"
    if expected.is_floating_point() and not stored.is_floating_point():
        return f"the network has {_dtype(expected)}, the checkpoint {_dtype(stored)}"
    return ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _full_name(part: str, key: str) -> str:
    return key if part == MAIN else f"{part}.{key}"


def _named_tensors(part: str, network: nn.Module) -> dict[str, Tensor]:
    return {
        _full_name(part, key): value
        for key, value in network.state_dict().items()
    }


def _remove_prefix(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors without a prefix that all of their names have, and none of the network's."""
    for prefix in _PREFIXES:
        prefixed = [name for name in tensors if name.startswith(prefix)]
        is_wrapped = bool(tensors) and len(prefixed) == len(tensors)
        if is_wrapped and not any(name.startswith(prefix) for name in expected):
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
            }
    return dict(tensors)


def _unpickle(path: pathlib.Path) -> Any:
    try:
        with warnings.catch_warnings():
            for message in _REPORTED_HERE:
                warnings.filterwarnings(
                    "ignore", message=message, category=UserWarning
                )
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise ModelError(
            f"{path} contains more than tensors (a pickled network, or code); "
            "it is not loaded, because loading would run that code.",
            fix="save only the weights, "
            "safetensors.torch.save_file(network.state_dict(), path), "
            "and give the network as file.py:function",
        ) from problem
    # the boundary to torch.load, which raises many kinds of errors for broken files
    except Exception as problem:
        if "TorchScript" in str(problem):
            raise ModelError(
                f"{path} is a TorchScript archive, which contains code; it is not loaded.",
                fix="save only the weights: "
                "safetensors.torch.save_file(network.state_dict(), path)",
            ) from problem
        raise ModelError(
            f"{path} is not a PyTorch checkpoint{_reason(problem)}.",
            fix="give a .safetensors file or a saved state_dict",
        ) from problem


def _reason(problem: Exception) -> str:
    """The end of the message for a file that torch.load cannot read.

    Only RuntimeErrors are worded for users; what the unpickler fails with (such as a
    KeyError of 101) helps nobody.
    """
    if isinstance(problem, RuntimeError) and str(problem):
        return f": {str(problem).splitlines()[0]}"
    return ", or is incomplete"


def _find_state_dict(loaded: Any, path: pathlib.Path) -> dict[str, Tensor]:
    """The state dict in a loaded checkpoint, or ModelError if there is none."""
    if not isinstance(loaded, Mapping):
        raise _not_a_state_dict(path, type(loaded).__name__)
    for wrapper in WRAPPERS:
        if isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    tensors = {
        str(name): value
        for name, value in loaded.items()
        if isinstance(value, Tensor)
    }
    if not tensors or len(tensors) < len(loaded):
        keys = ", ".join(map(str, list(loaded)[:8])) or "(none)"
        raise _not_a_state_dict(path, f"a dict with the keys {keys}")
    return tensors


def _not_a_state_dict(path: pathlib.Path, what: str) -> ModelError:
    return ModelError(
        f"{path} contains {what}, not a state_dict.",
        fix="save only the weights: torch.save(network.state_dict(), path)",
    )
