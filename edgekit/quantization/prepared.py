"""A network as the graph that is quantized: traced, rewritten, some constants changed, and
its tensors observed.

Everything that quantizes starts here, so that names of tensors and constants are the same
in calibration, in training and in every export.
"""

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import NothingToDo, StepError
from edgekit.quantization.calibration import Constants
from edgekit.quantization.capture import capture, quiet
from edgekit.quantization.pt2e import ObserverBase, prepare_pt2e
from edgekit.quantization.quantizer import Int8Quantizer
from edgekit.quantization.rewrite import constant, rewrite
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature


def rewritten(
    network: torch.nn.Module, signature: Signature, constants: Constants | None = None
) -> GraphModule:
    """The float graph of a network with batch normalizations folded, and ``constants`` in
    place of its own. The network is unchanged.
    """
    graph = capture(network, signature).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    with quiet(), torch.no_grad():
        rewrite(graph)
    change(graph, constants or {})
    return graph


def change(graph: GraphModule, constants: Constants) -> None:
    """Set constants of a graph by name, or raise StepError where one is not there or has
    another shape.
    """
    for name, value in constants.items():
        owner, _, attribute = name.rpartition(".")
        try:
            now = getattr(graph.get_submodule(owner), attribute)
        except AttributeError:
            now = None
        if not isinstance(now, torch.Tensor) or now.shape != value.shape:
            raise StepError(
                f"The network does not match its quantization: it has no constant {name} of shape {list(value.shape)}.",
                fix="quantize again",
            )
        setattr(
            graph.get_submodule(owner),
            attribute,
            torch.nn.Parameter(value.detach().clone(), requires_grad=False),
        )


def prepare(graph: GraphModule, settings: Settings) -> tuple[GraphModule, Int8Quantizer]:
    """The graph with observers where its tensors are quantized, or StepError where nothing
    can be.
    """
    quantizer = Int8Quantizer(settings)
    with quiet(), torch.no_grad():
        prepared = prepare_pt2e(graph, quantizer)
    if not quantizer.quantized:
        raise NothingToDo(
            "Nothing in this network can be quantized to int8: it has no convolution, linear layer or matrix product of float tensors.",
            fix="take the scheme 'float' or 'fp16'",
        )
    assert isinstance(prepared, GraphModule)
    return prepared, quantizer


def groups(prepared: GraphModule) -> Iterator[tuple[str, list[Node]]]:
    """The observer calls of the graph, those that share one observer together, by a name
    that is the same in every rebuild.
    """
    found: dict[int, list[Node]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            module = prepared.get_submodule(str(node.target))
            if isinstance(module, ObserverBase):
                found.setdefault(id(module), []).append(node)
    used: dict[str, int] = {}
    for nodes in found.values():
        name = str(nodes[0].args[0])
        used[name] = used.get(name, 0) + 1
        yield (name if used[name] == 1 else f"{name}:{used[name]}"), nodes


def constant_of(graph: GraphModule, node: object) -> tuple[str, torch.Tensor] | None:
    """The name and value of a constant that a node reads, through an observer or not; None
    where it is computed.
    """
    while isinstance(node, Node) and node.op == "call_module" and node.args:
        node = node.args[0]
    value = constant(graph, node)
    return (
        None if value is None or not isinstance(node, Node) else (str(node.target), value)
    )


def readers(graph: GraphModule, name: str) -> list[Node]:
    """The operators that read the constant called ``name``."""
    return [
        user
        for node in graph.graph.nodes
        if node.op == "get_attr" and node.target == name
        for user in node.users
    ]
