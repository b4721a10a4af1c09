"""One operator of a traced graph, and what may be put in its place."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.rewrite import like, new_constant, replace
from edgekit.quantization.settings import Settings

_IMAGE = 4


class Site:
    """One operator, and what may be put in its place."""

    def __init__(self, graph: GraphModule, node: Node, settings: Settings) -> None:
        self.graph, self.node, self.args, self.settings = graph, node, node.args, settings

    @property
    def is_float(self) -> bool:
        """Whether it computes on float32."""
        first = self.args[0]
        value = first.meta.get("val") if isinstance(first, Node) else None
        return isinstance(value, torch.Tensor) and value.dtype == torch.float32

    def make(self, target: Callable[..., Any], *args: Any) -> Node:
        """A new operator in front of this one, with its origin."""
        with self.graph.graph.inserting_before(self.node):
            made = self.graph.graph.call_function(target, args)
        return like(self.node, made, target(*(self._fake(item) for item in args)))

    def store(self, what: str, value: torch.Tensor) -> Node:
        """A new constant."""
        with self.graph.graph.inserting_before(self.node):
            return new_constant(self.graph, self.node, what, value)

    def number(self, value: float) -> Node:
        """A plain number as a constant that can be quantized.

        Of an image's rank for the Edge TPU: beside any other TFLite's converter transposes
        the image.
        """
        first = self.args[0].meta["val"].dim() if isinstance(self.args[0], Node) else 1
        rank = first if self.settings.runtime == "edgetpu" and first == _IMAGE else 1
        return self.store("number", torch.full([1] * rank, value, dtype=torch.float32))

    def put(self, node: Node) -> None:
        """Take the new operator's result in place of this one's."""
        replace(self.node, node)

    def _fake(self, item: Any) -> Any:
        if isinstance(item, list | tuple):
            return [self._fake(inner) for inner in item]
        value = item.meta["val"] if isinstance(item, Node) else item
        if isinstance(value, torch.Tensor) and not hasattr(value, "fake_mode"):
            first = next(
                node.meta["val"]
                for node in self.graph.graph.nodes
                if hasattr(node.meta.get("val"), "fake_mode")
            )
            return first.fake_mode.from_tensor(value)
        return value
