"""Edit a float TFLite file: the linear layers that read one tensor, their weights, and a
factor in front of them.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy
from ai_edge_litert import schema_py_generated as schema

from edgekit.arrays import Array
from edgekit.formats.module_paths import is_within
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import names as tflite_names


@dataclasses.dataclass(frozen=True)
class LinearGroup:
    """FULLY_CONNECTED operators that read the same tensor, each with its own float weights.

    ``source`` is the index of that tensor, ``module`` the module of the first operator.
    """

    source: int
    module: str
    operators: tuple[Any, ...]


def find_linear_groups(
    model: Any, keep: Sequence[str] = ()
) -> list[LinearGroup]:
    """The groups of the main graph, in the order in which they run.

    Weights that several operators share (an unrolled loop) and operators of the modules in
    ``keep`` are left out.
    """
    graph = model.subgraphs[0]
    readers = Counter(
        int(index) for operator in graph.operators for index in operator.inputs
    )
    buffers = Counter(tensor.buffer for tensor in graph.tensors)
    operators_of: dict[int, list[Any]] = {}
    for operator in graph.operators:
        if tflite_file.operator_name(model, operator) != "FULLY_CONNECTED":
            continue
        weights_index = int(operator.inputs[1])
        weights = graph.tensors[weights_index]
        if readers[weights_index] != 1 or buffers[weights.buffer] != 1:
            continue
        if not _is_plain_float(model, operator):
            continue
        if not is_within(module_path(model, operator), keep):
            operators_of.setdefault(int(operator.inputs[0]), []).append(
                operator
            )
    return [
        LinearGroup(source, module_path(model, operators[0]), tuple(operators))
        for source, operators in operators_of.items()
    ]


def _is_plain_float(model: Any, operator: Any) -> bool:
    """Whether stored float32 weights multiply an activation that needs no flattening."""
    tensors = model.subgraphs[0].tensors
    source = tensors[int(operator.inputs[0])]
    weights = tensors[int(operator.inputs[1])]
    return (
        weights.type == schema.TensorType.FLOAT32
        and tflite_file.is_stored(model, weights)
        and not tflite_file.is_stored(model, source)
        and int(source.shape[-1]) == int(weights.shape[-1])
    )


def module_path(model: Any, operator: Any, graph_index: int = 0) -> str:
    """The path of the PyTorch module of an operator; empty if the file does not name it.

    Weights are named after the module alone, while outputs of fused operators have several
    names.
    """
    graph = model.subgraphs[graph_index]
    inputs = [
        graph.tensors[int(index)] for index in operator.inputs if index >= 0
    ]
    constants = [
        tensor for tensor in inputs if tflite_file.is_stored(model, tensor)
    ]
    outputs = [graph.tensors[int(index)] for index in operator.outputs]
    if tflite_file.operator_name(model, operator) in tflite_file.WEIGHT_INPUTS:
        tensors = (*constants, *outputs)
    else:
        tensors = (*outputs, *constants)
    names = (tflite_file.tensor_name(tensor) for tensor in tensors)
    return next(filter(None, map(tflite_names.module_of, names)), "")


def get_weight(model: Any, operator: Any) -> Array:
    """The weights of a FULLY_CONNECTED: float32, (outputs, inputs)."""
    tensor = model.subgraphs[0].tensors[int(operator.inputs[1])]
    return _values(model, tensor).reshape(tensor.shape)


def set_weight(
    model: Any, operator: Any, value: Array, added_bias: Array | None
) -> None:
    """Replace the weights of a FULLY_CONNECTED and add to its bias.

    ``value`` is (outputs, inputs), ``added_bias`` (outputs,). A layer without a bias gets
    one.
    """
    graph = model.subgraphs[0]
    weights = graph.tensors[int(operator.inputs[1])]
    model.buffers[weights.buffer].data = _data(value)
    if added_bias is None:
        return
    inputs = [int(index) for index in operator.inputs]
    if len(inputs) > 2 and inputs[2] >= 0:
        added_bias = added_bias + _values(model, graph.tensors[inputs[2]])
    # A new tensor, since equal biases (zeros) of several layers share one.
    output_name = tflite_file.tensor_name(
        graph.tensors[int(operator.outputs[0])]
    )
    operator.inputs = [
        *inputs[:2],
        _add_constant(model, f"{output_name}/bias", added_bias),
    ]


def scale_input(model: Any, group: LinearGroup, factor: Array) -> None:
    """Multiply what the group reads by ``factor``, (inputs,): a MUL in front of the group.

    Other readers of the tensor still see it unchanged.
    """
    graph = model.subgraphs[0]
    source = graph.tensors[group.source]
    name = tflite_file.tensor_name(source) + "/smoothed"
    product = schema.TensorT()
    product.name = name.encode()
    product.type = source.type
    product.shape = source.shape
    product.shapeSignature = source.shapeSignature
    product.buffer = 0
    graph.tensors.append(product)
    product_index = len(graph.tensors) - 1

    multiply = schema.OperatorT()
    multiply.opcodeIndex = tflite_file.ensure_operator_code(
        model, schema.BuiltinOperator.MUL
    )
    multiply.inputs = [
        group.source,
        _add_constant(model, f"{name}/factor", factor),
    ]
    multiply.outputs = [product_index]
    multiply.builtinOptionsType = schema.BuiltinOptions.MulOptions
    multiply.builtinOptions = schema.MulOptionsT()

    members = {id(operator) for operator in group.operators}
    positions = [
        position
        for position, operator in enumerate(graph.operators)
        if id(operator) in members
    ]
    graph.operators.insert(min(positions), multiply)
    for operator in group.operators:
        rest = [int(index) for index in operator.inputs[1:]]
        operator.inputs = [product_index, *rest]


def add_outputs(path: pathlib.Path, tensors: Sequence[int]) -> bytes:
    """The file with more outputs, after its own.

    Makes intermediate tensors readable in a runtime with a delegate.
    """
    model = tflite_file.read(path)
    graph = model.subgraphs[0]
    outputs = [int(index) for index in graph.outputs]
    existing = {*outputs, *(int(index) for index in graph.inputs)}
    graph.outputs = [
        *outputs,
        *(index for index in tensors if index not in existing),
    ]
    model.signatureDefs = []
    return tflite_file.serialize(model)


def _add_constant(model: Any, name: str, value: Array) -> int:
    """Store a float32 constant and return the index of its tensor."""
    buffer = schema.BufferT()
    buffer.data = _data(value)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name = name.encode()
    tensor.type = schema.TensorType.FLOAT32
    tensor.shape = list(value.shape)
    tensor.buffer = len(model.buffers) - 1
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1


def _values(model: Any, tensor: Any) -> Array:
    return numpy.frombuffer(bytes(model.buffers[tensor.buffer].data), "float32")


def _data(value: Array) -> Array:
    return numpy.frombuffer(
        numpy.ascontiguousarray(value, "float32").tobytes(), "uint8"
    )
