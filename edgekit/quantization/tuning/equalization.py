"""Cross-layer equalization (Nagel et al. 2019, section 4.1).

What one layer's output channel is divided by, the next layer's weights are multiplied by.

Between two layers a channel may be scaled by any s > 0 if the operators between them are
positively homogeneous, f(s x) = s f(x): ReLU, pools, zero padding. With s = sqrt(r1 / r2),
r1 and r2 the largest weights of the channel on both sides, both ranges become equal. The
float network computes the same values.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.operators import WEIGHTED
from edgekit.quantization.prepared import (
    build_float_graph,
    find_constant,
    find_readers,
    set_constants,
)
from edgekit.signature import Signature

A = torch.ops.aten
#: Operators with f(s x) = s f(x) for s > 0, channel by channel.
HOMOGENEOUS = {
    A.relu.default,
    A.leaky_relu.default,
    A.max_pool1d.default,
    A.max_pool2d.default,
    A.max_pool3d.default,
    A.avg_pool1d.default,
    A.avg_pool2d.default,
    A.avg_pool3d.default,
    A.adaptive_avg_pool1d.default,
    A.adaptive_avg_pool2d.default,
    A.adaptive_avg_pool3d.default,
    A.adaptive_max_pool2d.default,
    A.dropout.default,
    A.contiguous.default,
    A.clone.default,
}
#: A channel's scale stays within this factor of 1, so that a channel that is nearly dead
#: does not make the steps of the others coarse.
LARGEST = 1e4
ROUNDS = 20
#: Equalization has converged when no scale is further from 1 than this.
CLOSE = 1e-3
#: The position of ``groups`` among the arguments of a convolution.
_GROUPS = 6


@dataclasses.dataclass(frozen=True)
class LayerPair:
    """Two layers in succession, by the names of their constants."""

    first_weight: str
    first_bias: str | None
    second_weight: str
    #: How many weight columns of the second layer read one output channel of the first:
    #: more than 1 after a flattened image.
    spread: int
    depthwise: bool

    @property
    def constants(self) -> list[str]:
        """The names of all constants of the pair."""
        names = (self.first_weight, self.first_bias, self.second_weight)
        return [name for name in names if name is not None]


def equalize(
    network: torch.nn.Module, signature: Signature
) -> dict[str, torch.Tensor]:
    """Changed weights and biases by name.

    Raises StepError if the network has no two layers that can be equalized.
    """
    graph = build_float_graph(network, signature)
    pairs = list(_find_pairs(graph))
    if not pairs:
        raise StepError(
            "Equalization found no two layers with only ReLU or pools between them.",
            fix="remove 'equalize'",
        )
    changed: dict[str, torch.Tensor] = {}
    for pair in pairs:
        for name in pair.constants:
            owner, _, attribute = name.rpartition(".")
            constant = getattr(graph.get_submodule(owner), attribute)
            changed[name] = constant.detach().clone()
    for _ in range(ROUNDS):
        furthest = max(_equalize_pair(pair, changed) for pair in pairs)
        if furthest < CLOSE:
            break
    set_constants(graph, changed)  # checks that all shapes are unchanged
    return changed


def _equalize_pair(
    pair: LayerPair, constants: dict[str, torch.Tensor]
) -> float:
    """Scale one pair in place; returns the largest |scale - 1|."""
    first = constants[pair.first_weight]
    second = constants[pair.second_weight]
    first_range = first.flatten(1).abs().amax(1)
    by_column = second if pair.depthwise else second.transpose(0, 1)
    column_range = by_column.flatten(1).abs().amax(1)
    second_range = column_range.reshape(len(first_range), pair.spread).amax(1)
    alive = (first_range > 0) & (second_range > 0)
    scale = torch.sqrt(first_range / second_range.clamp(min=1e-30))
    scale = torch.where(alive, scale, torch.ones_like(scale)).clamp(
        1 / LARGEST, LARGEST
    )
    constants[pair.first_weight] = first / scale.reshape(
        -1, *[1] * (first.dim() - 1)
    )
    if pair.first_bias is not None:
        constants[pair.first_bias] = constants[pair.first_bias] / scale
    spatial = [1] * (second.dim() - 2)
    shape = (-1, 1, *spatial) if pair.depthwise else (1, -1, *spatial)
    column_scale = scale.repeat_interleave(pair.spread).reshape(shape)
    constants[pair.second_weight] = second * column_scale
    return float((scale - 1).abs().max())


def _find_pairs(graph: GraphModule) -> Iterator[LayerPair]:
    for node in graph.graph.nodes:
        if node.op != "call_function" or not _is_layer(node):
            continue
        next_layer, flattened = _next_layer(node)
        if next_layer is None:
            continue
        pair = _match_pair(graph, node, next_layer, flattened)
        if pair is not None:
            yield pair


def _match_pair(
    graph: GraphModule, node: Node, next_layer: Node, flattened: bool
) -> LayerPair | None:
    """The pair of two layers, or None if their constants are shared or do not correspond."""
    first = _own_constant(graph, node.args[1])
    second = _own_constant(graph, next_layer.args[1])
    if first is None or second is None:
        return None
    has_bias = len(node.args) > 2 and node.args[2] is not None
    bias = _own_constant(graph, node.args[2]) if has_bias else None
    if has_bias and bias is None:
        return None
    channels = first[1].shape[0]
    is_conv = "conv" in str(next_layer.target)
    groups: object = 1
    if is_conv and len(next_layer.args) > _GROUPS:
        groups = next_layer.args[_GROUPS]
    depthwise = (
        is_conv and groups == channels and second[1].shape[0] == channels
    )
    if groups != 1 and not depthwise:
        return None
    columns = channels if depthwise else second[1].shape[1]
    if columns % channels or (columns != channels and not flattened):
        return None
    return LayerPair(
        first_weight=first[0],
        first_bias=None if bias is None else bias[0],
        second_weight=second[0],
        spread=columns // channels,
        depthwise=depthwise,
    )


def _own_constant(
    graph: GraphModule, node: object
) -> tuple[str, torch.Tensor] | None:
    """The name and value of a constant that only one operator reads, or None."""
    constant = find_constant(graph, node)
    if constant is None or len(find_readers(graph, constant[0])) > 1:
        return None
    return constant


def _next_layer(node: Node) -> tuple[Node | None, bool]:
    """The layer that alone reads the output of ``node``, through homogeneous operators.

    Returns (layer or None, whether an image is flattened in between).
    """
    flattened = False
    while len(node.users) == 1:
        node = next(iter(node.users))
        if _is_layer(node):
            return node, flattened
        if node.target is A.flatten.using_ints and node.args[1:] in (
            (1,),
            (1, -1),
        ):
            flattened = True
        elif node.target not in HOMOGENEOUS:
            break
    return None, False


def _is_layer(node: Node) -> bool:
    return node.target in WEIGHTED and "transpose" not in str(node.target)
