"""Change an int8 TFLite file so that more of it runs on the Edge TPU; the numbers stay.

* ``LEAKY_RELU``, which the Edge TPU lacks, becomes ``PRELU`` with one slope for all
  channels: the same function, with the same scales (its product with the slope may round
  the other way: one step).
* A ``TRANSPOSE`` and one that undoes it, with nothing between them that sees the order of
  the axes, are both left out. TFLite's converter puts such pairs around paddings and around
  sums with a plain number.

What is better changed before quantization is in ``edgekit.quantization.edgetpu``.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy
from ai_edge_litert import schema_py_generated as schema

from edgekit.formats.tflite import file as tflite_file

_INT8 = (schema.TensorType.INT8, schema.TensorType.UINT8)
#: These read one tensor and give one of the same shape, number by number.
_ALIKE = {
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
#: These do so where their other operand is one number.
_WITH_NUMBER = {"ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM"}
_STEPS = 127


def rewrite(model: Any) -> Mapping[str, int]:
    """Change the main graph in place; tells what was changed, and how often."""
    done: Counter[str] = Counter()
    while _cancel_transposes(model):
        done["transposes left out"] += 2
    for operator in model.subgraphs[0].operators:
        if tflite_file.operator_name(model, operator) == "LEAKY_RELU" and _prelu(
            model, operator
        ):
            done["LEAKY_RELU as PRELU"] += 1
    return dict(done)


def _prelu(model: Any, operator: Any) -> bool:
    graph = model.subgraphs[0]
    source, slope = (
        graph.tensors[int(operator.inputs[0])],
        float(operator.builtinOptions.alpha),
    )
    if source.type not in _INT8 or not slope or not math.isfinite(slope):
        return False
    shape = [int(dim) for dim in source.shape]
    alpha = schema.TensorT()
    alpha.name, alpha.type = (
        (graph.tensors[int(operator.outputs[0])].name or b"") + b"/slope",
        schema.TensorType.INT8,
    )
    alpha.shape = numpy.array([1] * (len(shape) - 2) + shape[-1:], "int32")
    alpha.quantization = schema.QuantizationParametersT()
    alpha.quantization.scale, alpha.quantization.zeroPoint = (
        numpy.array([abs(slope) / _STEPS], "float32"),
        numpy.array([0], "int64"),
    )
    operator.inputs = numpy.array(
        [
            int(operator.inputs[0]),
            _stored(
                model, alpha, numpy.full(shape[-1], math.copysign(_STEPS, slope), "int8")
            ),
        ],
        "int32",
    )
    operator.opcodeIndex = tflite_file.ensure_operator_code(model, schema.BuiltinOperator.PRELU)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None
    return True


def _cancel_transposes(model: Any) -> bool:
    """Leave out the first pair of transposes that undo each other."""
    graph = model.subgraphs[0]
    readers = _readers(graph)
    for first in graph.operators:
        order = _order(model, first)
        if order is None or int(first.outputs[0]) in graph.outputs:
            continue
        chain, tensor = [], int(first.outputs[0])
        while (
            (following := _only(readers, tensor)) is not None
            and tensor not in graph.outputs
            and _blind(model, following, tensor, order)
        ):
            chain.append(following)
            tensor = int(following.outputs[0])
        if following is None or tensor in graph.outputs:
            continue
        back = _order(model, following)
        if back is None or [order[axis] for axis in back] != list(range(len(order))):
            continue
        _join(model, first, chain, following, order)
        return True
    return False


def _join(model: Any, first: Any, chain: list[Any], last: Any, order: list[int]) -> None:
    """The chain reads what the first transpose read, and what read the last one reads the
    chain.
    """
    graph = model.subgraphs[0]
    source, end = int(first.inputs[0]), int(last.outputs[0])
    inverse = [order.index(axis) for axis in range(len(order))]
    tensor = int(first.outputs[0])
    for operator in chain:
        operator.inputs = numpy.array(
            [source if int(index) == tensor else int(index) for index in operator.inputs],
            "int32",
        )
        source = tensor = int(operator.outputs[0])
        made = graph.tensors[tensor]
        made.shape = numpy.array([int(made.shape[axis]) for axis in inverse], "int32")
        made.shapeSignature = None
        if tflite_file.operator_name(model, operator) == "PAD":
            _turn_paddings(model, operator, inverse)
    for operator in graph.operators:
        operator.inputs = numpy.array(
            [source if int(index) == end else int(index) for index in operator.inputs],
            "int32",
        )
    graph.outputs = numpy.array(
        [source if int(index) == end else int(index) for index in graph.outputs], "int32"
    )
    for definition in model.signatureDefs or []:
        for entry in definition.outputs:
            entry.tensorIndex = (
                source
                if definition.subgraphIndex == 0 and entry.tensorIndex == end
                else entry.tensorIndex
            )
    graph.operators = [
        operator
        for operator in graph.operators
        if operator is not first and operator is not last
    ]


def _turn_paddings(model: Any, operator: Any, inverse: list[int]) -> None:
    graph = model.subgraphs[0]
    held = graph.tensors[int(operator.inputs[1])]
    numbers = _numbers(model, held).reshape(-1, 2)[inverse]
    turned = schema.TensorT()
    turned.name, turned.type, turned.shape = (
        (held.name or b"") + b"/turned",
        held.type,
        held.shape,
    )
    operator.inputs = numpy.array(
        [int(operator.inputs[0]), _stored(model, turned, numpy.ascontiguousarray(numbers))],
        "int32",
    )


def _blind(model: Any, operator: Any, tensor: int, order: list[int]) -> bool:
    """Whether an operator does the same with its axes in another order."""
    name = tflite_file.operator_name(model, operator)
    graph = model.subgraphs[0]
    others = [
        graph.tensors[int(index)] for index in operator.inputs if int(index) != tensor
    ]
    if name == "PAD":
        return (
            len(others) == 1
            and tflite_file.is_stored(model, others[0])
            and len(_numbers(model, others[0])) == 2 * len(order)
        )
    if name in _WITH_NUMBER:
        return (
            len(others) == 1
            and tflite_file.is_stored(model, others[0])
            and math.prod(int(dim) for dim in others[0].shape) == 1
        )
    return name in _ALIKE and not others


def _order(model: Any, operator: Any) -> list[int] | None:
    """How a TRANSPOSE orders the axes; None for any other operator."""
    if tflite_file.operator_name(model, operator) != "TRANSPOSE":
        return None
    held = model.subgraphs[0].tensors[int(operator.inputs[1])]
    return (
        [int(axis) for axis in _numbers(model, held)]
        if tflite_file.is_stored(model, held)
        else None
    )


def _numbers(model: Any, tensor: Any) -> Any:
    dtype = "int64" if tensor.type == schema.TensorType.INT64 else "int32"
    return numpy.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype)


def _stored(model: Any, tensor: Any, value: Any) -> int:
    """Add a constant; the number of its tensor."""
    buffer = schema.BufferT()
    buffer.data = numpy.frombuffer(value.tobytes(), "uint8")
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _readers(graph: Any) -> Mapping[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for operator in graph.operators:
        for index in {int(index) for index in operator.inputs}:
            found.setdefault(index, []).append(operator)
    return found


def _only(readers: Mapping[int, list[Any]], tensor: int) -> Any | None:
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 else None
