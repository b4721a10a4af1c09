"""Calling a network by the names of its signature, and a model of several parts as one
nn.Module.
"""

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


def named_outputs(result: Any, stem: str, where: str) -> dict[str, Tensor]:
    """What a network returned, by name: a dict's own keys, ``stem`` for one tensor,
    ``stem_0``, ``stem_1`` ... for several.
    """
    if isinstance(result, Tensor):
        return {stem: result}
    if isinstance(result, Mapping):
        outputs = {str(name): value for name, value in result.items() if value is not None}
    elif isinstance(result, tuple | list):
        outputs = (
            {stem: result[0]}
            if len(result) == 1
            else {f"{stem}_{index}": value for index, value in enumerate(result)}
        )
    else:
        raise ModelError(
            f"{where} returns {type(result).__name__}.",
            fix="return a tensor, a tuple of tensors or a dict of tensors",
        )
    wrong = [
        f"{name}: {type(value).__name__}"
        for name, value in outputs.items()
        if not isinstance(value, Tensor)
    ]
    if wrong or not outputs:
        what = ", ".join(wrong) or "nothing"
        raise ModelError(
            f"{where} returns {what} where tensors are expected.",
            fix="return tensors only, in one tuple or one dict without further nesting",
        )
    return outputs


def call(
    network: nn.Module,
    signature: Signature,
    feeds: Mapping[str, Tensor],
    where: str = "The network",
) -> dict[str, Tensor]:
    """Run one part.

    The inputs are handed over by position, in the signature's order; the outputs come by
    the signature's names.
    """
    result = network(*(feeds[spec.name] for spec in signature.inputs))
    names = [spec.name for spec in signature.outputs]
    outputs = named_outputs(result, names[0], where)
    if isinstance(result, Mapping) and set(names) <= set(outputs):
        return {name: outputs[name] for name in names}
    if len(outputs) != len(names):
        raise ModelError(
            f"{where} returned {len(outputs)} tensors, its signature has {len(names)}: {', '.join(names)}.",
            fix="return the same tensors in training as in use",
        )
    return dict(zip(names, outputs.values(), strict=True))


class Chain(nn.Module):
    """The parts of a model as one network: named inputs of the task in, the last part's
    named outputs out.
    """

    def __init__(self, networks: Mapping[str, nn.Module], parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.networks = nn.ModuleList(networks[part.name] for part in parts)
        self._place = {part.name: index for index, part in enumerate(parts)}

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``feeds`` holds the task's inputs by name, each of shape [n, ...]."""
        return chain(self.parts, self._call, feeds)

    def _call(self, part: Part, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return call(
            self.networks[self._place[part.name]],
            part.signature,
            feeds,
            f"The part {part.name}",
        )


def input_tensors(split: Split) -> dict[str, Tensor]:
    """The inputs of a split as tensors; they share memory with the arrays where these can
    be written to.
    """
    return {
        name: torch.from_numpy(numpy.require(array, requirements=["C", "W"]))
        for name, array in split.inputs.items()
    }
