"""Rewrite a traced network for a channel-last runtime, so that no transpose is left inside.

torch orders axes as N, C, H, W; TFLite computes in N, H, W, C. ``x.flatten(1)`` in front of
a linear layer depends on the order of the axes: the features are flattened channel-last
instead, and the layer's weights are reordered once. This is exact: the same numbers are
multiplied and added, in another order. (The other habit that depends on the order, the mean
over (2, 3), is rewritten in ``edgekit.quantization.rewrite``.)
"""

import torch
import torch.ao.quantization.fx._decomposed  # registers the quantize and dequantize operators
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
#: Operators for which the order of the features does not matter.
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
    """Change the graph in place and return the number of places that were changed.

    Shapes must be static, and every node must have its ``val``.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in _FLATTEN:
            changed += _flatten_channel_last(graph, node)
    if changed:
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.recompile()
    return changed


def _flatten_channel_last(graph: GraphModule, node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    before = source.meta["val"].shape
    after = node.meta["val"].shape
    if not _depends_on_layout(before, after):
        return False
    linears = _find_linears(node)
    if not linears:
        return False
    weights = [_find_weight(linear) for linear in linears]
    if None in weights:
        return False
    for weight in dict.fromkeys(weights):
        assert weight is not None
        _reorder(
            graph, weight, (int(before[1]), int(before[2]), int(before[3]))
        )
    with graph.graph.inserting_before(node):
        moved = graph.graph.call_function(
            A.permute.default, (source, _CHANNEL_LAST)
        )
        result = graph.graph.call_function(
            A.reshape.default, (moved, list(after))
        )
    result.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(result)
    return True


def _depends_on_layout(before: torch.Size, after: torch.Size) -> bool:
    """Whether (N, C, H, W) is flattened to (N, C * H * W), with more than one channel and
    more than one position.
    """
    if len(before) != 4 or len(after) != 2 or before[0] != after[0]:
        return False
    _, channels, height, width = before
    return bool(channels != 1 and height * width != 1)


def _find_linears(node: Node) -> list[Node] | None:
    """The linear layers that read the features through elementwise operators only.

    None if anything else reads them.
    """
    linears: list[Node] = []
    for user in node.users:
        if not user.args or user.args[0] is not node:
            return None
        if user.target is A.linear.default and node not in user.args[1:]:
            linears.append(user)
        elif user.target in _ELEMENTWISE:
            deeper = _find_linears(user)
            if deeper is None:
                return None
            linears += deeper
        else:
            return None
    return linears


def _find_weight(linear: Node) -> Node | None:
    """The stored weight of a linear layer, before it is quantized and dequantized.

    None if it is shared or computed.
    """
    node = linear.args[1]
    while isinstance(node, Node) and len(node.users) == 1:
        if node.op == "get_attr":
            return node
        # Per-channel scales along axis 0, the outputs: the inputs may be reordered.
        per_output = node.target in _PER_CHANNEL and node.args[3] == 0
        if not per_output and node.target not in _PER_TENSOR:
            return None
        node = node.args[0]
    return None


def _reorder(
    graph: GraphModule, weight: Node, shape: tuple[int, int, int]
) -> None:
    owner, _, name = str(weight.target).rpartition(".")
    stored = getattr(graph.get_submodule(owner), name).detach()
    images = stored.reshape(len(stored), *shape)
    moved = images.permute(*_CHANNEL_LAST).reshape(len(stored), -1).contiguous()
    graph.register_buffer(f"{weight.name}_channel_last", moved)
    with graph.graph.inserting_before(weight):
        replacement = graph.graph.get_attr(f"{weight.name}_channel_last")
    replacement.meta["val"] = moved
    weight.replace_all_uses_with(replacement)
