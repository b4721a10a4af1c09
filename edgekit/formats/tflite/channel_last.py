"""Make a traced network fit for a channel-last runtime, so that no transpose is left in its
middle.

torch counts axes as N, C, H, W; TFLite computes in N, H, W, C. ``x.flatten(1)`` in front of
a linear layer shows the order of the axes: the features are flattened channel-last instead,
and the layer's weights are put in that order once. This is exact: the same numbers are
multiplied and added, in another order. (The other habit that shows it, the mean over (2,
3), is rewritten in ``edgekit.quantization.rewrite``.)
"""

import torch
import torch.ao.quantization.fx._decomposed  # names the operators of quantize and dequantize
from torch.fx import GraphModule, Node

A = torch.ops.aten
_QUANTIZED = torch.ops.quantized_decomposed
_PER_TENSOR = {
    _QUANTIZED.quantize_per_tensor.default,
    _QUANTIZED.dequantize_per_tensor.default,
}
_PER_CHANNEL = {
    _QUANTIZED.quantize_per_channel.default,
    _QUANTIZED.dequantize_per_channel.default,
}
#: One number in, one number out: these do not see the order of the features.
_ELEMENTWISE = _PER_TENSOR | {
    A.relu.default,
    A.relu_.default,
    A.hardtanh.default,
    A.relu6.default,
    A.dropout.default,
    A.clone.default,
}
_FLATTEN = {A.flatten.using_ints, A.view.default, A.reshape.default}
_CHANNEL_LAST = [0, 2, 3, 1]


def prefer_channel_last(graph: GraphModule) -> int:
    """Change the graph in place (static shapes, nodes with ``val``); tells how many places
    were changed.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in _FLATTEN:
            changed += _flatten(graph, node)
    if changed:
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.recompile()
    return changed


def _flatten(graph: GraphModule, node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if (
        len(before) != 4
        or len(after) != 2
        or before[0] != after[0]
        or before[1] == 1
        or before[2] * before[3] == 1
    ):
        return False
    linears = _readers(node)
    weights = [_weight(linear) for linear in linears or []]
    if not linears or None in weights:
        return False
    for weight in dict.fromkeys(weights):
        assert weight is not None
        _reorder(graph, weight, (int(before[1]), int(before[2]), int(before[3])))
    with graph.graph.inserting_before(node):
        moved = graph.graph.call_function(A.permute.default, (source, _CHANNEL_LAST))
        result = graph.graph.call_function(A.reshape.default, (moved, list(after)))
    result.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(result)
    return True


def _readers(node: Node) -> list[Node] | None:
    """The linear layers that read the features, through elementwise ops only; None where
    anything else reads them.
    """
    found: list[Node] = []
    for user in node.users:
        if (
            user.target is A.linear.default
            and user.args[0] is node
            and node not in user.args[1:]
        ):
            found.append(user)
        elif user.target in _ELEMENTWISE and user.args[0] is node:
            deeper = _readers(user)
            if deeper is None:
                return None
            found += deeper
        else:
            return None
    return found


def _weight(linear: Node) -> Node | None:
    """The stored weight of a linear layer, behind quantize and dequantize; None where it is
    shared or computed.
    """
    node = linear.args[1]
    while isinstance(node, Node) and len(node.users) == 1:
        if node.op == "get_attr":
            return node
        rows = (
            node.target in _PER_CHANNEL and node.args[3] == 0
        )  # one scale an output feature: the order of inputs is free
        if not rows and node.target not in _PER_TENSOR:
            return None
        node = node.args[0]
    return None


def _reorder(graph: GraphModule, weight: Node, shape: tuple[int, int, int]) -> None:
    owner, _, name = str(weight.target).rpartition(".")
    stored = getattr(graph.get_submodule(owner), name).detach()
    moved = (
        stored.reshape(len(stored), *shape)
        .permute(*_CHANNEL_LAST)
        .reshape(len(stored), -1)
        .contiguous()
    )
    graph.register_buffer(f"{weight.name}_channel_last", moved)
    with graph.graph.inserting_before(weight):
        replacement = graph.graph.get_attr(f"{weight.name}_channel_last")
    replacement.meta["val"] = moved
    weight.replace_all_uses_with(replacement)
