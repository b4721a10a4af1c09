"""Replacing operators that the Edge TPU does not have; float values stay the same.

Its compiler maps a graph up to the first unsupported operator, so that one of these moves
everything after it to the CPU. The supported operators are in
``edgekit.formats.edgetpu.mapper``; LeakyReLU is replaced in the finished file
(``edgekit.formats.edgetpu.rewrite``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from edgekit.quantization.graph_edit import constant_value, copy_origin
from edgekit.quantization.operators import A
from edgekit.quantization.site import Site

#: Operators whose output is never negative.
_NON_NEGATIVE = {
    A.relu.default,
    A.relu6.default,
    A.sigmoid.default,
    A.hardsigmoid.default,
    A.softmax.int,
    A.abs.default,
}
#: Operators whose output is not negative if no input is.
_SIGN_PRESERVING = {
    A.max_pool2d.default,
    A.avg_pool2d.default,
    A.adaptive_avg_pool2d.default,
    A.slice.Tensor,
    A.view.default,
    A.reshape.default,
    A.cat.default,
    A.add.Tensor,
    A.mul.Tensor,
    A.upsample_nearest2d.vec,
    A.dropout.default,
}
_VIEWS = (A.view.default, A.reshape.default, A.unflatten.int)
_TRANSPOSES = (A.transpose.int, A.permute.default)
_COPIES = (A.contiguous.default, A.clone.default)
_IMAGE_RANK = 4
#: Padding before and after an axis.
_Edge = tuple[int, int]


def _max_pool(site: Site) -> None:
    """A padded max pool becomes an explicit padding and an unpadded pool.

    TFLite has PADV2 (padding with the lowest value) for it; the Edge TPU has only PAD (with
    zeros). After a ReLU padding with zeros is the same. Elsewhere the edge is repeated: a
    window that reaches over it contains the edge itself, so that its maximum is the same.
    """
    source = site.args[0]
    assert isinstance(source, Node)
    edges = _pool_edges(site, source)
    if edges is None:
        return
    kernel = _pair(site.args, 1)
    stride = _pair(site.args, 2) or kernel
    assert kernel is not None
    assert stride is not None
    pad = _pad_with_zeros if _is_non_negative(source) else _repeat_edges
    padded = pad(site, source, edges)
    site.replace_with(
        site.insert(A.max_pool2d.default, padded, list(kernel), list(stride))
    )


def _pool_edges(site: Site, source: Node) -> list[_Edge] | None:
    """The padding of rows and columns of a pool; None if it need not be replaced."""
    kernel = _pair(site.args, 1)
    stride = _pair(site.args, 2) or kernel
    padding = _pair(site.args, 3) or (0, 0)
    dilation = _pair(site.args, 4) or (1, 1)
    if (
        kernel is None
        or stride is None
        or padding == (0, 0)
        or dilation != (1, 1)
    ):
        return None
    before = source.meta["val"].shape
    after = site.node.meta["val"].shape
    if not site.is_float or len(before) != _IMAGE_RANK:
        return None
    if not all(isinstance(size, int) for size in (*before[2:], *after[2:])):
        return None
    edges = []
    sizes = zip(before[2:], after[2:], kernel, stride, padding, strict=True)
    for old, new, window, step, pad in sizes:
        # The last window may end before the padding does; with a rounded-up size it may
        # end after it.
        end = (new - 1) * step + window - pad - old
        edges.append((pad, max(0, end)))
    return edges


def _pad_with_zeros(site: Site, source: Node, edges: Sequence[_Edge]) -> Node:
    (above, below), (left, right) = edges
    value = source.meta["val"]
    samples, channels, rows, columns = value.shape
    with site.graph.graph.inserting_before(site.node):
        padded = site.graph.graph.call_function(
            A.pad.default, (source, [left, right, above, below])
        )
    # Run on a tensor with a free batch dim, this operator would fix the batch dim.
    shape = (samples, channels, rows + above + below, columns + left + right)
    return copy_origin(site.node, padded, value.new_empty(shape))


def _repeat_edges(site: Site, source: Node, edges: Sequence[_Edge]) -> Node:
    for axis, (before, after) in zip((2, 3), edges, strict=True):
        size = int(source.meta["val"].shape[axis])
        pieces = [source]
        if before:
            first = site.insert(A.slice.Tensor, source, axis, 0, 1)
            pieces = [first] * before + pieces
        if after:
            last = site.insert(A.slice.Tensor, source, axis, size - 1, size)
            pieces = pieces + [last] * after
        if len(pieces) > 1:
            source = site.insert(A.cat.default, pieces, axis)
    return source


def _strided_slice(site: Site) -> None:
    """A slice with a step becomes a slice without one and a max pool.

    The pool has windows of 1 and the step as its stride.
    """
    source = site.args[0]
    assert isinstance(source, Node)
    axis = _argument(site.args, 1, 0)
    step = _argument(site.args, 4, 1)
    if step == 1 or not isinstance(step, int) or not site.is_float:
        return
    value = source.meta["val"]
    if value.dim() != _IMAGE_RANK or axis % _IMAGE_RANK < 2:
        return
    if not isinstance(value.shape[axis], int):
        return
    size = int(value.shape[axis])
    bounds = slice(_argument(site.args, 2, None), _argument(site.args, 3, None))
    first, last, _ = bounds.indices(size)
    if (first, last) != (0, size):
        source = site.insert(A.slice.Tensor, source, axis, first, last)
    strides = [step, 1] if axis % _IMAGE_RANK == 2 else [1, step]
    site.replace_with(
        site.insert(A.max_pool2d.default, source, [1, 1], strides)
    )


def _hardswish(site: Site) -> None:
    """x * relu6(x + 3) / 6 (Howard et al. 2019, eq. 2)."""
    if not site.is_float:
        return
    shifted = site.insert(A.add.Tensor, site.args[0], site.insert_number(3.0))
    clipped = site.insert(A.relu6.default, shifted)
    gate = site.insert(A.mul.Tensor, clipped, site.insert_number(1 / 6))
    site.replace_with(site.insert(A.mul.Tensor, site.args[0], gate))


def _prelu(site: Site) -> None:
    """max(x, a x) if all slopes a are in [0, 1]; else max(x, 0) + a min(x, 0).

    With one slope for all channels it is a LeakyReLU.
    """
    slopes = constant_value(site.graph, site.args[1])
    source = site.args[0]
    if slopes is None or not site.is_float:
        return
    first = slopes.flatten()[0]
    if bool((slopes == first).all()):
        leaky = site.insert(A.leaky_relu.default, source, float(first))
        site.replace_with(leaky)
        return
    assert isinstance(source, Node)
    spatial = [1] * (source.meta["val"].dim() - 2)
    stored = site.insert_constant("slopes", slopes.reshape(1, -1, *spatial))
    if bool((slopes >= 0).all() and (slopes <= 1).all()):
        scaled = site.insert(A.mul.Tensor, source, stored)
        site.replace_with(site.insert(A.maximum.default, source, scaled))
        return
    positive = site.insert(A.relu.default, source)
    negative = site.insert(A.sub.Tensor, source, positive)
    scaled = site.insert(A.mul.Tensor, negative, stored)
    site.replace_with(site.insert(A.add.Tensor, positive, scaled))


def _pixel_unshuffle(site: Site) -> None:
    """Blocks of positions become channels, by a convolution with one weight of 1 each."""
    source, block = site.args[:2]
    assert isinstance(source, Node)
    assert isinstance(block, int)
    if not site.is_float or source.meta["val"].dim() != _IMAGE_RANK:
        return
    channels = source.meta["val"].shape[1]
    identity = torch.eye(channels * block * block)
    weight = identity.reshape(-1, channels, block, block)
    stored = site.insert_constant("weight", weight)
    convolution = site.insert(
        A.conv2d.default, source, stored, None, [block, block]
    )
    site.replace_with(convolution)


def _channel_shuffle(site: Site) -> None:
    """A channel shuffle (ShuffleNet) becomes a 1x1 convolution.

    A shuffle is a view with five dims, a transposition of groups, and a view back. The
    convolution reads one channel per output channel.
    """
    transposed = _skip_copies(site.args[0])
    if transposed is None or transposed.target not in _TRANSPOSES:
        return
    grouped = transposed.args[0]
    if not isinstance(grouped, Node) or grouped.target not in _VIEWS:
        return
    source = grouped.args[0]
    assert isinstance(source, Node)
    before = list(source.meta["val"].shape)
    five = list(grouped.meta["val"].shape)
    after = list(site.node.meta["val"].shape)
    if before != after or len(before) != _IMAGE_RANK or len(five) != 5:
        return
    # Samples, then groups, then channels of a group: nothing else may move.
    if five[3:] != before[2:] or five[0] != before[0]:
        return
    if not _swaps_groups(transposed) or not site.is_float:
        return
    groups, channels = int(five[1]), int(before[1])
    order = torch.arange(channels).reshape(groups, -1).t().flatten()
    weight = torch.eye(channels)[order].reshape(channels, channels, 1, 1)
    stored = site.insert_constant("weight", weight)
    site.replace_with(site.insert(A.conv2d.default, source, stored, None))


def _swaps_groups(transposed: Node) -> bool:
    """Whether only the axes 1 and 2 of five are swapped."""
    if transposed.target is A.transpose.int:
        return {int(str(axis)) % 5 for axis in transposed.args[1:3]} == {1, 2}
    axes = transposed.args[1]
    if not isinstance(axes, list | tuple):
        return False
    return [int(str(axis)) % 5 for axis in axes] == [0, 2, 1, 3, 4]


def _skip_copies(node: object) -> Node | None:
    """The node whose values a chain of copies ends with; None if it is not a node."""
    while isinstance(node, Node) and node.target in _COPIES:
        node = node.args[0]
    return node if isinstance(node, Node) else None


def _is_non_negative(node: Node) -> bool:
    """Whether a tensor is known to contain no negative value."""
    if node.target in _NON_NEGATIVE:
        return True
    if node.target is A.hardtanh.default:
        return float(str(_argument(node.args, 1, -1.0))) >= 0
    if node.target is A.clamp.default:
        low = _argument(node.args, 1, None)
        return float(str(-math.inf if low is None else low)) >= 0
    if node.target not in _SIGN_PRESERVING or node.kwargs:
        return False
    inputs = node.all_input_nodes
    return bool(inputs) and all(_is_non_negative(item) for item in inputs)


def _argument(args: Sequence[Any], position: int, default: Any) -> Any:
    return args[position] if len(args) > position else default


def _pair(args: Sequence[Any], position: int) -> tuple[int, int] | None:
    """An argument for rows and columns, which may be two numbers, one or none."""
    value = _argument(args, position, None)
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    both = list(value) if isinstance(value, list | tuple) else [value]
    return int(both[0]), int(both[-1])


#: Replacements for the Edge TPU only; ``decompose`` applies them first.
EDGETPU_REWRITES: Mapping[Callable[..., Any], Callable[[Site], None]] = {
    A.max_pool2d.default: _max_pool,
    A.slice.Tensor: _strided_slice,
    A.hardswish.default: _hardswish,
    A.prelu.default: _prelu,
    A.pixel_unshuffle.default: _pixel_unshuffle,
    A.view.default: _channel_shuffle,
    A.reshape.default: _channel_shuffle,
    A.flatten.using_ints: _channel_shuffle,
}
