"""Finding and removing channels with torch-pruning's dependency graph.

The graph is DepGraph (Fang et al. 2023). Channels that are coupled (by a residual sum, a
concatenation, a normalization) form a group and are removed together. A group that reaches
an input or an output of the network is not pruned, so that the network keeps its signature.
"""

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn

from edgekit.errors import StepError

#: The types of layers whose output channels can be removed.
ROOTS = (torch_pruning.ops.TORCH_CONV, torch_pruning.ops.TORCH_LINEAR)
_INPUT_MARK = "_EdgekitInput"


class _EdgekitInput(torch.autograd.Function):
    """The identity.

    It leaves its name in the graph, so that a group that reaches the network's input is
    recognized.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def channels_to_keep(channels: int, ratio: float, multiple: int) -> int:
    """How many of ``channels`` stay.

    At least a share of 1 - ``ratio``, rounded up to a multiple of ``multiple``, but never
    more than there are.
    """
    # Rounded first: (1 - 0.7) * 10 is 3.0000000000000004 in floating point.
    multiples = math.ceil(round(channels * (1 - ratio) / multiple, 9))
    return min(channels, max(multiples * multiple, multiple))


def output_widths(network: nn.Module) -> dict[str, int]:
    """The output channels of every convolution and linear layer, by path."""
    return {
        path: _out_channels(module)
        for path, module in network.named_modules()
        if isinstance(module, ROOTS)
    }


def remove_channels(
    network: nn.Module,
    inputs: Sequence[Tensor],
    ratio: float,
    multiple: int,
    skip: Collection[nn.Module],
) -> None:
    """Remove the smallest channels of every free group, in place.

    A channel's size is the sum of squares of all weights that belong to it, averaged over
    the coupled layers. Raises StepError if torch-pruning cannot follow the network; the
    network must not be used afterwards.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # the graph is read from autograd
    try:
        graph = _build_graph(network, inputs)
        with torch.no_grad():
            for root, channels in _select(graph, ratio, multiple, skip):
                group = graph.get_pruning_group(
                    root.target.module, root.handler, channels
                )
                if graph.check_pruning_group(group):
                    group.prune()
    # the boundary to torch-pruning, which fails with bare assertions and index errors
    except Exception as problem:
        why = f"{type(problem).__name__}: {problem}"
        raise StepError(
            f"The dependencies of the network's layers cannot be followed: {why}",
            fix="remove prune from the recipe, or write the network with standard layers",
        ) from problem


def _build_graph(network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    mark = cast(Callable[[Tensor], Tensor], _EdgekitInput.apply)
    marked = tuple(
        mark(tensor.clone().requires_grad_(True))
        if tensor.is_floating_point()
        else tensor
        for tensor in inputs
    )
    with torch.enable_grad(), warnings.catch_warnings():
        # Parameters that belong to no layer (a class token, a position embedding) are
        # pruned on their last axis, which is correct.
        warnings.filterwarnings(
            "ignore",
            message="Unwrapped parameters detected",
            category=UserWarning,
        )
        return torch_pruning.DependencyGraph().build_dependency(
            network, example_inputs=marked, output_transform=_output_tensors
        )


def _select(
    graph: Any, ratio: float, multiple: int, skip: Collection[nn.Module]
) -> list[tuple[Any, list[int]]]:
    """The root and the channels to remove of each group that loses some.

    All groups are ranked before the first is pruned.
    """
    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=2, group_reduction="mean"
    )
    selected = []
    for group in graph.get_all_groups(root_module_types=list(ROOTS)):
        score = None if _is_fixed(graph, group, skip) else importance(group)
        if score is None:
            continue
        channels = _smallest(score, _count_blocks(group), ratio, multiple)
        if channels:
            selected.append((group[0].dep, channels))
    return selected


def _output_tensors(result: Any) -> list[Tensor]:
    """All output tensors that depend on weights, each with its own node in the graph."""
    if isinstance(result, Tensor):
        tensors = [result]
    else:
        tensors = list(result.values() if isinstance(result, dict) else result)
    return [
        tensor * 1.0
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.requires_grad
    ]


def _is_fixed(graph: Any, group: Any, skip: Collection[nn.Module]) -> bool:
    """Whether a group must not be pruned.

    That is so if it reaches an input, an output, the output channels of a skipped module,
    or a part of a layer with blocks.
    """
    for dep, positions in group:
        node = dep.target
        if (
            node.type == torch_pruning.ops.OPTYPE.OUTPUT
            or _INPUT_MARK in node.name
        ):
            return True
        is_output = graph.is_out_channel_pruning_fn(dep.handler)
        count_channels = (
            graph.get_out_channels if is_output else graph.get_in_channels
        )
        if _blocks(node.module) > 1 and len(positions) < count_channels(
            node.module
        ):
            # Concatenated with others before it: the blocks would lose different positions.
            return True
        if is_output and any(node.module is module for module in skip):
            return True
    return False


def _count_blocks(group: Any) -> int:
    """The number of equal blocks that the channels of a group consist of.

    Each block must lose the same positions.
    """
    return math.lcm(*(_blocks(dep.target.module) for dep, _ in group))


def _blocks(module: Any) -> int:
    """The number of equal blocks in a layer's channels.

    Groups of a grouped convolution and of GroupNorm, heads of attention.
    """
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    is_convolution = isinstance(module, torch_pruning.ops.TORCH_CONV)
    if is_convolution and module.groups != module.out_channels:
        return int(module.groups)
    return 1


def _smallest(
    score: Tensor, blocks: int, ratio: float, multiple: int
) -> list[int]:
    """The indices of the channels to remove."""
    if len(score) % blocks:
        return []
    size = len(score) // blocks
    # The entire layer keeps a multiple: one block needs only its share of it.
    keep = channels_to_keep(size, ratio, multiple // math.gcd(multiple, blocks))
    order = score.view(blocks, size).mean(0).argsort()[: size - keep]
    return sorted(
        int(index) + block * size for index in order for block in range(blocks)
    )


def _out_channels(module: nn.Module) -> int:
    width: Any = (
        module.out_channels
        if isinstance(module, torch_pruning.ops.TORCH_CONV)
        else module.out_features
    )
    return int(width)
