"""Operators of TFLite files, and prefixes of TFLite files."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgekit.device_worker.tensors import itemsize
from edgekit.estimates.operators import Operator, spread, variant
from edgekit.estimates.table import Cost
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite.graph import Tensor
from edgekit.signature import Quantization, TensorSpec

_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_TENSOR_TYPES: Mapping[int, Any] = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.INT8: "int8",
}


def read_all(paths: Sequence[pathlib.Path]) -> list[list[Operator]]:
    """Read the operators of each file, in execution order."""
    return [
        [_operator(operator) for operator in tflite_graph.read(path).operators]
        for path in paths
    ]


def _operator(operator: tflite_graph.Operator) -> Operator:
    weights = operator.weights
    kind = operator.op
    if operator.op in _CONVOLUTIONS and weights is not None:
        # For one input channel the converter writes a plain convolution as a depthwise one.
        depthwise = (
            operator.op.startswith("DEPTHWISE")
            and operator.input(0).shape[-1] > 1
        )
        kind += variant(weights.shape[1:3], depthwise=depthwise)
    tensors = [tensor for tensor in operator.inputs if tensor is not None]
    cost = Cost(
        kind=kind,
        dtype=audit_tflite.classify_arithmetic(operator),
        macs=operator.macs,
        read=sum(_bytes(tensor) for tensor in tensors if not tensor.stored),
        written=sum(map(_bytes, operator.outputs)),
        weights=sum(tensor.bytes for tensor in tensors if tensor.stored),
    )
    name = operator.outputs[0].name if operator.outputs else operator.op
    return Operator(cost, name, audit_tflite.module_path(operator))


def _bytes(tensor: Tensor) -> int:
    return tensor.size * itemsize(tensor.dtype)


def cut(
    path: pathlib.Path, count: int, folder: pathlib.Path
) -> list[tuple[pathlib.Path, TensorSpec]]:
    """Write at most ``count`` files that compute the first operators only.

    Returns:
        Each file with its only output, from the shortest to the complete network.
    """
    cuts: list[tuple[pathlib.Path, TensorSpec]] = []
    total = len(tflite_file.read(path).subgraphs[0].operators)
    for position in spread(range(total), count):
        model = tflite_file.read(path)
        graph = model.subgraphs[0]
        end = (
            int(graph.operators[position].outputs[0])
            if position < total - 1
            else int(graph.outputs[0])
        )
        tensor = graph.tensors[end]
        if tensor.type not in _TENSOR_TYPES or int(tensor.shape[0]) != 1:
            continue
        needed, kept = {end}, list[Any]()
        for operator in reversed(graph.operators[: position + 1]):
            if needed.intersection(int(index) for index in operator.outputs):
                kept.insert(0, operator)
                needed.update(int(index) for index in operator.inputs)
        graph.operators, graph.outputs, model.signatureDefs = kept, [end], []
        target = folder / f"{len(cuts)}.tflite"
        tflite_file.write(model, target)
        cuts.append((target, _spec(tensor)))
    return cuts


def _spec(tensor: Any) -> TensorSpec:
    stored = tensor.quantization
    scales = (
        [] if stored is None or stored.scale is None else list(stored.scale)
    )
    quantization = (
        Quantization(
            scale=float(scales[0]), zero_point=int(stored.zeroPoint[0])
        )
        if len(scales) == 1
        else None
    )
    name, dims = (
        tflite_file.tensor_name(tensor),
        tuple(int(size) for size in tensor.shape),
    )
    return TensorSpec(
        name=name,
        dtype=_TENSOR_TYPES[tensor.type],
        dims=dims,
        quantization=quantization,
    )
