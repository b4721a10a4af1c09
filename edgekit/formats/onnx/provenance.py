"""Find the node of an ONNX file, and the PyTorch module, that an operator of ONNX Runtime's
optimized graph comes from.
"""

import ast
import re

import onnx

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.macs import COMPUTE

#: What ONNX Runtime and its quantizers add to a node's name.
_ADDED = (
    r"^InsertedPrecisionFreeCast_"
    r"|(_nchwc|_token_\d+|_fused|_nhwc|_quant|_Q\d|/\w+Fusion/?|\.\d+)$"
)
#: The metadata in which ``torch.onnx.export`` stores the path of the module.
_SCOPES = "pkg.torch.onnx.name_scopes"


class NodeProvenance:
    """Look up where the nodes of an optimized graph come from in the original ``model``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = list(onnx_graph.nodes(model.graph))
        self._stored = {
            name: tuple(tensor.dims)
            for name, tensor in onnx_graph.stored(model.graph).items()
        }
        self._producers = {
            name: node for node in nodes for name in node.output if name
        }
        self._named = {node.name: node for node in nodes if node.name}

    def find(self, name: str) -> onnx.NodeProto | None:
        """Return the original node of an optimized one, by the latter's name.

        ONNX Runtime names a fused node after the first of its nodes, or after the tensor that
        the last one produces.
        """
        stem = name
        while not self._is_original(stem) and re.search(_ADDED, stem):
            stem = re.sub(_ADDED, "", stem)
        if stem in self._named:
            return self._named[stem]
        node = self._producers.get(stem)
        while node is not None and node.op_type not in COMPUTE and node.input:
            sources = (self._producers.get(source) for source in node.input)
            node = next(
                (source for source in sources if source is not None), None
            )
        return node

    def weights(self, name: str) -> tuple[int, ...] | None:
        """Return the original shape of a convolution's weights, also if they are dequantized
        or cast on the way; None if they are not stored.
        """
        node = self.find(name)
        source = (
            node.input[1] if node is not None and len(node.input) > 1 else ""
        )
        while source not in self._stored:
            producer = self._producers.get(source)
            if producer is None or not producer.input:
                return None
            source = producer.input[0]
        return self._stored[source]

    def original_name(self, node: onnx.NodeProto) -> str:
        """Return the original name of the product that a fused operator computes.

        Empty for operators that are not products, and for those that were not found.
        """
        origin = self.find(node.name) if node.op_type in COMPUTE else None
        return origin.name if origin is not None else ""

    def module(self, name: str) -> str:
        """Return the path of the PyTorch module; empty if the file does not store it.

        It is read from the metadata that the exporter writes, else from a name of the form
        ``module.path/Operator``.
        """
        node = self.find(name)
        if node is None:
            return _module_in_name(name)
        return module_in_scopes(scopes(node)) or _module_in_name(node.name)

    def _is_original(self, name: str) -> bool:
        return name in self._named or name in self._producers


def scopes(node: onnx.NodeProto) -> str:
    """Return what ``torch.onnx.export`` stores about a node's modules, such as
    ``['', 'layer', 'layer.conv', 'conv2d']``; empty if it is not there.
    """
    entries = (
        entry.value for entry in node.metadata_props if entry.key == _SCOPES
    )
    return next(entries, "")


def module_in_scopes(text: str) -> str:
    """Return ``layer.conv`` of ``['', 'layer', 'layer.conv', 'conv2d']``."""
    try:
        path = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return ""
    return str(path[-2]) if isinstance(path, list) and len(path) > 1 else ""


def _module_in_name(name: str) -> str:
    if name.startswith("/"):  # PyTorch's older exporter: /layer/conv/Conv
        return name.strip("/").rpartition("/")[0].replace("/", ".")
    return name.partition("/")[0] if "/" in name else ""
