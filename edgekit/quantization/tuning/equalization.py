"""Cross-layer equalization (Nagel et al. 2019, section 4.1): what one layer's channel is
divided by, the next layer's weights are multiplied with.

Between two layers a channel may be scaled by any s > 0 where what lies between them is
positively homogeneous, f(s x) = s f(x): ReLU, pools, zero padding. With s = sqrt(r1 / r2),
r1 and r2 the largest weights of the channel on both sides, both ranges become equal. The
float network computes the same.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.operators import WEIGHTED
from edgekit.quantization.prepared import change, constant_of, readers, rewritten
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
#: does not blow up the others' steps.
LARGEST = 1e4
ROUNDS = 20
CLOSE = 1e-3


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two layers and the names of their constants."""

    first_weight: str
    first_bias: str | None
    second_weight: str
    #: Output channels of the first that feed one weight column of the second: more than 1
    #: behind a flattened image.
    spread: int
    depthwise: bool


def equalized(network: torch.nn.Module, signature: Signature) -> dict[str, torch.Tensor]:
    """Changed weights and biases by name, or StepError where no two layers follow each
    other.
    """
    graph = rewritten(network, signature)
    pairs = list(_pairs(graph))
    if not pairs:
        raise StepError(
            "Equalization finds no two layers with only ReLU or pools between them.",
            fix="leave equalize out",
        )
    changed: dict[str, torch.Tensor] = {}
    for name in {
        name
        for pair in pairs
        for name in (pair.first_weight, pair.first_bias, pair.second_weight)
        if name is not None
    }:
        owner, _, attribute = name.rpartition(".")
        changed[name] = getattr(graph.get_submodule(owner), attribute).detach().clone()
    for _ in range(ROUNDS):
        furthest = max(_equalize(pair, changed) for pair in pairs)
        if furthest < CLOSE:
            break
    change(graph, changed)  # the shapes are as they were
    return changed


def _equalize(pair: Pair, constants: dict[str, torch.Tensor]) -> float:
    """Scale one pair in place; how far the furthest scale is from 1."""
    first, second = constants[pair.first_weight], constants[pair.second_weight]
    ours = first.flatten(1).abs().amax(1)
    columns = (
        second.flatten(1).abs()
        if pair.depthwise
        else second.transpose(0, 1).flatten(1).abs()
    )
    theirs = columns.amax(1).reshape(len(ours), pair.spread).amax(1)
    alive = (ours > 0) & (theirs > 0)
    scale = torch.where(
        alive, torch.sqrt(ours / theirs.clamp(min=1e-30)), torch.ones_like(ours)
    ).clamp(1 / LARGEST, LARGEST)
    constants[pair.first_weight] = first / scale.reshape(-1, *[1] * (first.dim() - 1))
    if pair.first_bias is not None:
        constants[pair.first_bias] = constants[pair.first_bias] / scale
    across = scale.repeat_interleave(pair.spread)
    shape = (
        (-1, *[1] * (second.dim() - 1))
        if pair.depthwise
        else (1, -1, *[1] * (second.dim() - 2))
    )
    constants[pair.second_weight] = second * across.reshape(shape)
    return float((scale - 1).abs().max())


def _pairs(graph: GraphModule) -> Iterator[Pair]:
    for node in graph.graph.nodes:
        if (
            node.op != "call_function"
            or node.target not in WEIGHTED
            or "transpose" in str(node.target)
        ):
            continue
        first = constant_of(graph, node.args[1])
        second, flattened = _next_layer(node)
        if first is None or second is None or len(readers(graph, first[0])) > 1:
            continue
        weight = constant_of(graph, second.args[1])
        if weight is None or len(readers(graph, weight[0])) > 1:
            continue
        pair = _matched(graph, node, second, flattened)
        if pair is not None:
            yield pair


def _matched(graph: GraphModule, node: Node, second: Node, flattened: bool) -> Pair | None:
    first, weight = constant_of(graph, node.args[1]), constant_of(graph, second.args[1])
    assert first is not None
    assert weight is not None
    bias = constant_of(graph, node.args[2]) if len(node.args) > 2 else None
    if (
        len(node.args) > 2
        and node.args[2] is not None
        and (bias is None or len(readers(graph, bias[0])) > 1)
    ):
        return None
    channels, conv = first[1].shape[0], "conv" in str(second.target)
    groups = second.args[6] if conv and len(second.args) > 6 else 1
    depthwise = bool(conv and groups == channels) and weight[1].shape[0] == channels
    columns = channels if depthwise else weight[1].shape[1]
    if (
        (groups != 1 and not depthwise)
        or columns % channels
        or (columns != channels and not flattened)
    ):
        return None
    return Pair(
        first[0],
        None if bias is None else bias[0],
        weight[0],
        columns // channels,
        depthwise,
    )


def _next_layer(node: Node) -> tuple[Node | None, bool]:
    """The layer that alone reads what ``node`` gives, behind homogeneous operators; whether
    an image is flattened in between.
    """
    flattened = False
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target in WEIGHTED and "transpose" not in str(node.target):
            return node, flattened
        if node.target is A.flatten.using_ints and node.args[1:] in ((1,), (1, -1)):
            flattened = True
        elif node.target not in HOMOGENEOUS:
            break
    return None, False
