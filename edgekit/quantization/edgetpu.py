"""Operators that the Edge TPU does not have, written with those that it has.

Float numbers stay the same.

Its compiler maps a graph up to the first operator that it does not know, so that one of
these cuts off all that follows. What it knows is in ``edgekit.formats.edgetpu.mapper``;
LeakyReLU is changed in the finished file (``edgekit.formats.edgetpu.rewrite``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from edgekit.quantization.operators import A
from edgekit.quantization.rewrite import constant, like
from edgekit.quantization.site import Site

#: These give no number below zero.
_NEVER_NEGATIVE = {
    A.relu.default,
    A.relu6.default,
    A.sigmoid.default,
    A.hardsigmoid.default,
    A.softmax.int,
    A.abs.default,
}
#: These give no number below zero where they read none.
_PASSING = {
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


def _max_pool(site: Site) -> None:
    """A padded max pool becomes PADV2 (padding with the lowest number) and a pool in
    TFLite; the Edge TPU has PAD (with zeros) only.

    Behind a ReLU padding with zeros is the same. Elsewhere the edge is repeated: a window
    that reaches over it holds the edge itself, so that its maximum is the same.
    """
    source = site.args[0]
    assert isinstance(source, Node)
    kernel, stride, padding, dilation = (
        _pair(site.args, position, default)
        for position, default in ((1, None), (2, None), (3, 0), (4, 1))
    )
    stride = stride or kernel
    before, after = source.meta["val"].shape, site.node.meta["val"].shape
    if (
        kernel is None
        or stride is None
        or padding in (None, (0, 0))
        or dilation != (1, 1)
        or not site.is_float
        or len(before) != 4
    ):
        return
    assert padding is not None
    sizes = list(zip(before[2:], after[2:], kernel, stride, padding, strict=True))
    if not all(isinstance(dim, int) for pair in sizes for dim in pair[:2]):
        return
    # The last windows may not reach the padding behind; with a rounded-up size they may
    # reach further.
    edges = [
        (pad, max(0, (new - 1) * step + wide - pad - old))
        for old, new, wide, step, pad in sizes
    ]
    value = (
        _padded(site, source, edges)
        if _positive(source)
        else _repeated(site, source, edges)
    )
    site.put(site.make(A.max_pool2d.default, value, list(kernel), list(stride)))


def _padded(site: Site, source: Node, edges: Sequence[tuple[int, int]]) -> Node:
    (above, below), (left, right) = edges
    rows, samples, columns = (
        source.meta["val"].shape[2] + above + below,
        source.meta["val"].shape[:2],
        source.meta["val"].shape[3] + left + right,
    )
    with site.graph.graph.inserting_before(site.node):
        made = site.graph.graph.call_function(
            A.pad.default, (source, [left, right, above, below])
        )
    # Tried on a tensor with a free batch, this operator would fix the batch.
    return like(site.node, made, source.meta["val"].new_empty((*samples, rows, columns)))


def _repeated(site: Site, source: Node, edges: Sequence[tuple[int, int]]) -> Node:
    for axis, (before, behind) in zip((2, 3), edges, strict=True):
        size = int(source.meta["val"].shape[axis])
        pieces = [source]
        if before:
            pieces = [site.make(A.slice.Tensor, source, axis, 0, 1)] * before + pieces
        if behind:
            pieces = (
                pieces + [site.make(A.slice.Tensor, source, axis, size - 1, size)] * behind
            )
        source = site.make(A.cat.default, pieces, axis) if len(pieces) > 1 else source
    return source


def _every_nth(site: Site) -> None:
    """A slice with a step: a slice without one, then a max pool over windows of 1 that
    moves on by the step.
    """
    source = site.args[0]
    axis, start, end, step = (
        _argument(site.args, position, default)
        for position, default in ((1, 0), (2, None), (3, None), (4, 1))
    )
    assert isinstance(source, Node)
    value = source.meta["val"]
    if (
        step == 1
        or not isinstance(step, int)
        or value.dim() != 4
        or axis % 4 < 2
        or not site.is_float
        or not isinstance(value.shape[axis], int)
    ):
        return
    size = int(value.shape[axis])
    first, last, _ = slice(start, end).indices(size)
    if (first, last) != (0, size):
        source = site.make(A.slice.Tensor, source, axis, first, last)
    strides = [step, 1] if axis % 4 == 2 else [1, step]
    site.put(site.make(A.max_pool2d.default, source, [1, 1], strides))


def _hardswish(site: Site) -> None:
    """x * relu6(x + 3) / 6 (Howard et al. 2019, eq. 2)."""
    if site.is_float:
        raised = site.make(
            A.relu6.default, site.make(A.add.Tensor, site.args[0], site.number(3.0))
        )
        site.put(
            site.make(
                A.mul.Tensor,
                site.args[0],
                site.make(A.mul.Tensor, raised, site.number(1 / 6)),
            )
        )


def _prelu(site: Site) -> None:
    """The larger of x and a * x, where all a lie in [0, 1]; else max(x, 0) + a * min(x, 0)."""
    slopes, source = constant(site.graph, site.args[1]), site.args[0]
    if slopes is None or not site.is_float:
        return
    if bool((slopes == slopes.flatten()[0]).all()):
        site.put(site.make(A.leaky_relu.default, source, float(slopes.flatten()[0])))
        return
    assert isinstance(source, Node)
    stored = site.store(
        "slopes", slopes.reshape(1, -1, *[1] * (source.meta["val"].dim() - 2))
    )
    if bool((slopes >= 0).all() and (slopes <= 1).all()):
        site.put(
            site.make(A.maximum.default, source, site.make(A.mul.Tensor, source, stored))
        )
        return
    above = site.make(A.relu.default, source)
    below = site.make(A.mul.Tensor, site.make(A.sub.Tensor, source, above), stored)
    site.put(site.make(A.add.Tensor, above, below))


def _unshuffle(site: Site) -> None:
    """Blocks of places as channels: a convolution that takes one number each."""
    source, block = site.args[0], site.args[1]
    assert isinstance(source, Node) and isinstance(block, int)
    channels = source.meta["val"].shape[1]
    if not site.is_float or source.meta["val"].dim() != 4:
        return
    weight = torch.eye(channels * block * block).reshape(-1, channels, block, block)
    site.put(
        site.make(
            A.conv2d.default, source, site.store("weight", weight), None, [block, block]
        )
    )


def _shuffle(site: Site) -> None:
    """Channels of groups mixed (ShuffleNet), by a view of five dims: a 1x1 convolution that
    takes one channel each.
    """
    turned = _behind_copies(site.args[0])
    grouped = (
        turned.args[0]
        if turned is not None and turned.target in (A.transpose.int, A.permute.default)
        else None
    )
    if (
        turned is None
        or not isinstance(grouped, Node)
        or grouped.target not in (A.view.default, A.reshape.default, A.unflatten.int)
    ):
        return
    source = grouped.args[0]
    assert isinstance(source, Node)
    before, five, after = (
        source.meta["val"].shape,
        grouped.meta["val"].shape,
        site.node.meta["val"].shape,
    )
    # Rows of a batch, then groups, then channels of a group: nothing else may move.
    moved = (
        list(before) == list(after)
        and len(before) == 4
        and len(five) == 5
        and list(five[3:]) == list(before[2:])
        and five[0] == before[0]
    )
    if not moved or not _swaps_groups(turned) or not site.is_float:
        return
    groups, channels = int(five[1]), int(before[1])
    order = torch.arange(channels).reshape(groups, -1).t().flatten()
    weight = torch.eye(channels)[order].reshape(channels, channels, 1, 1)
    site.put(site.make(A.conv2d.default, source, site.store("weight", weight), None))


def _swaps_groups(turned: Node) -> bool:
    if turned.target is A.transpose.int:
        return {int(str(axis)) % 5 for axis in turned.args[1:3]} == {1, 2}
    axes = turned.args[1]
    return isinstance(axes, list | tuple) and [int(str(axis)) % 5 for axis in axes] == [
        0,
        2,
        1,
        3,
        4,
    ]


def _behind_copies(node: object) -> Node | None:
    while isinstance(node, Node) and node.target in (A.contiguous.default, A.clone.default):
        node = node.args[0]
    return node if isinstance(node, Node) else None


def _positive(node: Node) -> bool:
    """Whether a tensor is known to hold no number below zero."""
    if node.target in _NEVER_NEGATIVE:
        return True
    if node.target is A.hardtanh.default:
        return float(str(_argument(node.args, 1, -1.0))) >= 0
    if node.target is A.clamp.default:
        return (
            float(str(_argument(node.args, 1, None) or -math.inf)) >= 0
            or _argument(node.args, 1, None) == 0
        )
    return (
        node.target in _PASSING
        and not node.kwargs
        and bool(node.all_input_nodes)
        and all(_positive(item) for item in node.all_input_nodes)
    )


def _argument(args: Sequence[Any], position: int, default: Any) -> Any:
    return args[position] if len(args) > position else default


def _pair(
    args: Sequence[Any], position: int, default: int | None
) -> tuple[int, int] | None:
    """Numbers for rows and columns, given as two, one or none."""
    given = _argument(args, position, default)
    if given is None or (isinstance(given, list | tuple) and not given):
        return None
    both = list(given) if isinstance(given, list | tuple) else [given]
    return int(both[0]), int(both[-1])


#: What is changed for the Edge TPU only; ``decompose`` goes through it first.
FOR_EDGETPU: Mapping[Callable[..., Any], Callable[[Site], None]] = {
    A.max_pool2d.default: _max_pool,
    A.slice.Tensor: _every_nth,
    A.hardswish.default: _hardswish,
    A.prelu.default: _prelu,
    A.pixel_unshuffle.default: _unshuffle,
    A.view.default: _shuffle,
    A.reshape.default: _shuffle,
    A.flatten.using_ints: _shuffle,
}
