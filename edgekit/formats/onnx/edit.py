"""An ONNX graph while it is rewritten: nodes and constants are added, nodes are dropped, and
at the end the graph is sorted and swept.
"""

from collections import Counter
from typing import Any

import numpy
import onnx
import onnx.numpy_helper

from edgekit.arrays import Array
from edgekit.formats.onnx import compact as onnx_compact
from edgekit.formats.onnx import graph as onnx_graph

#: The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"
_CONTRIBUTED = {"MatMulIntegerToFloat", "DynamicQuantizeLSTM", "MatMulNBits"}
_PREFIX = "edgekit/"


class Edit:
    """One graph. Reads see the graph before the edit; ``finish`` writes the changes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = onnx_graph.constants(self.graph)
        self.producers = onnx_graph.producers(self.graph)
        self.consumers = onnx_graph.consumers(self.graph)
        self.outputs = {value.name for value in self.graph.output}
        self._added: list[onnx.NodeProto] = []
        self._dropped: set[int] = set()
        self._names = 0

    def stored(self, name: str) -> Array | None:
        """Return the tensor if the graph stores it, also through Transpose and Identity nodes;
        else None.
        """
        if name in self.constants:
            return self.constants[name]
        node = self.producers.get(name)
        if node is None or node.op_type not in ("Transpose", "Identity"):
            return None
        source = self.stored(node.input[0])
        if source is None or node.op_type == "Identity":
            return source
        return source.transpose(onnx_graph.attributes(node).get("perm"))

    def constant(self, value: Array) -> str:
        """Store a tensor and return its name; equal ones are shared at the end."""
        name = self._new_name()
        self.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def number(self, value: float) -> str:
        """Store one float32 and return its name."""
        return self.constant(numpy.array(value, numpy.float32))

    def add(
        self,
        operator: str,
        inputs: list[str],
        module: str = "",
        output: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node with one output and return the output's name.

        ``module`` is the path of the PyTorch module that reports name for it.
        """
        outputs = [output or self._new_name()]
        return self.add_many(operator, inputs, outputs, module, **attributes)[0]

    def add_many(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[str],
        module: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node and return the names of its outputs; ``?`` stands for a new name."""
        outputs = [
            self._new_name() if name == "?" else name for name in outputs
        ]
        node = onnx.helper.make_node(
            operator,
            inputs,
            outputs,
            name=f"{module}/{operator}" if module else "",
            domain=MICROSOFT if operator in _CONTRIBUTED else "",
            **attributes,
        )
        self._added.append(node)
        return outputs

    def drop(self, node: onnx.NodeProto) -> None:
        """Remove a node when the edit is finished."""
        self._dropped.add(id(node))

    def finish(self) -> None:
        """Write the changes: nodes sorted, nothing unused, equal constants shared, short
        tensor names.
        """
        kept = [
            node for node in self.graph.node if id(node) not in self._dropped
        ]
        onnx_graph.replace_nodes(self.graph, kept + self._added)
        _number_names(list(self.graph.node))
        require_microsoft(self.model)
        onnx_graph.sort(self.graph)
        onnx_graph.sweep(self.graph)
        onnx_compact.share_constants(self.graph)
        onnx_compact.shorten(self.model)

    def _new_name(self) -> str:
        self._names += 1
        return f"{_PREFIX}{self._names}"


def require_microsoft(model: onnx.ModelProto) -> None:
    """Declare the domain of ONNX Runtime's own operators if the graph uses one of them."""
    used = any(node.domain == MICROSOFT for node in model.graph.node)
    declared = any(entry.domain == MICROSOFT for entry in model.opset_import)
    if used and not declared:
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def _number_names(nodes: list[onnx.NodeProto]) -> None:
    """Append ``.2``, ``.3`` ... to repeated names: ONNX Runtime refuses two nodes of one name."""
    used = {node.name for node in nodes}
    count = Counter[str]()
    for node in nodes:
        name = node.name
        count[name] += 1
        if not name or count[name] == 1:
            continue
        number = count[name]
        while f"{name}.{number}" in used:
            number += 1
        node.name = f"{name}.{number}"
        used.add(node.name)
