"""The graph that is quantized: traced, rewritten, some constants changed, and observed.

All quantization starts here, so that the names of tensors and constants are the same in
calibration, in training and in every export.
"""

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import NothingToDo, StepError
from edgekit.quantization.calibration import Constants
from edgekit.quantization.capture import capture, quiet
from edgekit.quantization.graph_edit import constant_value
from edgekit.quantization.pt2e import ObserverBase, prepare_pt2e
from edgekit.quantization.quantizer import Int8Quantizer
from edgekit.quantization.rewrite import rewrite
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature


def build_float_graph(
    network: torch.nn.Module,
    signature: Signature,
    constants: Constants | None = None,
) -> GraphModule:
    """Trace a network and fold its batch normalizations.

    ``constants`` replace the graph's own by name. The network is unchanged. Raises
    StepError if the network cannot be traced or has no such constant.
    """
    graph = capture(network, signature).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    with quiet(), torch.no_grad():
        rewrite(graph)
    set_constants(graph, constants or {})
    return graph


def set_constants(graph: GraphModule, constants: Constants) -> None:
    """Replace constants of a graph by name, in place.

    Raises StepError if a constant does not exist or has another shape.
    """
    for name, value in constants.items():
        owner, _, attribute = name.rpartition(".")
        try:
            current = getattr(graph.get_submodule(owner), attribute)
        except AttributeError:
            current = None
        if (
            not isinstance(current, torch.Tensor)
            or current.shape != value.shape
        ):
            raise StepError(
                "The network does not match its quantization: "
                f"it has no constant {name} of shape {list(value.shape)}.",
                fix="quantize again",
            )
        parameter = torch.nn.Parameter(
            value.detach().clone(), requires_grad=False
        )
        setattr(graph.get_submodule(owner), attribute, parameter)


def prepare(
    graph: GraphModule, settings: Settings
) -> tuple[GraphModule, Int8Quantizer]:
    """Insert observers at the tensors that will be quantized.

    Returns the prepared graph and the quantizer that annotated it. Raises NothingToDo if no
    operator can be quantized.
    """
    quantizer = Int8Quantizer(settings)
    with quiet(), torch.no_grad():
        prepared = prepare_pt2e(graph, quantizer)
    if not quantizer.quantized:
        raise NothingToDo(
            "Nothing in this network can be quantized to int8: "
            "it has no convolution, linear layer or matrix product of float tensors.",
            fix="use the scheme 'float' or 'fp16'",
        )
    assert isinstance(prepared, GraphModule)
    return prepared, quantizer


def observer_groups(prepared: GraphModule) -> Iterator[tuple[str, list[Node]]]:
    """The observer calls of a graph, grouped by the observer that they share.

    Yields (key, nodes). The key is the name of the first observed tensor, and is the same
    each time the graph is rebuilt.
    """
    groups: dict[int, list[Node]] = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        module = prepared.get_submodule(str(node.target))
        if isinstance(module, ObserverBase):
            groups.setdefault(id(module), []).append(node)
    counts: dict[str, int] = {}
    for nodes in groups.values():
        name = str(nodes[0].args[0])
        counts[name] = counts.get(name, 0) + 1
        key = name if counts[name] == 1 else f"{name}:{counts[name]}"
        yield key, nodes


def find_constant(
    graph: GraphModule, node: object
) -> tuple[str, torch.Tensor] | None:
    """The name and value of the constant that a node reads, also through observers.

    Returns None if the node is computed.
    """
    while isinstance(node, Node) and node.op == "call_module" and node.args:
        node = node.args[0]
    value = constant_value(graph, node)
    if value is None or not isinstance(node, Node):
        return None
    return str(node.target), value


def find_readers(graph: GraphModule, name: str) -> list[Node]:
    """The nodes that read the constant ``name``."""
    readers = []
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.target == name:
            readers.extend(node.users)
    return readers
