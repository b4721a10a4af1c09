"""Make a traced graph fit for int8: no work in place, no dropout, pools instead of means,
batch normalizations inside convolutions.

In eval mode a batch normalization is x * scale + shift with one scale and shift a channel
(Ioffe & Szegedy 2015, alg. 2). It is folded into the convolution or linear layer before it;
else into a linear layer or an unpadded convolution after it; else it becomes a 1x1
depthwise convolution, which every int8 backend has.
"""

import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.capture import module_of, plain_path

A = torch.ops.aten
CONVS = {
    A.conv1d.default,
    A.conv2d.default,
    A.conv3d.default,
    A.conv1d.padding,
    A.conv2d.padding,
    A.conv3d.padding,
}
LINEARS = {A.linear.default}
TRANSPOSED = {
    A.conv_transpose1d.default,
    A.conv_transpose2d.input,
    A.conv_transpose3d.input,
}
_DROPOUTS = {
    A.dropout.default,
    A.dropout_.default,
    A.feature_dropout.default,
    A.alpha_dropout.default,
    A.feature_alpha_dropout.default,
}
_SAME = {A.detach.default, A.detach_.default, A.alias.default}
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
_IN_PLACE = {
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
_POOLS: dict[int, Callable[..., torch.Tensor]] = {
    4: A.adaptive_avg_pool2d.default,
    5: A.adaptive_avg_pool3d.default,
}
_PADDINGS: dict[object, Callable[..., torch.Tensor]] = {
    A.conv1d.padding: A.conv1d.default,
    A.conv2d.padding: A.conv2d.default,
    A.conv3d.padding: A.conv3d.default,
}
_DEPTHWISE: dict[int, Callable[..., torch.Tensor]] = {
    3: A.conv1d.default,
    4: A.conv2d.default,
    5: A.conv3d.default,
}
#: Where a graph remembers the paths of its modules: the operators of some are folded away.
_MODULES = "edgekit_modules"


def rewrite(graph: GraphModule) -> None:
    """Change the graph in place; the network that it was traced from keeps its weights."""
    graph.meta[_MODULES] = _module_paths(graph)
    for node in list(graph.graph.nodes):
        if node.target in _IN_PLACE:
            _out_of_place(node)
    for node in list(graph.graph.nodes):
        if node.target in _SAME or (node.target in _DROPOUTS and not node.args[2]):
            replace(node, node.args[0])
    for node in list(graph.graph.nodes):
        if node.target is A.batch_norm.default and not node.args[5]:
            _fold_norm(graph, node)
    for node in list(graph.graph.nodes):
        if node.target is A.mean.dim:
            _pool_then_flatten(node)
        elif node.target in _PADDINGS:
            _pad_in_numbers(graph, node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def modules(graph: GraphModule) -> frozenset[str]:
    """The paths of the network's modules, those included whose operators were folded into
    others.
    """
    known: frozenset[str] = graph.meta.get(_MODULES) or _module_paths(graph)
    return known


def _module_paths(graph: GraphModule) -> frozenset[str]:
    stacks = (
        entry[0]
        for node in graph.graph.nodes
        for entry in (node.meta.get("nn_module_stack") or {}).values()
    )
    named = (path for path, _ in graph.named_modules())
    return frozenset(path for path in map(plain_path, (*stacks, *named)) if path)


def _pool_then_flatten(mean: Node) -> None:
    """The mean over all places of an image as a pool and a reshape: runtimes have int8
    kernels for these, and no transpose is needed.
    """
    value, axes = mean.args[0], mean.args[1]
    assert isinstance(value, Node)
    rank = value.meta["val"].dim()
    keeps = len(mean.args) > 2 and bool(mean.args[2])
    if rank not in _POOLS or keeps or mean.kwargs or not isinstance(axes, list | tuple):
        return
    if sorted(int(str(axis)) % rank for axis in axes) != list(range(2, rank)):
        return
    with mean.graph.inserting_before(mean):
        pool = mean.graph.call_function(_POOLS[rank], (value, [1] * (rank - 2)))
        like(
            mean,
            pool,
            mean.meta["val"].reshape(*mean.meta["val"].shape, *([1] * (rank - 2))),
        )
        flat = like(
            mean,
            mean.graph.call_function(A.flatten.using_ints, (pool, 1)),
            mean.meta["val"],
        )
    replace(mean, flat)


def _pad_in_numbers(graph: GraphModule, conv: Node) -> None:
    """Padding that is given as a word ('same', 'valid') in numbers, where it is the same at
    both ends.
    """
    weight = constant(graph, conv.args[1])
    if weight is None:
        return
    spatial = weight.dim() - 2
    given: list[Any] = list(conv.args[2:])
    bias, stride, padding, dilation, groups = (
        given + [None, [1] * spatial, "valid", [1] * spatial, 1][len(given) :]
    )
    wide = [
        step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)
    ]
    if padding != "valid" and any(total % 2 for total in wide):
        return
    conv.args = (
        *conv.args[:2],
        bias,
        stride,
        [0 if padding == "valid" else total // 2 for total in wide],
        dilation,
        groups,
    )
    conv.target = _PADDINGS[conv.target]


def constant(graph: GraphModule, node: object) -> torch.Tensor | None:
    """The tensor that a get_attr node holds, or None."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    found = getattr(graph.get_submodule(owner), name, None)
    return found.detach() if isinstance(found, torch.Tensor) else None


def _out_of_place(node: Node) -> None:
    """Later readers of the changed tensor read the result instead.

    A changed view of a tensor that is read again is refused.
    """
    changed = node.args[0]
    assert isinstance(changed, Node)
    _later_reads(changed, node)
    root = changed
    while root.target in _VIEWS and isinstance(root.args[0], Node):
        root = root.args[0]
        if any(user > node for user in root.users):
            raise StepError(
                f"The network changes a part of a tensor in place at {module_of(node) or 'its top'} ({node.target}) and reads the whole again.",
                fix="write it without the in-place operation",
            )
    node.target = _IN_PLACE[node.target]  # type: ignore[index]


def _later_reads(changed: Node, node: Node) -> None:
    for user in list(changed.users):
        if user > node:
            user.replace_input_with(changed, node)


def _fold_norm(graph: GraphModule, norm: Node) -> None:
    before = norm.args[0]
    assert isinstance(before, Node)
    found = _affine(graph, norm)
    if found is None:
        return
    scale, shift = found
    rank = norm.meta["val"].dim()
    if (
        before.target in TRANSPOSED
        and len(before.users) == 1
        and constant(graph, before.args[1]) is not None
    ):
        _fold_transposed(graph, before, scale, shift)
        replace(norm, before)
        return
    weight = (
        constant(graph, before.args[1])
        if before.target in CONVS or (before.target in LINEARS and rank == 2)
        else None
    )
    if weight is not None and len(before.users) == 1:
        bias = _bias(graph, before, len(scale))
        _set_weights(
            graph, before, weight * _along(scale, 0, weight.dim()), bias * scale + shift
        )
        replace(norm, before)
    elif norm.users and all(_takes_affine(graph, user, norm, rank) for user in norm.users):
        for user in list(norm.users):
            _fold_forward(graph, user, scale, shift)
        replace(norm, before)
    else:
        _as_convolution(graph, norm, scale, shift)


def _fold_transposed(
    graph: GraphModule, conv: Node, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """A transposed convolution's weight is (inputs, outputs of a group, ...): its groups
    lie along the first axis.
    """
    weight = constant(graph, conv.args[1])
    assert weight is not None
    groups = len(scale) // weight.shape[1]
    scales = (
        scale.reshape(groups, 1, -1)
        .expand(groups, len(weight) // groups, -1)
        .reshape(len(weight), -1, *([1] * (weight.dim() - 2)))
    )
    _set_weights(
        graph, conv, weight * scales, _bias(graph, conv, len(scale)) * scale + shift
    )


def _affine(graph: GraphModule, norm: Node) -> tuple[torch.Tensor, torch.Tensor] | None:
    weight, bias, mean, variance = (
        constant(graph, argument) for argument in norm.args[1:5]
    )
    if mean is None or variance is None:
        return None
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    scale = torch.rsqrt(variance.double() + epsilon)
    scale = scale if weight is None else scale * weight.double()
    shift = (
        -mean.double() * scale if bias is None else bias.double() - mean.double() * scale
    )
    return scale.float(), shift.float()


def _takes_affine(graph: GraphModule, user: Node, norm: Node, rank: int) -> bool:
    """Whether y * scale + shift before ``user`` is exactly another weight and bias of it."""
    if (
        user.args[0] is not norm
        or constant(graph, user.args[1] if len(user.args) > 1 else None) is None
    ):
        return False
    if user.target in LINEARS:
        return rank == 2
    padding = user.args[4] if len(user.args) > 4 else [0]
    return user.target in CONVS and (
        padding == "valid" or (isinstance(padding, list) and not any(padding))
    )


def _fold_forward(
    graph: GraphModule, user: Node, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    weight = constant(graph, user.args[1])
    assert weight is not None
    inputs, outputs = weight.shape[1], weight.shape[0]
    groups = len(scale) // inputs
    each = outputs // groups  # output channels of a group
    scales = (
        scale.reshape(groups, 1, inputs)
        .expand(groups, each, inputs)
        .reshape(outputs, inputs)
    )
    shifts = (
        shift.reshape(groups, 1, inputs)
        .expand(groups, each, inputs)
        .reshape(outputs, inputs)
    )
    spatial = [1] * (weight.dim() - 2)
    added = (weight * shifts.reshape(outputs, inputs, *spatial)).flatten(1).sum(1)
    _set_weights(
        graph,
        user,
        weight * scales.reshape(outputs, inputs, *spatial),
        _bias(graph, user, outputs) + added,
    )


def _as_convolution(
    graph: GraphModule, norm: Node, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """x * scale + shift as a 1x1 depthwise convolution; features without a place get one."""
    rank, channels = norm.meta["val"].dim(), len(scale)
    if rank not in (2, *_DEPTHWISE):
        return
    spatial = 2 if rank == 2 else rank - 2
    value = before = norm.args[0]
    assert isinstance(before, Node)
    with graph.graph.inserting_before(norm):
        weight = new_constant(
            graph, norm, "weight", scale.reshape(channels, *([1] * (1 + spatial)))
        )
        bias = new_constant(graph, norm, "bias", shift)
        if rank == 2:
            value = like(
                norm,
                graph.graph.call_function(A.view.default, (before, [-1, channels, 1, 1])),
                before.meta["val"][:, :, None, None],
            )
        ones, zeros = [1] * spatial, [0] * spatial
        shape = before.meta["val"] if rank > 2 else before.meta["val"][:, :, None, None]
        conv = graph.graph.call_function(
            _DEPTHWISE[2 + spatial], (value, weight, bias, ones, zeros, ones, channels)
        )
        result = like(norm, conv, shape)
        if rank == 2:
            result = like(
                norm,
                graph.graph.call_function(A.view.default, (result, [-1, channels])),
                norm.meta["val"],
            )
    replace(norm, result)


def _bias(graph: GraphModule, node: Node, size: int) -> torch.Tensor:
    bias = constant(graph, node.args[2]) if len(node.args) > 2 else None
    return torch.zeros(size) if bias is None else bias


def _set_weights(
    graph: GraphModule, node: Node, weight: torch.Tensor, bias: torch.Tensor
) -> None:
    with graph.graph.inserting_before(node):
        new = (
            new_constant(graph, node, "weight", weight),
            new_constant(graph, node, "bias", bias),
        )
    node.args = (node.args[0], *new, *node.args[3:])


def new_constant(graph: GraphModule, near: Node, what: str, value: torch.Tensor) -> Node:
    name = next(
        name
        for k in itertools.count()
        if not hasattr(graph, name := f"{near.name}_folded_{what}{k or ''}")
    )
    graph.register_parameter(
        name, torch.nn.Parameter(value.contiguous(), requires_grad=False)
    )
    node = graph.graph.get_attr(name)
    node.meta["val"] = value
    return node


def like(origin: Node, node: Node, value: torch.Tensor) -> Node:
    """Give a new node the origin of the one that it replaces, so that reports name its
    module.
    """
    kept = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn")
    node.meta = {key: origin.meta[key] for key in kept if key in origin.meta}
    node.meta["val"] = value
    return node


def replace(node: Node, by: object) -> None:
    assert isinstance(by, Node)
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def _along(values: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])
