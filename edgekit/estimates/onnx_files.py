"""Operators of ONNX files, as ONNX Runtime executes them, and prefixes of ONNX files."""

import pathlib
from collections.abc import Mapping, Sequence

import onnx

from edgekit.estimates.operators import Operator, spread, variant
from edgekit.estimates.table import Cost
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import optimized as onnx_optimized
from edgekit.signature import TensorSpec


def read_all(paths: Sequence[pathlib.Path]) -> list[list[Operator]]:
    """Read the operators of each file, after ONNX Runtime has optimized it on this machine."""
    return [
        [_operator(operator) for operator in optimized.operators]
        for optimized in onnx_optimized.optimize_all(paths)
    ]


def _operator(operator: onnx_optimized.Operator) -> Operator:
    shape = operator.weights
    read, written, weights = operator.moved
    kind = operator.op
    if "Conv" in operator.op and len(shape) == 4:
        depthwise = operator.groups > 1 and shape[1] == 1
        kind += variant(shape[2:], depthwise=depthwise)
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
    path: pathlib.Path, count: int, folder: pathlib.Path
) -> list[tuple[pathlib.Path, TensorSpec]]:
    """Write at most ``count`` files that compute the first operators only.

    Returns:
        Each file with its only output, from the shortest to the complete network.
    """
    model = onnx.load(str(path))
    last = model.graph.output[0].name
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    values = {value.name: value for value in (*inferred, *model.graph.output)}
    ends = [name for name in _ends(model.graph, values) if name != last]
    files = []
    for number, name in enumerate([*spread(ends, count - 1), last]):
        target = folder / f"{number}.onnx"
        onnx.save(onnx_graph.truncate(model, values[name]), str(target))
        output = TensorSpec(
            name=name, dtype="float32", dims=_dims(values[name])
        )
        files.append((target, output))
    return files


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(
        dim.dim_value
        if dim.HasField("dim_value")
        else dim.dim_param or f"axis {axis}"
        for axis, dim in enumerate(dims)
    )


def _ends(
    graph: onnx.GraphProto, values: Mapping[str, onnx.ValueInfoProto]
) -> list[str]:
    """Float activations at which a file can end and still fuse as the complete one does.

    In an int8 file, those that have just been dequantized.
    """
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    computed = {value.name for value in graph.input}
    ends = []
    for node in graph.node:
        if not computed.intersection(node.input):
            continue  # computed from constants only
        computed.update(node.output)
        name = node.output[0]
        following = readers.get(name, [])
        if "QuantizeLinear" in following or following == ["Relu"]:
            continue  # would be quantized or fused in the complete file
        if name in values and _is_samples(values[name], graph.input[0]):
            ends.append(name)
    return ends


def _is_samples(
    value: onnx.ValueInfoProto, source: onnx.ValueInfoProto
) -> bool:
    """True if a tensor is float and its first axis is that of the input's samples."""
    tensor_type = value.type.tensor_type
    axis = list(tensor_type.shape.dim[:1])
    is_float = tensor_type.elem_type == onnx.TensorProto.FLOAT
    return bool(
        is_float and axis == list(source.type.tensor_type.shape.dim[:1])
    )
