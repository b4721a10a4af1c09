"""One operator of a traced graph, and what may replace it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.graph_edit import (
    add_constant,
    copy_origin,
    replace_node,
)
from edgekit.quantization.settings import Settings

_IMAGE_RANK = 4


class Site:
    """One operator of a graph, with methods that build its replacement."""

    def __init__(
        self, graph: GraphModule, node: Node, settings: Settings
    ) -> None:
        self.graph = graph
        self.node = node
        self.args = node.args
        self.settings = settings

    @property
    def is_float(self) -> bool:
        """Whether the first input is float32."""
        first = self.args[0]
        value = first.meta.get("val") if isinstance(first, Node) else None
        return isinstance(value, torch.Tensor) and value.dtype == torch.float32

    def insert(self, target: Callable[..., Any], *args: Any) -> Node:
        """Insert a new operator before this one, with the same origin."""
        with self.graph.graph.inserting_before(self.node):
            node = self.graph.graph.call_function(target, args)
        fake_result = target(*(self._fake(item) for item in args))
        return copy_origin(self.node, node, fake_result)

    def insert_constant(self, what: str, value: torch.Tensor) -> Node:
        """Insert a new constant before this operator; ``what`` becomes part of its name."""
        with self.graph.graph.inserting_before(self.node):
            return add_constant(self.graph, self.node, what, value)

    def insert_number(self, value: float) -> Node:
        """Insert a number as a constant that can be quantized.

        For the Edge TPU it has the rank of an image: TFLite's converter transposes the image
        if the other operand has another rank.
        """
        first = self.args[0]
        rank = int(first.meta["val"].dim()) if isinstance(first, Node) else 1
        if self.settings.runtime != "edgetpu" or rank != _IMAGE_RANK:
            rank = 1
        constant = torch.full([1] * rank, value, dtype=torch.float32)
        return self.insert_constant("number", constant)

    def replace_with(self, node: Node) -> None:
        """Use the result of ``node`` instead of this operator's."""
        replace_node(self.node, node)

    def _fake(self, item: Any) -> Any:
        """An argument as a fake tensor, so that shapes are computed without data."""
        if isinstance(item, list | tuple):
            return [self._fake(inner) for inner in item]
        value = item.meta["val"] if isinstance(item, Node) else item
        if not isinstance(value, torch.Tensor) or hasattr(value, "fake_mode"):
            return value
        for node in self.graph.graph.nodes:
            example = node.meta.get("val")
            if hasattr(example, "fake_mode"):
                return example.fake_mode.from_tensor(value)
        return value
