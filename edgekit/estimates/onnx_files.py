"""ONNX files: their operators as ONNX Runtime runs them, and the files that hold only the
first of them.
"""

import pathlib
from collections.abc import Mapping, Sequence

import onnx

from edgekit.estimates.operators import Operator, spread, variant
from edgekit.estimates.table import Cost
from edgekit.formats.onnx import optimized as onnx_optimized
from edgekit.signature import TensorSpec


def read_all(paths: Sequence[pathlib.Path]) -> list[list[Operator]]:
    """The operators of each file, as optimized on this machine."""
    return [
        [_operator(operator) for operator in found.operators]
        for found in onnx_optimized.optimize_all(paths)
    ]


def _operator(operator: onnx_optimized.Operator) -> Operator:
    shape, (read, written, weights) = operator.weights, operator.moved
    kind = operator.op + (
        variant(shape[2:], depthwise=operator.groups > 1 and shape[1] == 1)
        if "Conv" in operator.op and len(shape) == 4
        else ""
    )
    cost = Cost(
        kind=kind,
        dtype=operator.dtype,
        macs=operator.macs or 0,
        read=read,
        written=written,
        weights=weights,
    )
    return Operator(cost, operator.name, operator.module)


def cut(
    path: pathlib.Path, most: int, folder: pathlib.Path
) -> list[tuple[pathlib.Path, TensorSpec]]:
    """At most ``most`` files and their outputs, from the shortest to the whole."""
    model = onnx.load(str(path))
    graph, made = model.graph, []
    known = {
        value.name: value
        for value in (
            *onnx.shape_inference.infer_shapes(model).graph.value_info,
            *graph.output,
        )
    }
    names = [name for name in _ends(graph, known) if name != graph.output[0].name]
    for number, name in enumerate([*spread(names, most - 1), graph.output[0].name]):
        needed, kept = {name}, list[onnx.NodeProto]()
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                kept.insert(0, node)
                needed.update(node.input)
        short = onnx.ModelProto()
        short.CopyFrom(model)
        del (
            short.graph.node[:],
            short.graph.output[:],
            short.graph.initializer[:],
            short.graph.value_info[:],
        )
        short.graph.node.extend(kept)
        short.graph.initializer.extend(
            tensor for tensor in graph.initializer if tensor.name in needed
        )
        short.graph.output.append(known[name])
        target = folder / f"{number}.onnx"
        onnx.save(short, str(target))
        made.append(
            (target, TensorSpec(name=name, dtype="float32", dims=_dims(known[name])))
        )
    return made


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"axis {axis}"
        for axis, dim in enumerate(dims)
    )


def _ends(graph: onnx.GraphProto, known: Mapping[str, onnx.ValueInfoProto]) -> list[str]:
    """Float activations where a file can end and still fuse as the whole does: in an int8
    file what was just made float again.
    """
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    computed = {value.name for value in graph.input}
    found = []
    for node in graph.node:
        if not computed.intersection(node.input):
            continue  # made of stored numbers alone
        computed.update(node.output)
        name = node.output[0]
        quantized, fused = (
            "QuantizeLinear" in readers.get(name, ()),
            readers.get(name) == ["Relu"],
        )
        if (
            name in known
            and _is_samples(known[name], graph.input[0])
            and not quantized
            and not fused
        ):
            found.append(name)
    return found


def _is_samples(value: onnx.ValueInfoProto, given: onnx.ValueInfoProto) -> bool:
    """Whether a tensor is float and its first axis is that of the samples."""
    first, other = (
        value.type.tensor_type.shape.dim[:1],
        given.type.tensor_type.shape.dim[:1],
    )
    return value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and list(
        first
    ) == list(other)
