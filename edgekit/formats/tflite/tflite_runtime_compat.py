"""Make a traced network fit for TFLite runtimes of earlier years, where the same numbers
can be had without a newer operator.

tflite-runtime 2.14 gathers numbers but no truth values (GATHER_ND of version 5 has them;
Hugging Face's masks are made that way). They are gathered as integers, which is exact.
"""

import torch
from torch.fx import GraphModule, Node

A = torch.ops.aten


def gather_as_integers(graph: GraphModule) -> int:
    """Change the graph in place (nodes with ``val``): bool tensors are indexed as int32;
    tells how many places were changed.
    """
    found = [
        node
        for node in graph.graph.nodes
        if node.target is A.index.Tensor and _truth(node.args[0])
    ]
    for node in found:
        source = node.args[0]
        assert isinstance(source, Node)
        with graph.graph.inserting_before(node):
            whole = graph.graph.call_function(A.to.dtype, (source, torch.int32))
        whole.meta["val"] = source.meta["val"].to(torch.int32)
        with graph.graph.inserting_after(node):
            truth = graph.graph.call_function(A.to.dtype, (node, torch.bool))
        truth.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(
            truth, delete_user_cb=lambda user, truth=truth: user is not truth
        )
        node.update_arg(0, whole)
        node.meta["val"] = node.meta["val"].to(torch.int32)
    if found:
        graph.graph.lint()
        graph.recompile()
    return len(found)


def _truth(argument: object) -> bool:
    return isinstance(argument, Node) and argument.meta["val"].dtype == torch.bool
