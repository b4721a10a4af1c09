"""Splitting one layer into two, so that the halves of its output have separate scales."""

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.capture import module_of
from edgekit.quantization.graph_edit import constant_value
from edgekit.quantization.operators import LINEARS, SPLIT, WEIGHTED, A
from edgekit.quantization.settings import Settings
from edgekit.quantization.site import Site

_FIX = "name a convolution or linear layer, and the first channel of its second part"
#: The position of ``groups`` among the arguments of a convolution.
_GROUPS = 6


def split_layer(graph: GraphModule, path: str, channel: int) -> None:
    """Replace a layer by two whose outputs are concatenated in float.

    ``path`` is the layer's module; ``channel`` is the first output channel of the second
    half. Raises StepError if the module is not a convolution or linear layer, has groups,
    or has no channels on one side.
    """
    layers = [
        node
        for node in graph.graph.nodes
        if node.op == "call_function"
        and node.target in WEIGHTED
        and module_of(node) == path
    ]
    if not layers:
        raise StepError(
            f"{path} cannot be split: it is not a convolution or linear layer.",
            fix=_FIX,
        )
    for node in layers:
        weight = _splittable_weight(graph, node, path, channel)
        _split(Site(graph, node, Settings()), weight, channel)


def _splittable_weight(
    graph: GraphModule, node: Node, path: str, channel: int
) -> torch.Tensor:
    weight = constant_value(graph, node.args[1])
    channels = 0 if weight is None else len(weight)
    problem = "" if 0 < channel < channels else f"{channels} channels"
    if _is_grouped(node):
        problem = "groups"
    if problem:
        raise StepError(
            f"{path} cannot be split at channel {channel}: it has {problem}.",
            fix=_FIX,
        )
    assert weight is not None
    return weight


def _is_grouped(node: Node) -> bool:
    if node.target in LINEARS or len(node.args) <= _GROUPS:
        return False
    return bool(node.args[_GROUPS] != 1)


def _split(site: Site, weight: torch.Tensor, channel: int) -> None:
    node = site.node
    bias = (
        constant_value(site.graph, node.args[2]) if len(node.args) > 2 else None
    )
    halves = []
    for name, part in (
        ("first", slice(channel)),
        ("second", slice(channel, None)),
    ):
        half_weight = site.insert_constant(f"{name}_weight", weight[part])
        half_bias = None
        if bias is not None:
            half_bias = site.insert_constant(f"{name}_bias", bias[part])
        arguments = (node.args[0], half_weight, half_bias, *node.args[3:])
        halves.append(site.insert(node.target, *arguments))  # type: ignore[arg-type]
    axis = -1 if node.target in LINEARS else 1
    concatenation = site.insert(A.cat.default, halves, axis)
    concatenation.meta[SPLIT] = True
    site.replace_with(concatenation)
