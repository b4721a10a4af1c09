"""Rewrite an int8 TFLite file so that more of it runs on the Edge TPU, with the same results.

* ``LEAKY_RELU``, which the Edge TPU lacks, becomes ``PRELU`` with one slope for all
  channels: the same function, with the same scales (its product with the slope may round
  the other way: one step).
* A ``TRANSPOSE`` and its inverse are both removed if the operators between them do not
  depend on the order of the axes. TFLite's converter puts such pairs around paddings and
  around sums with a scalar.

Changes that are better made before quantization are in ``edgekit.quantization.edgetpu``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from ai_edge_litert import schema_py_generated as schema

from edgekit.arrays import Array
from edgekit.formats.tflite import file as tflite_file

_INT8 = (schema.TensorType.INT8, schema.TensorType.UINT8)
#: Elementwise operators with one input.
_ELEMENTWISE = {
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "LOGISTIC",
    "TANH",
    "LEAKY_RELU",
    "HARD_SWISH",
    "QUANTIZE",
    "DEQUANTIZE",
    "ABS",
}
#: Elementwise operators if their other operand is a scalar.
_BINARY = {"ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM"}
_MAX_INT8 = 127


def rewrite(model: Any) -> Mapping[str, int]:
    """Change the main graph in place; return how often each change was made."""
    changes: Counter[str] = Counter()
    while _cancel_transposes(model):
        changes["transposes removed"] += 2
    for operator in model.subgraphs[0].operators:
        if tflite_file.operator_name(model, operator) != "LEAKY_RELU":
            continue
        if _replace_leaky_relu(model, operator):
            changes["LEAKY_RELU as PRELU"] += 1
    return dict(changes)


def _replace_leaky_relu(model: Any, operator: Any) -> bool:
    """Turn a LEAKY_RELU into a PRELU; False if it is float or its slope cannot be stored."""
    graph = model.subgraphs[0]
    source = graph.tensors[int(operator.inputs[0])]
    slope = float(operator.builtinOptions.alpha)
    if source.type not in _INT8 or not slope or not math.isfinite(slope):
        return False
    shape = [int(dim) for dim in source.shape]
    output = graph.tensors[int(operator.outputs[0])]
    alpha = schema.TensorT()
    alpha.name = (output.name or b"") + b"/slope"
    alpha.type = schema.TensorType.INT8
    alpha.shape = _int32([1] * (len(shape) - 2) + shape[-1:])
    alpha.quantization = schema.QuantizationParametersT()
    alpha.quantization.scale = numpy.array([abs(slope) / _MAX_INT8], "float32")
    alpha.quantization.zeroPoint = numpy.array([0], "int64")
    slopes = numpy.full(shape[-1], math.copysign(_MAX_INT8, slope), "int8")
    operator.inputs = _int32(
        [operator.inputs[0], _add_constant(model, alpha, slopes)]
    )
    operator.opcodeIndex = tflite_file.ensure_operator_code(
        model, schema.BuiltinOperator.PRELU
    )
    operator.builtinOptionsType = schema.BuiltinOptions.NONE
    operator.builtinOptions = None
    return True


def _cancel_transposes(model: Any) -> bool:
    """Remove the first pair of transposes that undo each other; False if there is none."""
    graph = model.subgraphs[0]
    readers = _find_readers(graph)
    for first in graph.operators:
        order = _permutation(model, first)
        if order is None:
            continue
        chain, last = _follow_chain(model, readers, first, order)
        if last is None:
            continue
        back = _permutation(model, last)
        if back is None or [order[axis] for axis in back] != list(
            range(len(order))
        ):
            continue
        _remove_pair(model, first, chain, last, order)
        return True
    return False


def _follow_chain(
    model: Any, readers: Mapping[int, list[Any]], first: Any, order: list[int]
) -> tuple[list[Any], Any | None]:
    """The permutation-invariant operators after a transpose, and the operator after them.

    None instead of that operator if a tensor on the way is an output of the network or has
    several readers.
    """
    graph = model.subgraphs[0]
    chain: list[Any] = []
    tensor = int(first.outputs[0])
    while True:
        following = readers.get(tensor, [])
        if tensor in graph.outputs or len(following) != 1:
            return chain, None
        if not _is_permutation_invariant(model, following[0], tensor, order):
            return chain, following[0]
        chain.append(following[0])
        tensor = int(following[0].outputs[0])


def _remove_pair(
    model: Any, first: Any, chain: list[Any], last: Any, order: list[int]
) -> None:
    """Connect the chain to the input of the first transpose and the readers of the last."""
    graph = model.subgraphs[0]
    source = int(first.inputs[0])
    tensor = int(first.outputs[0])
    inverse = [order.index(axis) for axis in range(len(order))]
    for operator in chain:
        operator.inputs = _replace_index(operator.inputs, tensor, source)
        source = tensor = int(operator.outputs[0])
        output = graph.tensors[tensor]
        output.shape = _int32([output.shape[axis] for axis in inverse])
        output.shapeSignature = None
        if tflite_file.operator_name(model, operator) == "PAD":
            _permute_paddings(model, operator, inverse)
    end = int(last.outputs[0])
    for operator in graph.operators:
        operator.inputs = _replace_index(operator.inputs, end, source)
    graph.outputs = _replace_index(graph.outputs, end, source)
    for definition in model.signatureDefs or []:
        if definition.subgraphIndex != 0:
            continue
        for entry in definition.outputs:
            if entry.tensorIndex == end:
                entry.tensorIndex = source
    graph.operators = [
        operator
        for operator in graph.operators
        if operator is not first and operator is not last
    ]


def _permute_paddings(model: Any, operator: Any, inverse: list[int]) -> None:
    tensor = model.subgraphs[0].tensors[int(operator.inputs[1])]
    paddings = _integers(model, tensor).reshape(-1, 2)[inverse]
    permuted = schema.TensorT()
    permuted.name = (tensor.name or b"") + b"/permuted"
    permuted.type = tensor.type
    permuted.shape = tensor.shape
    index = _add_constant(model, permuted, numpy.ascontiguousarray(paddings))
    operator.inputs = _int32([operator.inputs[0], index])


def _is_permutation_invariant(
    model: Any, operator: Any, tensor: int, order: list[int]
) -> bool:
    """Whether an operator that reads ``tensor`` does the same with its axes permuted.

    True for a PAD, whose paddings can be permuted too.
    """
    name = tflite_file.operator_name(model, operator)
    tensors = model.subgraphs[0].tensors
    others = [
        tensors[int(index)] for index in operator.inputs if int(index) != tensor
    ]
    if name in _ELEMENTWISE:
        return not others
    if len(others) != 1 or not tflite_file.is_stored(model, others[0]):
        return False
    if name == "PAD":
        return len(_integers(model, others[0])) == 2 * len(order)
    return (
        name in _BINARY and math.prod(int(dim) for dim in others[0].shape) == 1
    )


def _permutation(model: Any, operator: Any) -> list[int] | None:
    """The permutation of a TRANSPOSE; None if computed, and for any other operator."""
    if tflite_file.operator_name(model, operator) != "TRANSPOSE":
        return None
    tensor = model.subgraphs[0].tensors[int(operator.inputs[1])]
    if not tflite_file.is_stored(model, tensor):
        return None
    return [int(axis) for axis in _integers(model, tensor)]


def _find_readers(graph: Any) -> Mapping[int, list[Any]]:
    readers: dict[int, list[Any]] = {}
    for operator in graph.operators:
        for index in {int(index) for index in operator.inputs}:
            readers.setdefault(index, []).append(operator)
    return readers


def _integers(model: Any, tensor: Any) -> Array:
    dtype = "int64" if tensor.type == schema.TensorType.INT64 else "int32"
    return numpy.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype)


def _int32(values: Sequence[Any]) -> Array:
    return numpy.array([int(value) for value in values], "int32")


def _replace_index(indices: Sequence[Any], old: int, new: int) -> Array:
    return _int32([new if int(index) == old else index for index in indices])


def _add_constant(model: Any, tensor: Any, value: Array) -> int:
    """Store the values of a new tensor and return its index."""
    buffer = schema.BufferT()
    buffer.data = numpy.frombuffer(value.tobytes(), "uint8")
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1
