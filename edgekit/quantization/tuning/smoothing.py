"""SmoothQuant (Xiao et al. 2023, eq. 4): outliers in a few channels of an activation move
into the weights that read it.

For channel j of what a layer normalization gives and only linear layers read, s_j =
max|x_j|^alpha / max|w_j|^(1 - alpha). The normalization's weight and bias are divided by s,
the linear layers' columns multiplied with it. The float network computes the same.
"""

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.calibration import Constants, Rows
from edgekit.quantization.capture import module_of
from edgekit.quantization.prepared import constant_of, readers, rewritten
from edgekit.quantization.rewrite import LINEARS
from edgekit.signature import Signature

A = torch.ops.aten
SMALLEST = 1e-5


def smoothed(
    network: torch.nn.Module,
    signature: Signature,
    rows: Rows,
    alpha: float,
    constants: Constants,
) -> dict[str, torch.Tensor]:
    """Changed weights and biases by name, or StepError where no normalization is read by
    linear layers alone.
    """
    graph = rewritten(network, signature, constants)
    places = list(_places(graph))
    if not places:
        raise StepError(
            "SmoothQuant finds no layer normalization that only linear layers read.",
            fix="leave smooth out",
        )
    largest = _largest(graph, [norm for norm, _ in places], rows)
    changed: dict[str, torch.Tensor] = {}
    for norm, linears in places:
        weights = [
            found
            for linear in linears
            if (found := constant_of(graph, linear.args[1])) is not None
        ]
        columns = torch.stack([weight.abs().amax(0) for _, weight in weights]).amax(0)
        scale = (
            largest[norm].clamp(min=SMALLEST) ** alpha
            / columns.clamp(min=SMALLEST) ** (1 - alpha)
        ).clamp(min=SMALLEST)
        for argument in norm.args[2:4]:
            found = constant_of(graph, argument)
            assert found is not None, module_of(norm)
            changed[found[0]] = found[1] / scale
        changed |= {name: weight * scale for name, weight in weights}
    return changed


def _places(graph: GraphModule) -> Iterator[tuple[Node, list[Node]]]:
    """Normalizations over the last axis with constants of their own, and the linear layers
    that alone read them.
    """
    for node in graph.graph.nodes:
        if (
            node.target is not A.layer_norm.default
            or len(node.args) < 4
            or len(node.args[1]) != 1
        ):
            continue
        owned = [
            found
            for argument in node.args[2:4]
            if (found := constant_of(graph, argument)) is not None
        ]
        linears = list(node.users)
        named = [
            constant_of(graph, user.args[1])
            if user.target in LINEARS and user.args[0] is node
            else None
            for user in linears
        ]
        if len(owned) != 2 or not linears or any(found is None for found in named):
            continue
        if all(len(readers(graph, name)) == 1 for name, _ in owned) and all(
            len(readers(graph, found[0])) == 1 for found in named if found is not None
        ):
            yield node, linears


def _largest(graph: GraphModule, nodes: list[Node], rows: Rows) -> dict[Node, torch.Tensor]:
    """The largest absolute value of each channel (the last axis) over all batches."""
    found: dict[Node, torch.Tensor] = {}

    class Look(torch.fx.Interpreter):
        def run_node(self, n: Node) -> object:
            result = super().run_node(n)
            if n in wanted:
                each = result.abs().flatten(0, -2).amax(0)
                found[n] = torch.maximum(found[n], each) if n in found else each
            return result

    wanted = set(nodes)
    look = Look(graph)
    with torch.no_grad():
        for row in rows():
            look.run(*row)
    return found
