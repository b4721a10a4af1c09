"""Make ONNX files smaller without changing what they compute."""

import onnx
import onnx.numpy_helper

from edgekit.formats.onnx import graph as onnx_graph


def share_constants(graph: onnx.GraphProto) -> None:
    """Store equal initializers once."""
    first_of: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for tensor in list(graph.initializer):
        if (
            tensor.name in outputs
            or tensor.data_location == onnx.TensorProto.EXTERNAL
        ):
            continue
        content = onnx.numpy_helper.to_array(tensor).tobytes()
        key = (tensor.data_type, tuple(tensor.dims), content)
        if key in first_of:
            renamed[tensor.name] = first_of[key]
            graph.initializer.remove(tensor)
        else:
            first_of[key] = tensor.name
    for node in graph.node:
        _rename(node, renamed)


def shorten(model: onnx.ModelProto) -> None:
    """Remove what only people read: metadata, doc strings, long tensor names.

    Input, output and node names stay. A graph with subgraphs keeps all its names, because
    subgraphs read them.
    """
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    if len(list(onnx_graph.graphs(graph))) > 1:
        return
    names = _short_names(graph)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        _rename(node, names)


def _short_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Number the tensors t0, t1, ...; graph inputs and outputs keep their names."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    initializers = [tensor.name for tensor in graph.initializer]
    produced = [name for node in graph.node for name in node.output]
    names = [
        name for name in initializers + produced if name and name not in fixed
    ]
    candidates = (f"t{number}" for number in range(len(names) + len(fixed)))
    free = (name for name in candidates if name not in fixed)
    return dict(zip(names, free, strict=False))


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for position, name in enumerate(node.input):
        node.input[position] = names.get(name, name)
    for position, name in enumerate(node.output):
        node.output[position] = names.get(name, name)
