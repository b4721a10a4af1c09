"""Rewrite a traced network for older TFLite runtimes, with the same results from operators
that they support.

tflite-runtime 2.14 gathers numbers but no booleans (only version 5 of GATHER_ND does;
Hugging Face computes its masks so). They are gathered as integers, which is exact.
"""

import torch
from torch.fx import GraphModule, Node

A = torch.ops.aten


def index_booleans_as_integers(graph: GraphModule) -> int:
    """Convert bool tensors to int32 for indexing, and the result back to bool.

    Changes the graph in place (every node must have its ``val``) and returns the number of
    places that were changed.
    """
    lookups = [
        node
        for node in graph.graph.nodes
        if node.target is A.index.Tensor and _is_boolean(node.args[0])
    ]
    for lookup in lookups:
        _index_as_integer(graph, lookup)
    if lookups:
        graph.graph.lint()
        graph.recompile()
    return len(lookups)


def _index_as_integer(graph: GraphModule, lookup: Node) -> None:
    source = lookup.args[0]
    assert isinstance(source, Node)
    with graph.graph.inserting_before(lookup):
        integers = graph.graph.call_function(A.to.dtype, (source, torch.int32))
    integers.meta["val"] = source.meta["val"].to(torch.int32)
    with graph.graph.inserting_after(lookup):
        booleans = graph.graph.call_function(A.to.dtype, (lookup, torch.bool))
    booleans.meta["val"] = lookup.meta["val"]

    def reads_result(user: Node) -> bool:
        return user is not booleans

    lookup.replace_all_uses_with(booleans, delete_user_cb=reads_result)
    lookup.update_arg(0, integers)
    lookup.meta["val"] = lookup.meta["val"].to(torch.int32)


def _is_boolean(argument: object) -> bool:
    return (
        isinstance(argument, Node) and argument.meta["val"].dtype == torch.bool
    )
