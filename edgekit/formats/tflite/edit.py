"""Changing a float TFLite file: the linear layers that read one tensor, their weights, and
a factor in front of them.
"""

import dataclasses
import pathlib
from collections import Counter
from typing import Any

import numpy
import numpy.typing
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import names as tflite_names

Array = numpy.typing.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Group:
    """FULLY_CONNECTED operators that read the same tensor, ``source``, and have float
    weights of their own.
    """

    source: int
    module: str
    operators: tuple[Any, ...]


def groups(model: Any, keep: tuple[str, ...] = ()) -> list[Group]:
    """The groups of the main graph, in the order in which they run.

    Weights that several operators share (an unrolled loop) are left out.
    """
    graph = model.subgraphs[0]
    tensors = Counter(
        int(index) for operator in graph.operators for index in operator.inputs
    )
    buffers = Counter(tensor.buffer for tensor in graph.tensors)
    found: dict[int, list[Any]] = {}
    for operator in graph.operators:
        if tflite_file.operator_name(model, operator) != "FULLY_CONNECTED":
            continue
        source, index = int(operator.inputs[0]), int(operator.inputs[1])
        held = graph.tensors[index]
        own = (
            tflite_file.stored(model, held)
            and tensors[index] == 1
            and buffers[held.buffer] == 1
        )
        plain = held.type == schema.TensorType.FLOAT32 and not tflite_file.stored(
            model, graph.tensors[source]
        )
        whole = int(graph.tensors[source].shape[-1]) == int(
            held.shape[-1]
        )  # not flattened by the operator itself
        if (
            own
            and plain
            and whole
            and not tflite_names.inside(module(model, operator), keep)
        ):
            found.setdefault(source, []).append(operator)
    return [
        Group(source, module(model, operators[0]), tuple(operators))
        for source, operators in found.items()
    ]


def module(model: Any, operator: Any, number: int = 0) -> str:
    """The PyTorch module of an operator of the graph ``number``.

    Weights are named after it alone; outputs of fused operators have several names.
    """
    graph = model.subgraphs[number]
    constants = [
        graph.tensors[int(index)]
        for index in operator.inputs
        if index >= 0 and tflite_file.stored(model, graph.tensors[int(index)])
    ]
    outputs = [graph.tensors[int(index)] for index in operator.outputs]
    tensors = (
        (*constants, *outputs)
        if tflite_file.operator_name(model, operator) in tflite_file.WEIGHTS
        else (*outputs, *constants)
    )
    return next(
        (
            path
            for tensor in tensors
            if (
                path := tflite_names.module_of(
                    (tensor.name or b"").decode("utf-8", "replace")
                )
            )
        ),
        "",
    )


def weight(model: Any, operator: Any) -> Array:
    """The weights (outputs, inputs) of a FULLY_CONNECTED."""
    tensor = model.subgraphs[0].tensors[int(operator.inputs[1])]
    return numpy.frombuffer(bytes(model.buffers[tensor.buffer].data), "float32").reshape(
        tensor.shape
    )


def set_weight(model: Any, operator: Any, value: Array, added_bias: Array | None) -> None:
    """New weights for a FULLY_CONNECTED, and something added to its bias, which it gets
    where it has none.
    """
    graph = model.subgraphs[0]
    model.buffers[graph.tensors[int(operator.inputs[1])].buffer].data = _bytes(value)
    if added_bias is None:
        return
    inputs = [int(index) for index in operator.inputs]
    old = graph.tensors[inputs[2]] if len(inputs) > 2 and inputs[2] >= 0 else None
    if old is not None:
        added_bias = added_bias + numpy.frombuffer(
            bytes(model.buffers[old.buffer].data), "float32"
        )
    # A tensor of its own: equal biases (zeros) of several layers share one.
    operator.inputs = [
        *inputs[:2],
        _constant(model, _name(graph, operator) + "/bias", added_bias),
    ]


def scale_input(model: Any, group: Group, factor: Array) -> None:
    """Multiply what the group reads with ``factor``, one number a column; other readers see
    it unchanged.
    """
    graph = model.subgraphs[0]
    source = graph.tensors[group.source]
    name = source.name + b"/smoothed"
    product = schema.TensorT()
    product.name, product.type, product.shape, product.shapeSignature = (
        name,
        source.type,
        source.shape,
        source.shapeSignature,
    )
    product.buffer = 0
    graph.tensors.append(product)
    index = len(graph.tensors) - 1
    multiply = schema.OperatorT()
    multiply.opcodeIndex = tflite_file.operator_code(model, schema.BuiltinOperator.MUL)
    multiply.inputs, multiply.outputs = (
        [group.source, _constant(model, name.decode() + "/factor", factor)],
        [index],
    )
    multiply.builtinOptionsType, multiply.builtinOptions = (
        schema.BuiltinOptions.MulOptions,
        schema.MulOptionsT(),
    )
    first = min(
        position
        for position, operator in enumerate(graph.operators)
        if any(operator is member for member in group.operators)
    )
    graph.operators.insert(first, multiply)
    for operator in group.operators:
        operator.inputs = [index, *(int(other) for other in operator.inputs[1:])]


def with_outputs(path: pathlib.Path, tensors: list[int]) -> bytes:
    """The file with more outputs, behind its own, so that a runtime with a delegate shows
    what is inside.
    """
    model = tflite_file.read(path)
    graph = model.subgraphs[0]
    ends = [int(index) for index in graph.outputs]
    inputs = {int(index) for index in graph.inputs}
    graph.outputs = [
        *ends,
        *(index for index in tensors if index not in ends and index not in inputs),
    ]
    model.signatureDefs = []
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _constant(model: Any, name: str, value: Array) -> int:
    buffer = schema.BufferT()
    buffer.data = _bytes(value)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = (
        name.encode(),
        schema.TensorType.FLOAT32,
        list(value.shape),
        len(model.buffers) - 1,
    )
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _bytes(value: Array) -> Array:
    return numpy.frombuffer(numpy.ascontiguousarray(value, "float32").tobytes(), "uint8")


def _name(graph: Any, operator: Any) -> str:
    return (graph.tensors[int(operator.outputs[0])].name or b"").decode("utf-8", "replace")
