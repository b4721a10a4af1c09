"""Read, inspect, rewrite and write ONNX graphs.

The only module that walks through graphs and their subgraphs.
"""

import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import google.protobuf.message
import onnx
import onnx.checker
import onnx.numpy_helper

from edgekit.arrays import Array
from edgekit.errors import RunnerError, StepError, condense

#: What ``onnx.checker`` and ``onnx.load`` raise for files that are not valid.
_INVALID = (
    onnx.checker.ValidationError,
    google.protobuf.message.DecodeError,
    OSError,
    ValueError,
    RuntimeError,
)
#: What ``onnx.checker`` reports if nodes are out of order.
_UNSORTED = "topologically sorted"
_FLOAT8 = {
    onnx.TensorProto.FLOAT8E4M3FN,
    onnx.TensorProto.FLOAT8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2,
    onnx.TensorProto.FLOAT8E5M2FNUZ,
}


def read(path: pathlib.Path) -> onnx.ModelProto:
    """Load a file written by a step.

    Raises StepError if the ONNX checker refuses it, or if its weights are in other files.
    """
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
    except _INVALID as error:
        raise StepError(
            f"{path.name} is not a valid ONNX file: {condense(error)}",
            fix="export it again",
        ) from error
    if _has_external_data(model.graph):
        raise StepError(
            f"{path.name} stores its weights in other files.",
            fix="export with the weights inside the file",
        )
    return model


def read_any(path: pathlib.Path) -> tuple[onnx.ModelProto, bool]:
    """Load a file of any origin without its external data.

    Also returns whether its nodes were in order; if not, the returned model has them sorted.
    Raises RunnerError if the file is missing or the ONNX checker refuses it.
    """
    if not path.is_file():
        raise RunnerError(
            f"{path} does not exist.", fix="name an existing .onnx file"
        )
    try:
        try:
            onnx.checker.check_model(str(path))
            return onnx.load(str(path), load_external_data=False), True
        except onnx.checker.ValidationError as error:
            if _UNSORTED not in str(error):
                raise
            return _load_sorted(path), False
    except _INVALID as error:
        raise invalid_file(path, error) from error


def invalid_file(path: pathlib.Path, error: Exception) -> RunnerError:
    """Build the error for a file that the ONNX checker or loader refuses."""
    return RunnerError(
        f"{path.name} is not a valid ONNX file: {condense(error)}",
        fix="export it again; do not run a file that you do not trust",
    )


def write(model: onnx.ModelProto, path: pathlib.Path) -> None:
    """Save the model and check the written file, its shapes and types included.

    Raises StepError if the ONNX checker refuses it.
    """
    try:
        onnx.save(model, str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
    ) as error:
        raise StepError(
            f"{path.name} would not be a valid ONNX file: {condense(error)}",
            fix="report this as a bug; until then use the scheme 'float'",
        ) from error


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and all its subgraphs, at any depth."""
    yield graph
    for node in graph.node:
        for subgraph in subgraphs(node):
            yield from graphs(subgraph)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, each followed by the nodes of its subgraphs."""
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from nodes(subgraph)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor of the graph and its subgraphs, those in attributes and the
    two parts of sparse ones included.
    """
    for one in graphs(graph):
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in one.node:
            for attribute in node.attribute:
                yield attribute.t
                yield from attribute.tensors
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices


def has_float8(model: onnx.ModelProto) -> bool:
    """Whether the model stores a tensor of 8-bit floats, such as the zero point of a
    QuantizeLinear.
    """
    return any(tensor.data_type in _FLOAT8 for tensor in tensors(model.graph))


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return initializers and the values of Constant nodes by name, those of subgraphs
    included.
    """
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    for node in nodes(graph):
        for subgraph in subgraphs(node):
            by_name.update(
                {tensor.name: tensor for tensor in subgraph.initializer}
            )
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                by_name[node.output[0]] = attribute.t
    return by_name


def constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """Return the initializers as arrays by name.

    An array is copied out of the graph when it is first read: most are never read.
    """
    return _Constants({tensor.name: tensor for tensor in graph.initializer})


class _Constants(dict[str, Array]):
    """Tensors that become arrays when they are read."""

    def __init__(self, tensors: dict[str, onnx.TensorProto]) -> None:
        super().__init__()
        self._tensors = tensors

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __missing__(self, name: str) -> Array:
        array: Array = onnx.numpy_helper.to_array(self._tensors[name])
        self[name] = array
        return array


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that produces each tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor, by the tensor's name.

    A node is listed as often as it reads the tensor; once if only its subgraphs read it.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        from_subgraphs = sorted(inputs(node) - set(node.input))
        for name in (*node.input, *from_subgraphs):
            readers.setdefault(name, []).append(node)
    return readers


