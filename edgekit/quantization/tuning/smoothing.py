"""SmoothQuant (Xiao et al. 2023, eq. 4).

Outliers in a few channels of an activation are moved into the weights that read it.

For channel j of a layer normalization that only linear layers read,
s_j = max|x_j|^alpha / max|w_j|^(1 - alpha). The normalization's weight and bias are divided
by s, the columns of the linear layers are multiplied by it. The float network computes the
same values.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.calibration import BatchSource, Constants
from edgekit.quantization.operators import LINEARS
from edgekit.quantization.prepared import (
    build_float_graph,
    find_constant,
    find_readers,
)
from edgekit.signature import Signature

A = torch.ops.aten
#: The smallest range and the smallest scale.
SMALLEST = 1e-5
_Constant = tuple[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class _SmoothableNorm:
    """A layer normalization, and the names and values of the constants to change."""

    node: Node
    #: Weight and bias of the normalization, (channels,).
    own: list[_Constant]
    #: The weights of the linear layers that read it, (outputs, channels).
    weights: list[_Constant]


def smooth(
    network: torch.nn.Module,
    signature: Signature,
    batches: BatchSource,
    alpha: float,
    constants: Constants,
) -> dict[str, torch.Tensor]:
    """Changed weights and biases by name.

    Raises StepError if no layer normalization is read by linear layers only.
    """
    graph = build_float_graph(network, signature, constants)
    norms = list(_find_norms(graph))
    if not norms:
        raise StepError(
            "SmoothQuant found no layer normalization that is read by linear layers only.",
            fix="remove 'smooth'",
        )
    largest = _largest_values(graph, [norm.node for norm in norms], batches)
    changed: dict[str, torch.Tensor] = {}
    for norm in norms:
        by_column = [weight.abs().amax(0) for _, weight in norm.weights]
        columns = torch.stack(by_column).amax(0).clamp(min=SMALLEST)
        inputs = largest[norm.node].clamp(min=SMALLEST)
        scale = (inputs**alpha / columns ** (1 - alpha)).clamp(min=SMALLEST)
        changed |= {name: value / scale for name, value in norm.own}
        changed |= {name: weight * scale for name, weight in norm.weights}
    return changed


def _find_norms(graph: GraphModule) -> Iterator[_SmoothableNorm]:
    """Normalizations over the last axis that can be smoothed.

    They and the linear layers that read them share no constant with other operators.
    """
    for node in graph.graph.nodes:
        if node.target is not A.layer_norm.default or len(node.args) < 4:
            continue
        if len(node.args[1]) != 1:  # normalized over more than the last axis
            continue
        linears = list(node.users)
        if not linears or not all(
            _is_linear_of(user, node) for user in linears
        ):
            continue
        own = _own_constants(graph, node.args[2:4])
        weights = _own_constants(graph, [linear.args[1] for linear in linears])
        if len(own) == 2 and len(weights) == len(linears):
            yield _SmoothableNorm(node, own, weights)


def _is_linear_of(user: Node, node: Node) -> bool:
    return user.target in LINEARS and user.args[0] is node


def _own_constants(
    graph: GraphModule, nodes: Sequence[object]
) -> list[_Constant]:
    """The constants among ``nodes`` that only one operator reads."""
    constants = []
    for node in nodes:
        constant = find_constant(graph, node)
        if constant is not None and len(find_readers(graph, constant[0])) == 1:
            constants.append(constant)
    return constants


def _largest_values(
    graph: GraphModule, nodes: list[Node], batches: BatchSource
) -> dict[Node, torch.Tensor]:
    """The largest absolute value of each channel (the last axis) over all batches."""
    interpreter = _LargestValues(graph, nodes)
    with torch.no_grad():
        for batch in batches():
            interpreter.run(*batch)
    return interpreter.largest


class _LargestValues(torch.fx.Interpreter):
    """Runs a graph and records the largest absolute values of some nodes, per channel."""

    def __init__(self, graph: GraphModule, nodes: list[Node]) -> None:
        super().__init__(graph)
        self._nodes = set(nodes)
        self.largest: dict[Node, torch.Tensor] = {}

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        if n in self._nodes:
            batch_largest = result.abs().flatten(0, -2).amax(0)
            before = self.largest.get(n, batch_largest)
            self.largest[n] = torch.maximum(before, batch_largest)
        return result
