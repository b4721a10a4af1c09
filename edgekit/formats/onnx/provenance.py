"""ONNX files of any origin: proved sound before a runtime sees them, and the PyTorch module
that each operator comes from.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

import google.protobuf.message
import onnx
import onnx.checker

from edgekit.errors import RunnerError
from edgekit.formats.onnx.macs import COMPUTE

#: What ONNX Runtime and its quantizers add to a node's name.
_ADDED = r"^InsertedPrecisionFreeCast_|(_nchwc|_token_\d+|_fused|_nhwc|_quant|_Q\d|/\w+Fusion/?|\.\d+)$"
_UNSORTED = "topologically sorted"
_FLOAT8 = {
    onnx.TensorProto.FLOAT8E4M3FN,
    onnx.TensorProto.FLOAT8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2,
    onnx.TensorProto.FLOAT8E5M2FNUZ,
}


def check(path: pathlib.Path) -> tuple[onnx.ModelProto, bool]:
    """The file without its external data, and whether its nodes had to be put in order;
    RunnerError where it is not a sound ONNX file.
    """
    if not path.is_file():
        raise RunnerError(f"There is no file {path}.", fix="name an existing .onnx file")
    try:
        try:
            onnx.checker.check_model(str(path))
            return onnx.load(str(path), load_external_data=False), False
        except onnx.checker.ValidationError as error:
            if _UNSORTED not in str(error):
                raise
            return _sorted(onnx.load(str(path), load_external_data=False)), True
    except (
        onnx.checker.ValidationError,
        google.protobuf.message.DecodeError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        raise unsound(path, error) from error


def unsound(path: pathlib.Path, error: Exception) -> RunnerError:
    """What is wrong with a file, in one line."""
    return RunnerError(
        f"{path.name} is not a sound ONNX file: {short(str(error))}",
        fix="export it again; do not run a file that you do not trust",
    )


def short(text: str, limit: int = 240) -> str:
    """The start of a foreign message, in one line."""
    return " ".join(text.split())[:limit]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its If, Loop and Scan."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs(inner)


def has_float8(model: onnx.ModelProto) -> bool:
    """Whether the model stores a tensor of 8-bit floats, such as the zero point of a
    QuantizeLinear.
    """
    return any(tensor.data_type in _FLOAT8 for tensor in _tensors(model.graph))


class Origins:
    """Finds the node of the given file behind a node of the optimized graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        found = list(graphs(model.graph))
        self._stored = {
            tensor.name: tuple(tensor.dims)
            for graph in found
            for tensor in graph.initializer
        }
        constants = (
            node for graph in found for node in graph.node if node.op_type == "Constant"
        )
        self._stored |= {
            node.output[0]: tuple(attribute.t.dims)
            for node in constants
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self._makers: dict[str, onnx.NodeProto] = {
            output: node for graph in found for node in graph.node for output in node.output
        }
        self._named: dict[str, onnx.NodeProto] = {
            node.name: node for graph in found for node in graph.node if node.name
        }

    def find(self, name: str) -> onnx.NodeProto | None:
        """ONNX Runtime names a fused node after the first node, or after the tensor that
        the last one makes.
        """
        stem = name
        while (
            stem not in self._named and stem not in self._makers and re.search(_ADDED, stem)
        ):
            stem = re.sub(_ADDED, "", stem)
        if stem in self._named:
            return self._named[stem]
        node: onnx.NodeProto | None = self._makers.get(stem)
        while node is not None and node.op_type not in COMPUTE and node.input:
            node = next(
                (self._makers[source] for source in node.input if source in self._makers),
                None,
            )
        return node

    def weights(self, name: str) -> tuple[int, ...] | None:
        """The true shape of the weights of the convolution behind a node, also where they
        are dequantized or cast on their way.
        """
        node = self.find(name)
        source = node.input[1] if node is not None and len(node.input) > 1 else ""
        while (
            source not in self._stored
            and source in self._makers
            and self._makers[source].input
        ):
            source = self._makers[source].input[0]
        return self._stored.get(source)

    def name(self, node: onnx.NodeProto) -> str:
        """What the given file calls the product that a fused operator computes; empty for
        operators that are not products, or not found.
        """
        origin = self.find(node.name) if node.op_type in COMPUTE else None
        return origin.name if origin is not None else ""

    def module(self, name: str) -> str:
        """The PyTorch module, from what the exporter has written beside the node, or from
        its name ``module.path/Operator``; else empty.
        """
        node = self.find(name)
        if node is None:
            return _from_name(name)
        scopes = next(
            (
                entry.value
                for entry in node.metadata_props
                if entry.key == "pkg.torch.onnx.name_scopes"
            ),
            "",
        )
        return _from_scopes(scopes) or _from_name(node.name)


def _from_scopes(text: str) -> str:
    """``['', 'layer', 'layer.conv', 'conv2d']`` is the operator conv2d of layer.conv."""
    try:
        path = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return ""
    return str(path[-2]) if isinstance(path, list) and len(path) > 1 else ""


def _from_name(name: str) -> str:
    if name.startswith("/"):  # PyTorch's older exporter: /layer/conv/Conv
        return name.strip("/").rpartition("/")[0].replace("/", ".")
    return name.partition("/")[0] if "/" in name else ""


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its nodes in order, checked.

    The file itself was not checked to its end, so it must not have external data.
    """
    if any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in _tensors(model.graph)
    ):
        raise ValueError("its nodes are out of order, and its weights lie outside the file")
    graph = model.graph
    made = {
        "",
        *(value.name for value in graph.input),
        *(tensor.name for tensor in graph.initializer),
    }
    waiting, ordered = list(graph.node), list[onnx.NodeProto]()
    own = {name for node in graph.node for name in node.output}
    while waiting:
        ready = [
            node
            for node in waiting
            if made.issuperset(_reads(node) & own | set(node.input))
        ]
        if not ready:
            raise ValueError(
                f"its graph has a circle at {waiting[0].name or waiting[0].op_type}"
            )
        ordered += ready
        made.update(name for node in ready for name in node.output)
        chosen = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in chosen]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor, those in attributes and sparse ones too."""
    for inner in graphs(graph):
        yield from inner.initializer
        for sparse in inner.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in inner.node:
            for attribute in node.attribute:
                yield from (
                    attribute.t,
                    *attribute.tensors,
                    attribute.sparse_tensor.values,
                    attribute.sparse_tensor.indices,
                )


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, also from inside its graphs."""
    inner = (
        graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)
    )
    return set(node.input).union(
        *(_reads(other) for graph in inner for other in graph.node)
    )
