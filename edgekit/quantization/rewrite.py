"""Rewriting a traced graph so that int8 kernels fit it; float results stay the same.

In-place operators become out-of-place, dropouts are removed, spatial means become pools,
padding becomes explicit, and batch normalizations are folded (``batch_norm``).
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.batch_norm import fold_batch_norm
from edgekit.quantization.capture import module_of, plain_path
from edgekit.quantization.graph_edit import (
    constant_value,
    copy_origin,
    replace_node,
)

A = torch.ops.aten
_DROPOUTS = {
    A.dropout.default,
    A.dropout_.default,
    A.feature_dropout.default,
    A.alpha_dropout.default,
    A.feature_alpha_dropout.default,
}
_IDENTITIES = {A.detach.default, A.detach_.default, A.alias.default}
_VIEWS = {
    A.view.default,
    A.reshape.default,
    A.flatten.using_ints,
    A.transpose.int,
    A.permute.default,
    A.slice.Tensor,
    A.select.int,
    A.squeeze.dim,
    A.squeeze.default,
    A.unsqueeze.default,
    A.expand.default,
    A.chunk.default,
    A.split.Tensor,
    A.alias.default,
    A.detach.default,
    operator.getitem,
}
_OUT_OF_PLACE = {
    A.relu_.default: A.relu.default,
    A.hardtanh_.default: A.hardtanh.default,
    A.relu6_.default: A.relu6.default,
    A.add_.Tensor: A.add.Tensor,
    A.mul_.Tensor: A.mul.Tensor,
    A.sub_.Tensor: A.sub.Tensor,
    A.div_.Tensor: A.div.Tensor,
    A.silu_.default: A.silu.default,
    A.hardswish_.default: A.hardswish.default,
    A.leaky_relu_.default: A.leaky_relu.default,
    A.sigmoid_.default: A.sigmoid.default,
    A.hardsigmoid_.default: A.hardsigmoid.default,
    A.tanh_.default: A.tanh.default,
    A.elu_.default: A.elu.default,
}
#: Global average pools by the rank of their input.
_POOLS: dict[int, Callable[..., torch.Tensor]] = {
    4: A.adaptive_avg_pool2d.default,
    5: A.adaptive_avg_pool3d.default,
}
#: Convolutions with padding as a string -> with padding as numbers.
_EXPLICIT_PADDING: dict[object, Callable[..., torch.Tensor]] = {
    A.conv1d.padding: A.conv1d.default,
    A.conv2d.padding: A.conv2d.default,
    A.conv3d.padding: A.conv3d.default,
}
#: Where a graph stores the paths of its modules: the operators of some are folded away.
_MODULES = "edgekit_modules"


def rewrite(graph: GraphModule) -> None:
    """Rewrite a traced graph in place.

    The network that it was traced from keeps its weights. Raises StepError if the network
    changes a view in place and reads the tensor again.
    """
    graph.meta[_MODULES] = _traced_module_paths(graph)
    for node in list(graph.graph.nodes):
        if node.target in _OUT_OF_PLACE:
            _make_out_of_place(node)
    for node in list(graph.graph.nodes):
        is_inactive_dropout = node.target in _DROPOUTS and not node.args[2]
        if node.target in _IDENTITIES or is_inactive_dropout:
            replace_node(node, node.args[0])
    for node in list(graph.graph.nodes):
        if node.target is A.batch_norm.default and not node.args[5]:
            fold_batch_norm(graph, node)
    for node in list(graph.graph.nodes):
        if node.target is A.mean.dim:
            _replace_mean(node)
        elif node.target in _EXPLICIT_PADDING:
            _make_padding_explicit(graph, node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def module_paths(graph: GraphModule) -> frozenset[str]:
    """The paths of the network's modules.

    Modules whose operators were folded into others are included.
    """
    paths: frozenset[str] = graph.meta.get(_MODULES) or _traced_module_paths(
        graph
    )
    return paths


def _traced_module_paths(graph: GraphModule) -> frozenset[str]:
    paths = [path for path, _ in graph.named_modules()]
    for node in graph.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        paths += [entry[0] for entry in stack.values()]
    plain = (plain_path(path) for path in paths)
    return frozenset(path for path in plain if path)


def _replace_mean(mean: Node) -> None:
    """Replace a mean over all positions of an image by a pool and a reshape.

    Runtimes have int8 kernels for these, and no transpose is needed.
    """
    value, axes = mean.args[:2]
    assert isinstance(value, Node)
    rank = value.meta["val"].dim()
    keeps_dims = len(mean.args) > 2 and bool(mean.args[2])
    if rank not in _POOLS or keeps_dims or mean.kwargs:
        return
    if not isinstance(axes, list | tuple):
        return
    spatial_axes = list(range(2, rank))
    if sorted(int(str(axis)) % rank for axis in axes) != spatial_axes:
        return
    ones = [1] * len(spatial_axes)
    result = mean.meta["val"]
    with mean.graph.inserting_before(mean):
        pool = mean.graph.call_function(_POOLS[rank], (value, ones))
        copy_origin(mean, pool, result.reshape(*result.shape, *ones))
        flat = mean.graph.call_function(A.flatten.using_ints, (pool, 1))
        copy_origin(mean, flat, result)
    replace_node(mean, flat)


def _make_padding_explicit(graph: GraphModule, conv: Node) -> None:
    """Replace padding 'same' or 'valid' by numbers, if it is the same at both ends."""
    weight = constant_value(graph, conv.args[1])
    if weight is None:
        return
    ones = [1] * (weight.dim() - 2)
    defaults: list[Any] = [None, ones, "valid", ones, 1]
    explicit: list[Any] = list(conv.args[2:])
    arguments = explicit + defaults[len(explicit) :]
    bias, stride, padding, dilation, groups = arguments
    totals = [
        step * (size - 1)
        for step, size in zip(dilation, weight.shape[2:], strict=True)
    ]
    if padding == "valid":
        totals = [0] * len(totals)
    if any(total % 2 for total in totals):
        return
    padding = [total // 2 for total in totals]
    conv.args = (*conv.args[:2], bias, stride, padding, dilation, groups)
    conv.target = _EXPLICIT_PADDING[conv.target]


def _make_out_of_place(node: Node) -> None:
    """Replace an in-place operator; later readers of the tensor read the result instead.

    Raises StepError if the tensor is a view of one that is read again.
    """
    changed = node.args[0]
    assert isinstance(changed, Node)
    _redirect_later_readers(changed, node)
    root = changed
    while root.target in _VIEWS and isinstance(root.args[0], Node):
        root = root.args[0]
        if any(user > node for user in root.users):
            place = module_of(node) or "its top level"
            raise StepError(
                "The network changes a part of a tensor in place "
                f"at {place} ({node.target}) and reads the entire tensor again.",
                fix="write it without the in-place operation",
            )
    node.target = _OUT_OF_PLACE[node.target]  # type: ignore[index]


def _redirect_later_readers(changed: Node, node: Node) -> None:
    for user in list(changed.users):
        if user > node:
            user.replace_input_with(changed, node)
