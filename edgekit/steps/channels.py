"""Which channels of a network can be removed, and removing them: torch-pruning's dependency
graph (Fang et al. 2023, DepGraph).

Channels that are coupled (by a residual sum, a concatenation, a normalization) format a
group and go together. A group that reaches an input or an output of the network is left
alone, so that the network still fits its signature.
"""

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn

from edgekit.errors import StepError

#: Kinds of layers whose output channels can be removed.
ROOTS = (torch_pruning.ops.TORCH_CONV, torch_pruning.ops.TORCH_LINEAR)
_INPUT_MARK = "_EdgekitInput"


class _EdgekitInput(torch.autograd.Function):
    """Does nothing, but leaves its name in the graph, so that a group that reaches the
    network's input is seen.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def kept(channels: int, ratio: float, multiple: int) -> int:
    """How many of ``channels`` stay: at least a share of 1 - ``ratio``, in whole
    ``multiple``s; never more than there are.
    """
    # Rounded first: (1 - 0.7) * 10 is 3.0000000000000004 in floating point.
    wanted = math.ceil(round(channels * (1 - ratio) / multiple, 9)) * multiple
    return min(channels, max(wanted, multiple))


def widths(network: nn.Module) -> dict[str, int]:
    """The output channels of every convolution and linear layer, by path."""
    return {
        path: _out_channels(module)
        for path, module in network.named_modules()
        if isinstance(module, ROOTS)
    }


def remove(
    network: nn.Module,
    inputs: Sequence[Tensor],
    ratio: float,
    multiple: int,
    skip: Collection[nn.Module],
) -> None:
    """Remove the smallest channels of every free group, in place.

    A channel's size is the sum of squares of all weights that belong to it, the mean over
    the coupled layers. Raises StepError where torch-pruning cannot follow the network; the
    network is then of no use any more.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # the graph is read from autograd
    mark = cast(Callable[[Tensor], Tensor], _EdgekitInput.apply)
    marked = tuple(
        mark(tensor.clone().requires_grad_(True)) if tensor.is_floating_point() else tensor
        for tensor in inputs
    )
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # Parameters that belong to no layer (a class token, a position embedding) are
            # pruned on their last axis, as we want.
            warnings.filterwarnings(
                "ignore", message="Unwrapped parameters detected", category=UserWarning
            )
            graph = torch_pruning.DependencyGraph().build_dependency(
                network, example_inputs=marked, output_transform=_outputs
            )
        with torch.no_grad():
            for root, rows in _chosen(graph, ratio, multiple, skip):
                group = graph.get_pruning_group(root.target.module, root.handler, rows)
                if graph.check_pruning_group(group):
                    group.prune()
    # the boundary to torch-pruning, which fails with bare assertions and index errors
    except Exception as problem:
        why = f"{type(problem).__name__}: {problem}"
        fix = "take prune out of the recipe, or write the network with standard layers"
        raise StepError(
            f"The network's dependencies cannot be followed: {why}", fix=fix
        ) from problem


def _chosen(
    graph: Any, ratio: float, multiple: int, skip: Collection[nn.Module]
) -> list[tuple[Any, list[int]]]:
    """For each group that loses channels, its root and the places; all are ranked before
    the first is pruned.
    """
    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=2, group_reduction="mean"
    )
    chosen = []
    for group in graph.get_all_groups(root_module_types=list(ROOTS)):
        score = None if _is_fixed(graph, group, skip) else importance(group)
        rows = [] if score is None else _smallest(score, _repeats(group), ratio, multiple)
        if rows:
            chosen.append((group[0].dep, rows))
    return chosen


def _outputs(result: Any) -> list[Tensor]:
    """All output tensors that depend on weights, each with a node of its own in the graph."""
    tensors = (
        [result]
        if isinstance(result, Tensor)
        else list(result.values() if isinstance(result, dict) else result)
    )
    return [
        tensor * 1.0
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.requires_grad
    ]


def _is_fixed(graph: Any, group: Any, skip: Collection[nn.Module]) -> bool:
    """Whether a group reaches an input, an output, the output channels of a skipped module,
    or a part of a layer with blocks.
    """
    for dep, places in group:
        node = dep.target
        if node.type == torch_pruning.ops.OPTYPE.OUTPUT or _INPUT_MARK in node.name:
            return True
        outwards = graph.is_out_channel_pruning_fn(dep.handler)
        if _blocks(node.module) > 1 and len(places) < (
            graph.get_out_channels if outwards else graph.get_in_channels
        )(node.module):
            return (
                True  # joined with others before it: the blocks would lose different places
            )
        if outwards and any(node.module is module for module in skip):
            return True
    return False


def _repeats(group: Any) -> int:
    """Into how many equal blocks the channels of a group fall; each block must lose the
    same places.
    """
    return math.lcm(*(_blocks(dep.target.module) for dep, _ in group))


def _blocks(module: Any) -> int:
    """Blocks of equal size in a layer's channels: of a grouped convolution, of GroupNorm,
    the heads of attention.
    """
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    if (
        isinstance(module, torch_pruning.ops.TORCH_CONV)
        and module.groups != module.out_channels
    ):
        return int(module.groups)
    return 1


def _smallest(score: Tensor, repeats: int, ratio: float, multiple: int) -> list[int]:
    """The indices of the channels to remove."""
    if len(score) % repeats:
        return []
    block = len(score) // repeats
    # The whole layer keeps a multiple: one block needs only its share of it.
    keep = kept(block, ratio, multiple // math.gcd(multiple, repeats))
    order = score.view(repeats, block).mean(0).argsort()[: block - keep]
    return sorted(int(row) + offset * block for row in order for offset in range(repeats))


def _out_channels(module: nn.Module) -> int:
    width: Any = (
        module.out_channels
        if isinstance(module, torch_pruning.ops.TORCH_CONV)
        else module.out_features
    )
    return int(width)
