"""Networks on disk: weights as safetensors, and what pruning changed as JSON.

Neither file contains pickles or code.

``architecture.json`` contains, for each module, the numbers that define its width. A
network is rebuilt from a new one of the same source: these numbers are set, tensors of
another shape are replaced, then the weights are loaded strictly.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgekit.artifact import Artifact, File, Part
from edgekit.errors import ModelError
from edgekit.signature import Signature

#: The attributes of PyTorch's own modules that define their width.
WIDTHS = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "normalized_shape",
    "num_channels",
    "num_groups",
    "num_parameters",
    "embedding_dim",
    "embed_dim",
    "kdim",
    "vdim",
    "num_heads",
    "head_dim",
    "input_size",
    "hidden_size",
)

CHANGED = "run again from the start: the model's source has changed"

#: Numbers by attribute, by module path.
Widths = dict[str, dict[str, int | list[int]]]


def save(
    networks: Mapping[str, nn.Module],
    signatures: Mapping[str, Signature],
    folder: pathlib.Path,
    notes: Mapping[str, Any],
) -> Artifact:
    """Write the networks into ``folder``.

    Returns an artifact of the format ``torch``; parts keep their order. Raises ModelError
    for a network whose state contains more than tensors.
    """
    parts = []
    for name, network in networks.items():
        weights = folder / f"{name}.safetensors"
        architecture = folder / f"{name}.json"
        safetensors.torch.save_file(_state_tensors(network, name), weights)
        widths = json.dumps(module_widths(network), sort_keys=True)
        architecture.write_text(widths, encoding="utf-8")
        files = {
            "weights": File(path=weights.name),
            "architecture": File(path=architecture.name),
        }
        parts.append(Part(name=name, signature=signatures[name], files=files))
    return Artifact(
        format="torch", parts=tuple(parts), notes=dict(notes), folder=folder
    )


def load(
    artifact: Artifact, networks: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """Turn new ``networks`` into those of ``artifact``, in place.

    Returns them in eval mode, by part name. Raises ModelError if a network does not fit
    what is stored.
    """
    loaded = {}
    for part in artifact.parts:
        if part.name not in networks:
            raise ModelError(
                f"The model no longer has a part {part.name!r}; "
                f"it has {', '.join(networks)}.",
                fix=CHANGED,
            )
        network = networks[part.name]
        tensors, widths = _read(artifact, part)
        _set_widths(network, widths, part.name)
        _set_shapes(network, tensors)
        try:
            network.load_state_dict(tensors, strict=True)
        except RuntimeError as problem:
            raise ModelError(
                f"The stored weights of part {part.name!r} do not fit its network: {problem}",
                fix=CHANGED,
            ) from problem
        loaded[part.name] = network.eval()
    return loaded


def module_widths(network: nn.Module) -> Widths:
    """The numbers that define the width of each module, by path."""
    widths: Widths = {}
    for path, module in network.named_modules():
        numbers = {}
        for name in WIDTHS:
            value = _as_json(getattr(module, name, None))
            if value is not None:
                numbers[name] = value
        if numbers:
            widths[path] = numbers
    return widths


def _as_json(value: Any) -> int | list[int] | None:
    """An integer, or a list of integers; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, tuple | list) or not value:
        return None
    return (
        list(value)
        if all(isinstance(number, int) for number in value)
        else None
    )


def _state_tensors(network: nn.Module, name: str) -> dict[str, Tensor]:
    """The state of a network.

    Tied tensors are written twice, since safetensors does not support shared memory.
    """
    state = network.state_dict()
    others = [
        key for key, value in state.items() if not isinstance(value, Tensor)
    ]
    if others:
        raise ModelError(
            f"Part {name!r} has state that is not a tensor: {', '.join(others)}.",
            fix="keep such values as plain attributes of the module",
        )
    return {
        key: value.detach().cpu().clone().contiguous()
        for key, value in state.items()
    }


def _read(artifact: Artifact, part: Part) -> tuple[dict[str, Tensor], Widths]:
    weights = artifact.path(part, "weights")
    architecture = artifact.path(part, "architecture")
    try:
        tensors = safetensors.torch.load_file(weights)
        widths: Widths = json.loads(architecture.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as problem:
        raise ModelError(
            f"The stored part {part.name!r} cannot be read "
            f"from {artifact.folder}: {problem}",
            fix="delete that folder and run again",
        ) from problem
    return tensors, widths


def _set_widths(network: nn.Module, widths: Widths, part: str) -> None:
    modules = dict(network.named_modules())
    missing = [path for path in widths if path not in modules]
    if missing:
        raise ModelError(
            f"Part {part!r} no longer has a module {', '.join(missing)}.",
            fix=CHANGED,
        )
    for path, numbers in widths.items():
        module = modules[path]
        for name, value in numbers.items():
            if (
                hasattr(module, name)
                and _as_json(getattr(module, name)) != value
            ):
                setattr(
                    module,
                    name,
                    tuple(value) if isinstance(value, list) else value,
                )


def _set_shapes(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers whose stored shape differs.

    Tied parameters stay tied.
    """
    replacements: dict[int, Tensor] = {}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        try:
            module = network.get_submodule(path)
        except AttributeError:
            continue  # reported by the strict load
        current = getattr(module, name, None)
        if not isinstance(current, Tensor) or current.shape == tensor.shape:
            continue
        if id(current) not in replacements:
            replacements[id(current)] = _empty_like(current, tensor.shape)
        setattr(module, name, replacements[id(current)])


def _empty_like(tensor: Tensor, shape: torch.Size) -> Tensor:
    """An uninitialized tensor of another shape; a parameter if ``tensor`` is one."""
    empty = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
