"""Folding batch normalizations into the layers around them.

In eval mode a batch normalization is x * scale + shift with a per-channel scale and shift
(Ioffe & Szegedy 2015, alg. 2). It is folded into the convolution or linear layer before it;
else into a linear layer or an unpadded convolution after it; else it becomes a 1x1
depthwise convolution, which every int8 backend has.
"""

from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.graph_edit import (
    add_constant,
    constant_value,
    copy_origin,
    replace_node,
)
from edgekit.quantization.operators import LINEARS

A = torch.ops.aten
_CONVS = {
    A.conv1d.default,
    A.conv2d.default,
    A.conv3d.default,
    A.conv1d.padding,
    A.conv2d.padding,
    A.conv3d.padding,
}
_TRANSPOSED = {
    A.conv_transpose1d.default,
    A.conv_transpose2d.input,
    A.conv_transpose3d.input,
}
#: Depthwise convolutions by the rank of their input.
_DEPTHWISE: dict[int, Callable[..., torch.Tensor]] = {
    3: A.conv1d.default,
    4: A.conv2d.default,
    5: A.conv3d.default,
}
#: The rank of a batch of features without positions.
_FEATURES = 2


def fold_batch_norm(graph: GraphModule, norm: Node) -> None:
    """Fold one batch normalization in eval mode, in place.

    It stays if its statistics are not constants, or if its input has no spatial rank that a
    convolution has.
    """
    before = norm.args[0]
    assert isinstance(before, Node)
    affine = _affine(graph, norm)
    if affine is None:
        return
    scale, shift = affine
    rank = norm.meta["val"].dim()
    weight = (
        constant_value(graph, before.args[1]) if len(before.args) > 1 else None
    )
    if len(before.users) != 1:
        weight = None
    if weight is not None and before.target in _TRANSPOSED:
        _fold_transposed(graph, before, scale, shift)
        replace_node(norm, before)
    elif weight is not None and _folds_backward(before, rank):
        bias = _bias(graph, before, len(scale))
        scaled = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        _set_weights(graph, before, scaled, bias * scale + shift)
        replace_node(norm, before)
    elif norm.users and all(
        _folds_forward(graph, user, norm) for user in norm.users
    ):
        for user in list(norm.users):
            _fold_forward(graph, user, scale, shift)
        replace_node(norm, before)
    else:
        _replace_by_convolution(graph, norm, scale, shift)


def _affine(
    graph: GraphModule, norm: Node
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Scale and shift of a normalization, (channels,); None if its statistics are computed."""
    weight, bias, mean, variance = (
        constant_value(graph, argument) for argument in norm.args[1:5]
    )
    if mean is None or variance is None:
        return None
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    scale = torch.rsqrt(variance.double() + epsilon)
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = bias.double() - mean.double() * scale
    return scale.float(), shift.float()


def _folds_backward(before: Node, rank: int) -> bool:
    """Whether the channels of ``before`` are those of the normalization after it."""
    return before.target in _CONVS or (
        before.target in LINEARS and rank == _FEATURES
    )


def _folds_forward(graph: GraphModule, user: Node, norm: Node) -> bool:
    """Whether x * scale + shift before ``user`` is exactly another weight and bias of it."""
    weight = constant_value(graph, user.args[1]) if len(user.args) > 1 else None
    if user.args[0] is not norm or weight is None:
        return False
    if user.target in LINEARS:
        return bool(norm.meta["val"].dim() == _FEATURES)
    if user.target not in _CONVS:
        return False
    padding = user.args[4] if len(user.args) > 4 else [0]
    return padding == "valid" or (
        isinstance(padding, list) and not any(padding)
    )


def _fold_transposed(
    graph: GraphModule, conv: Node, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """Fold into a transposed convolution.

    Its weight has the shape (inputs, outputs of a group, ...): groups are on the first axis.
    """
    weight = constant_value(graph, conv.args[1])
    assert weight is not None
    groups = len(scale) // weight.shape[1]
    inputs = len(weight)
    spatial = [1] * (weight.dim() - 2)
    scales = scale.reshape(groups, 1, -1).expand(groups, inputs // groups, -1)
    scales = scales.reshape(inputs, -1, *spatial)
    bias = _bias(graph, conv, len(scale))
    _set_weights(graph, conv, weight * scales, bias * scale + shift)


def _fold_forward(
    graph: GraphModule, user: Node, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """Fold into the layer that reads the normalization: W (s x + t) + b = (W s) x + W t + b."""
    weight = constant_value(graph, user.args[1])
    assert weight is not None
    outputs, inputs = weight.shape[:2]
    groups = len(scale) // inputs
    per_group = outputs // groups
    spatial = [1] * (weight.dim() - 2)

    def spread(values: torch.Tensor) -> torch.Tensor:
        """Values per input channel, (channels,), in the shape of the weight."""
        grouped = values.reshape(groups, 1, inputs).expand(
            groups, per_group, inputs
        )
        return grouped.reshape(outputs, inputs, *spatial)

    added = (weight * spread(shift)).flatten(1).sum(1)
    bias = _bias(graph, user, outputs) + added
    _set_weights(graph, user, weight * spread(scale), bias)


def _replace_by_convolution(
    graph: GraphModule, norm: Node, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """Replace x * scale + shift by a 1x1 depthwise convolution.

    Features without positions become an image of one pixel in between.
    """
    before = norm.args[0]
    assert isinstance(before, Node)
    rank, channels = norm.meta["val"].dim(), len(scale)
    if rank != _FEATURES and rank not in _DEPTHWISE:
        return
    spatial = 2 if rank == _FEATURES else rank - 2
    ones, zeros = [1] * spatial, [0] * spatial
    image, image_value = before, before.meta["val"]
    with graph.graph.inserting_before(norm):
        weight = add_constant(
            graph, norm, "weight", scale.reshape(channels, 1, *ones)
        )
        bias = add_constant(graph, norm, "bias", shift)
        if rank == _FEATURES:
            image_value = image_value[:, :, None, None]
            image = graph.graph.call_function(
                A.view.default, (before, [-1, channels, 1, 1])
            )
            copy_origin(norm, image, image_value)
        arguments = (image, weight, bias, ones, zeros, ones, channels)
        result = graph.graph.call_function(_DEPTHWISE[2 + spatial], arguments)
        copy_origin(norm, result, image_value)
        if rank == _FEATURES:
            result = graph.graph.call_function(
                A.view.default, (result, [-1, channels])
            )
            copy_origin(norm, result, norm.meta["val"])
    replace_node(norm, result)


def _bias(graph: GraphModule, node: Node, size: int) -> torch.Tensor:
    bias = constant_value(graph, node.args[2]) if len(node.args) > 2 else None
    return torch.zeros(size) if bias is None else bias


def _set_weights(
    graph: GraphModule, node: Node, weight: torch.Tensor, bias: torch.Tensor
) -> None:
    with graph.graph.inserting_before(node):
        new_weight = add_constant(graph, node, "weight", weight)
        new_bias = add_constant(graph, node, "bias", bias)
    node.args = (node.args[0], new_weight, new_bias, *node.args[3:])
