"""Small changes of an ONNX graph that several steps make: read, sweep, share equal
constants, shorten names, write checked.
"""

import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import google.protobuf.message
import numpy
import numpy.typing
import onnx
import onnx.numpy_helper

from edgekit.errors import StepError

Array = numpy.typing.NDArray[Any]


def read(path: pathlib.Path) -> onnx.ModelProto:
    """Load a file that passes the ONNX checker and holds its own weights, or raise
    StepError.
    """
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
    except (
        onnx.checker.ValidationError,
        google.protobuf.message.DecodeError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        raise StepError(
            f"{path.name} is not a valid ONNX file: {first_line(error)}",
            fix="export it again",
        ) from error
    if any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in stored(model.graph).values()
    ):
        raise StepError(
            f"The weights of {path.name} lie outside it.",
            fix="export with the weights inside the file",
        )
    return model


def write(model: onnx.ModelProto, path: pathlib.Path) -> None:
    """Save the model and prove that the written file is a valid one, shapes and types
    included.
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
            f"{path.name} would not be a valid ONNX file: {first_line(error)}",
            fix="this is edgekit's fault; try the scheme 'float'",
        ) from error


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those inside If, Loop and Scan too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Every stored tensor by name: initializers and the values of Constant nodes, those
    inside If, Loop and Scan too.
    """
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in nodes(graph):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
            for inner in (attribute.g, *attribute.graphs):
                found.update({tensor.name: tensor for tensor in inner.initializer})
    return found


def constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """The stored tensors of a graph by name.

    Few and small ones are worth reading, so nothing is copied before it is asked for.
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
    """The node that makes each tensor."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, each as often as it reads it, also from inside their
    subgraphs.
    """
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in (*node.input, *sorted(_reads(node) - set(node.input))):
            found.setdefault(name, []).append(node)
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for attribute in node.attribute
    }


def add_constant(graph: onnx.GraphProto, name: str, value: Array) -> str:
    """Store a tensor under ``name``, once."""
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return name


def sweep(graph: onnx.GraphProto) -> None:
    """Remove nodes whose results nobody reads, then constants that nobody reads."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output) or _has_subgraph(node):
            kept.append(node)
            needed.update(_reads(node))
    if len(kept) < len(graph.node):
        nodes = [
            onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)
        ]
        del graph.node[:]
        graph.node.extend(nodes)
    for tensor in list(graph.initializer):
        if tensor.name not in needed:
            graph.initializer.remove(tensor)
    del graph.value_info[:]


def share_constants(graph: onnx.GraphProto) -> None:
    """Store equal tensors once."""
    seen: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for tensor in list(graph.initializer):
        if tensor.name in outputs or tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), array.tobytes())
        if key in seen:
            renamed[tensor.name] = seen[key]
            graph.initializer.remove(tensor)
        else:
            seen[key] = tensor.name
    for node in graph.node:
        _rename(node, renamed)


def shorten(model: onnx.ModelProto) -> None:
    """Take out what only people read: notes, doc strings, long tensor names.

    Input, output and node names stay.
    """
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    if any(_has_subgraph(node) for node in graph.node):
        return  # inner graphs read outer names
    fixed = {value.name for value in (*graph.input, *graph.output)}
    tensors = [tensor.name for tensor in graph.initializer] + [
        name for node in graph.node for name in node.output
    ]
    letters = (f"t{number}" for number in range(len(tensors) + len(fixed)))
    short = {
        name: next(letter for letter in letters if letter not in fixed)
        for name in tensors
        if name and name not in fixed
    }
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        _rename(node, short)


def sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those that make its inputs."""
    made = (
        {value.name for value in graph.input}
        | {tensor.name for tensor in graph.initializer}
        | {""}
    )
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if all(name in made for name in _reads(node))]
        if not ready:
            raise StepError(
                f"The ONNX graph has a circle at {waiting[0].name or waiting[0].op_type}.",
                fix="export it again",
            )
        # One pass keeps the given order among nodes that are ready.
        for node in ready:
            made.update(node.output)
        ordered.extend(ready)
        chosen = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in chosen]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(nodes)


def is_sorted(graph: onnx.GraphProto) -> bool:
    """Whether every node stands behind those that make its inputs."""
    made = (
        {value.name for value in graph.input}
        | {tensor.name for tensor in graph.initializer}
        | {""}
    )
    for node in graph.node:
        if any(name not in made for name in node.input):
            return False
        made.update(node.output)
    return True


def operators(graph: onnx.GraphProto) -> dict[str, int]:
    """How often each operator occurs."""
    return dict(Counter(node.op_type for node in graph.node))


def module(node: onnx.NodeProto) -> str:
    """The PyTorch module that a node of our exports came from: the path in its name."""
    return node.name.rpartition("/")[0]


def first_line(error: BaseException, limit: int = 240) -> str:
    """The start of a foreign error's message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for position, name in enumerate(node.input):
        if name in names:
            node.input[position] = names[name]
    for position, name in enumerate(node.output):
        if name in names:
            node.output[position] = names[name]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Everything a node reads, also from inside its subgraphs."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {value.name for value in graph.input} | {
                tensor.name for tensor in graph.initializer
            }
            for inner in graph.node:
                names |= _reads(inner) - made
                made |= set(inner.output)
    return names


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(
        attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        for attribute in node.attribute
    )
