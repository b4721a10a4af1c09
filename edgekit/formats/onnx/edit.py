"""An ONNX graph while it is rewritten: new nodes and constants come in, old nodes go, and
at the end all is in order again.
"""

from collections import Counter
from typing import Any

import numpy
import onnx
import onnx.numpy_helper

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.graph import Array

#: Operators of ONNX Runtime's own.
MICROSOFT = "com.microsoft"
_CONTRIBUTED = {"MatMulIntegerToFloat", "DynamicQuantizeLSTM", "MatMulNBits"}
_PREFIX = "edgekit/"


class Edit:
    """One graph. Reads look at the graph as it was; ``finish`` writes the changes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.constants = onnx_graph.constants(self.graph)
        self.producers = onnx_graph.producers(self.graph)
        self.consumers = onnx_graph.consumers(self.graph)
        self.outputs = {value.name for value in self.graph.output}
        self._new: list[onnx.NodeProto] = []
        self._gone: set[int] = set()
        self._made = 0

    def stored(self, name: str) -> Array | None:
        """The tensor behind a name where the graph stores it, if need be behind Transpose
        or Identity.
        """
        if name in self.constants:
            return self.constants[name]
        node = self.producers.get(name)
        if node is None or node.op_type not in ("Transpose", "Identity"):
            return None
        inner = self.stored(node.input[0])
        return (
            inner
            if inner is None or node.op_type == "Identity"
            else inner.transpose(onnx_graph.attributes(node).get("perm"))
        )

    def constant(self, value: Array) -> str:
        """Store a tensor; equal ones are shared at the end."""
        name = self._name()
        self.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def number(self, value: float) -> str:
        """Store one float."""
        return self.constant(numpy.array(value, numpy.float32))

    def add(
        self,
        operator: str,
        inputs: list[str],
        module: str = "",
        output: str = "",
        **attributes: Any,
    ) -> str:
        """A new node with one output; gives the output's name.

        With a module it can be told from where it came.
        """
        return self.add_many(
            operator, inputs, [output or self._name()], module, **attributes
        )[0]

    def add_many(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[str],
        module: str = "",
        **attributes: Any,
    ) -> list[str]:
        """A new node; outputs that are called ``?`` are given names."""
        outputs = [self._name() if name == "?" else name for name in outputs]
        domain = MICROSOFT if operator in _CONTRIBUTED else ""
        name = f"{module}/{operator}" if module else ""
        self._new.append(
            onnx.helper.make_node(
                operator, inputs, outputs, name=name, domain=domain, **attributes
            )
        )
        return outputs

    def drop(self, node: onnx.NodeProto) -> None:
        """Leave a node out."""
        self._gone.add(id(node))

    def finish(self) -> None:
        """Write the changes: nodes in order, nothing unused, equal constants once, short
        names.
        """
        kept = [node for node in self.graph.node if id(node) not in self._gone]
        nodes = [
            onnx.NodeProto.FromString(node.SerializeToString())
            for node in (*kept, *self._new)
        ]
        _number_names(nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        if any(node.domain == MICROSOFT for node in nodes) and all(
            entry.domain != MICROSOFT for entry in self.model.opset_import
        ):
            self.model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
        onnx_graph.sort(self.graph)
        onnx_graph.sweep(self.graph)
        onnx_graph.share_constants(self.graph)
        onnx_graph.shorten(self.model)

    def _name(self) -> str:
        self._made += 1
        return f"{_PREFIX}{self._made}"


def _number_names(nodes: list[onnx.NodeProto]) -> None:
    """ONNX Runtime refuses two nodes of one name: the second gets ``.2`` behind it."""
    taken, seen = {node.name for node in nodes}, Counter[str]()
    for node in nodes:
        name = node.name
        seen[name] += 1
        if not name or seen[name] == 1:
            continue
        number = seen[name]
        while f"{name}.{number}" in taken:
            number += 1
        node.name = f"{name}.{number}"
        taken.add(node.name)
