"""Calling a network by the names of its signature, and several parts as one nn.Module."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from edgekit.artifact import Part, chain
from edgekit.errors import ModelError
from edgekit.signature import Signature
from edgekit.task import Split

#: The name of a model's only output.
OUTPUT = "output"


def name_outputs(result: Any, stem: str, where: str) -> dict[str, Tensor]:
    """The tensors that a network returned, by name.

    A dict keeps its keys (entries that are None are ignored); one tensor is named ``stem``,
    several ``stem_0``, ``stem_1`` and so on. Raises ModelError for anything else; ``where``
    begins its message.
    """
    outputs = _named(result, stem, where)
    invalid = [
        f"{name}: {type(value).__name__}"
        for name, value in outputs.items()
        if not isinstance(value, Tensor)
    ]
    if invalid or not outputs:
        what = ", ".join(invalid) or "nothing"
        raise ModelError(
            f"{where} returns {what}; expected tensors.",
            fix="return tensors only, in one tuple or one dict without further nesting",
        )
    return outputs


def _named(result: Any, stem: str, where: str) -> dict[str, Any]:
    if isinstance(result, Tensor):
        return {stem: result}
    if isinstance(result, Mapping):
        return {
            str(name): value
            for name, value in result.items()
            if value is not None
        }
    if isinstance(result, tuple | list):
        if len(result) == 1:
            return {stem: result[0]}
        return {f"{stem}_{index}": value for index, value in enumerate(result)}
    raise ModelError(
        f"{where} returns {type(result).__name__}.",
        fix="return a tensor, a tuple of tensors or a dict of tensors",
    )


def call(
    network: nn.Module,
    signature: Signature,
    feeds: Mapping[str, Tensor],
    where: str = "The network",
) -> dict[str, Tensor]:
    """Run one part.

    The inputs are passed by position, in the signature's order; the outputs are returned by
    the signature's names. Raises ModelError if the number of outputs differs.
    """
    result = network(*(feeds[spec.name] for spec in signature.inputs))
    names = [spec.name for spec in signature.outputs]
    outputs = name_outputs(result, names[0], where)
    if isinstance(result, Mapping) and set(names) <= set(outputs):
        return {name: outputs[name] for name in names}
    if len(outputs) != len(names):
        raise ModelError(
            f"{where} returned {len(outputs)} tensors; "
            f"its signature has {len(names)}: {', '.join(names)}.",
            fix="return the same tensors in training as in inference",
        )
    return dict(zip(names, outputs.values(), strict=True))


class Chain(nn.Module):
    """The parts of a model as one network.

    Its inputs are the task's, its outputs those of the last part, both by name.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], parts: Sequence[Part]
    ) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.networks = nn.ModuleList(networks[part.name] for part in parts)
        self._index = {part.name: index for index, part in enumerate(parts)}

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``feeds`` contains the task's inputs by name, each of shape [n, ...]."""
        return chain(self.parts, self._call, feeds)

    def _call(
        self, part: Part, feeds: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        network = self.networks[self._index[part.name]]
        return call(network, part.signature, feeds, f"The part {part.name}")


def input_tensors(split: Split) -> dict[str, Tensor]:
    """The inputs of a split as tensors.

    They share memory with the arrays if these are contiguous and writable.
    """
    return {
        name: torch.from_numpy(numpy.require(array, requirements=["C", "W"]))
        for name, array in split.inputs.items()
    }
