"""Reading and changing single nodes of a traced graph."""

import itertools

import torch
from torch.fx import GraphModule, Node

#: What a new node inherits from the node that it replaces, so that reports name its module.
_ORIGIN_KEYS = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn")


def constant_value(graph: GraphModule, node: object) -> torch.Tensor | None:
    """The tensor of a get_attr node; None for any other node."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(graph.get_submodule(owner), name, None)
    return value.detach() if isinstance(value, torch.Tensor) else None


def add_constant(
    graph: GraphModule, near: Node, what: str, value: torch.Tensor
) -> Node:
    """Add a constant to a graph, at the graph's insertion point.

    Its name combines the name of the operator ``near`` with ``what``.
    """
    stem = f"{near.name}_folded_{what}"
    candidates = (f"{stem}{k or ''}" for k in itertools.count())
    name = next(name for name in candidates if not hasattr(graph, name))
    parameter = torch.nn.Parameter(value.contiguous(), requires_grad=False)
    graph.register_parameter(name, parameter)
    node = graph.graph.get_attr(name)
    node.meta["val"] = value
    return node


def copy_origin(origin: Node, node: Node, value: torch.Tensor) -> Node:
    """Give a new node the origin of the node that it replaces, and an example ``value``.

    Returns the new node. Reports then name the module of ``origin``.
    """
    node.meta = {
        key: origin.meta[key] for key in _ORIGIN_KEYS if key in origin.meta
    }
    node.meta["val"] = value
    return node


def replace_node(node: Node, replacement: object) -> None:
    """Let all readers of ``node`` read ``replacement`` instead, and erase ``node``."""
    assert isinstance(replacement, Node)
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)