def inputs(node: onnx.NodeProto) -> set[str]:
    """Return the names of all tensors that a node reads, those that its subgraphs read from
    outside included.
    """
    names = set(node.input)
    for subgraph in subgraphs(node):
        read_inside = {value.name for value in subgraph.output}
        local = _names_before_nodes(subgraph)
        for inner in subgraph.node:
            read_inside |= inputs(inner)
            local.update(inner.output)
        names |= read_inside - local
    return names


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values by name."""
    return {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for attribute in node.attribute
    }


def operators(graph: onnx.GraphProto) -> dict[str, int]:
    """Count the nodes of each operator; subgraphs are not counted."""
    return dict(Counter(node.op_type for node in graph.node))


def module(node: onnx.NodeProto) -> str:
    """Return the path of the PyTorch module that a node of our exports came from.

    The export names nodes ``module.path/Operator``.
    """
    return node.name.rpartition("/")[0]


def add_constant(graph: onnx.GraphProto, name: str, value: Array) -> str:
    """Store a tensor under ``name`` unless there is one already; return the name."""
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return name


def replace_nodes(
    graph: onnx.GraphProto, ordered: list[onnx.NodeProto]
) -> None:
    """Make ``ordered`` the nodes of the graph; they may be nodes of the graph itself."""
    # Clearing the list frees its nodes, so they are copied first.
    copies = [
        onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered
    ]
    del graph.node[:]
    graph.node.extend(copies)


def sweep(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs are not used, then unused initializers, then all
    ``value_info``. The nodes must be sorted.
    """
    needed = {value.name for value in graph.output}
    used = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            used.append(node)
            needed |= inputs(node)
    if len(used) < len(graph.node):
        replace_nodes(graph, used[::-1])
    for tensor in list(graph.initializer):
        if tensor.name not in needed:
            graph.initializer.remove(tensor)
    del graph.value_info[:]


def truncate(
    model: onnx.ModelProto, output: onnx.ValueInfoProto
) -> onnx.ModelProto:
    """Return a copy of the model that computes ``output`` and nothing else."""
    short = onnx.ModelProto()
    short.CopyFrom(model)
    del short.graph.output[:]
    short.graph.output.append(output)
    sweep(short.graph)
    return short


def sort(graph: onnx.GraphProto) -> None:
    """Put every node after those that produce its inputs.

    Raises StepError if the graph contains a cycle.
    """
    try:
        ordered = _sorted_nodes(graph)
    except ValueError as error:
        raise StepError(
            f"The ONNX graph is invalid: {error}.", fix="export it again"
        ) from error
    replace_nodes(graph, ordered)


def is_sorted(graph: onnx.GraphProto) -> bool:
    """Whether every node comes after those that produce its inputs."""
    available = _names_before_nodes(graph)
    for node in graph.node:
        if not available.issuperset(inputs(node)):
            return False
        available.update(node.output)
    return True


def _sorted_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Sort the nodes topologically; nodes that are ready together keep their order.

    Raises ValueError if the graph contains a cycle.
    """
    available = _names_before_nodes(graph)
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node in waiting if available.issuperset(inputs(node))]
        if not ready:
            name = waiting[0].name or waiting[0].op_type
            raise ValueError(f"it contains a cycle at {name}")
        ordered += ready
        available.update(name for node in ready for name in node.output)
        placed = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in placed]
    return ordered


def _names_before_nodes(graph: onnx.GraphProto) -> set[str]:
    """The names that can be read before any node has run; the empty name of an optional
    input that is left out is one.
    """
    return {
        "",
        *(value.name for value in graph.input),
        *(tensor.name for tensor in graph.initializer),
        *(sparse.values.name for sparse in graph.sparse_initializer),
    }


def _load_sorted(path: pathlib.Path) -> onnx.ModelProto:
    """Load a file whose nodes are out of order, sort and check it.

    The checker stops at the first node out of order, before it has looked at external data,
    so a file with external data is refused. Raises ValueError and what the checker raises.
    """
    model = onnx.load(str(path), load_external_data=False)
    if _has_external_data(model.graph):
        raise ValueError(
            "its nodes are out of order and its weights are in other files"
        )
    replace_nodes(model.graph, _sorted_nodes(model.graph))
    onnx.checker.check_model(model)
    return model


def _has_external_data(graph: onnx.GraphProto) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in tensors(graph))
