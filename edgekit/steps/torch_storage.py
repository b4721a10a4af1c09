"""How a network is kept on disk: weights as safetensors, what pruning changed as JSON.

No pickle, no code.

``architecture.json`` holds, for each module, the plain numbers that say how wide it is. A
network is rebuilt from the source's fresh one: these numbers are set, tensors of another
shape are replaced, then the weights are loaded strictly.
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

#: The attributes of PyTorch's own modules that say how wide they are.
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

Widths = dict[str, dict[str, int | list[int]]]


def save(
    networks: Mapping[str, nn.Module],
    signatures: Mapping[str, Signature],
    folder: pathlib.Path,
    notes: Mapping[str, Any],
) -> Artifact:
    """Write the networks into ``folder`` and describe them as an artifact of the format
    ``torch``; parts keep their order.
    """
    parts = []
    for name, network in networks.items():
        weights, architecture = folder / f"{name}.safetensors", folder / f"{name}.json"
        safetensors.torch.save_file(_tensors(network, name), weights)
        architecture.write_text(
            json.dumps(widths(network), sort_keys=True), encoding="utf-8"
        )
        files = {
            "weights": File(path=weights.name),
            "architecture": File(path=architecture.name),
        }
        parts.append(Part(name=name, signature=signatures[name], files=files))
    return Artifact(format="torch", parts=tuple(parts), notes=dict(notes), folder=folder)


def load(artifact: Artifact, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Turn fresh ``networks`` into those of ``artifact``, in eval mode.

    The fresh ones are changed in place.
    """
    loaded = {}
    for part in artifact.parts:
        if part.name not in networks:
            raise ModelError(
                f"The model has no part {part.name!r} any more; it has {', '.join(networks)}.",
                fix=CHANGED,
            )
        network = networks[part.name]
        tensors, stored = _read(artifact, part)
        _set_widths(network, stored, part.name)
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


def widths(network: nn.Module) -> Widths:
    """For each module, by path, the plain numbers that say how wide it is."""
    found: Widths = {}
    for path, module in network.named_modules():
        plain = {name: _plain(getattr(module, name, None)) for name in WIDTHS}
        numbers = {name: value for name, value in plain.items() if value is not None}
        if numbers:
            found[path] = numbers
    return found


def _plain(value: Any) -> int | list[int] | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if (
        isinstance(value, tuple | list)
        and value
        and all(isinstance(number, int) for number in value)
    ):
        return list(value)
    return None


def _tensors(network: nn.Module, name: str) -> dict[str, Tensor]:
    """The state of a network; tied tensors are written twice, since safetensors refuses
    shared memory.
    """
    state = network.state_dict()
    wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ModelError(
            f"Part {name!r} keeps state that is not a tensor: {', '.join(wrong)}.",
            fix="keep such values as plain attributes of the module",
        )
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}


def _read(artifact: Artifact, part: Part) -> tuple[dict[str, Tensor], Widths]:
    weights = artifact.path(part, "weights")
    try:
        tensors = safetensors.torch.load_file(weights)
        stored: Widths = json.loads(
            artifact.path(part, "architecture").read_text(encoding="utf-8")
        )
    except (OSError, ValueError, SafetensorError) as problem:
        raise ModelError(
            f"The stored part {part.name!r} cannot be read from {artifact.folder}: {problem}",
            fix="delete that folder and run again",
        ) from problem
    return tensors, stored


def _set_widths(network: nn.Module, stored: Widths, part: str) -> None:
    modules = dict(network.named_modules())
    gone = [path for path in stored if path not in modules]
    if gone:
        raise ModelError(
            f"Part {part!r} has no module {', '.join(gone)} any more.", fix=CHANGED
        )
    for path, numbers in stored.items():
        for name, value in numbers.items():
            now = getattr(modules[path], name, None)
            if _plain(now) != value and (now is not None or hasattr(modules[path], name)):
                setattr(
                    modules[path], name, tuple(value) if isinstance(value, list) else value
                )


def _set_shapes(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers whose stored shape differs; tied parameters stay tied."""
    replaced: dict[int, Tensor] = {}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        try:
            module = network.get_submodule(path)
        except AttributeError:
            continue  # told by the strict load
        now = getattr(module, name, None)
        if not isinstance(now, Tensor) or now.shape == tensor.shape:
            continue
        if id(now) not in replaced:
            empty = torch.empty(tensor.shape, dtype=now.dtype, device=now.device)
            replaced[id(now)] = (
                nn.Parameter(empty, requires_grad=now.requires_grad)
                if isinstance(now, nn.Parameter)
                else empty
            )
        setattr(module, name, replaced[id(now)])
