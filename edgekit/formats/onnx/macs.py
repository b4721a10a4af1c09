"""Count the multiply-accumulates (MACs) of ONNX operators, and those on integers.

One MAC is a multiplication and an addition. Operators that do not multiply matrices have none.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx.helper

from edgekit.device_worker.tensors import itemsize

Shape = Sequence[int]
#: What ONNX Runtime's profile stores of one run of a node.
Event = Mapping[str, Any]

#: The position of a convolution's weights among its inputs.
_WEIGHTS = {
    "QLinearConv": 3,
    "Conv": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "ConvTranspose": 1,
    "ConvInteger": 1,
}
_INTEGER_PRODUCTS = {
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}
_PACKED = {"MatMulNBits", "MatMulBnb4"}
_PRODUCTS = {
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    *_INTEGER_PRODUCTS,
    *_PACKED,
}
#: Inputs 1 and 2 are the weights and the recurrent weights, both multiplied once per step and
#: sample.
_RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}
#: Attention that computes query, key and value: input 1 has the weights of all three.
_PROJECTING = {("Attention", "com.microsoft"), ("QAttention", "com.microsoft")}
#: Attention that reads query, key and value.
_ATTENTION = {
    ("MultiHeadAttention", "com.microsoft"),
    ("GroupQueryAttention", "com.microsoft"),
    ("Attention", ""),
}
#: Operators that multiply and accumulate.
COMPUTE = (
    _WEIGHTS.keys()
    | _PRODUCTS
    | _RECURRENT
    | {"Einsum"}
    | {op for op, _ in (*_PROJECTING, *_ATTENTION)}
)
#: Operators that multiply integers; of QAttention only the projection does.
INTEGER = {
    "QLinearConv",
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "QAttention",
    *_INTEGER_PRODUCTS,
}
#: MatMulNBits's accuracy_level that rounds activations to int8 and accumulates in integers.
INTEGER_LEVEL = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """The shapes that one run of a node reads and writes."""

    #: By position; an input that is left out, or whose shape is unknown, is missing.
    inputs: Mapping[int, Shape]
    outputs: Sequence[Shape]


def profiled_run(
    node: onnx.NodeProto, event: Event | None, stored: Mapping[str, Shape]
) -> Run | None:
    """Return the shapes of a run from ONNX Runtime's profile, or None if it has none.

    ``stored``: the shapes of the graph's stored tensors by name.
    """
    if (
        not event
        or not event["output_type_shape"]
        or not event["input_type_shape"]
    ):
        return None
    outputs = [_shape(entry) for entry in event["output_type_shape"]]
    return Run(_input_shapes(node, event, stored), outputs)


def count(
    node: onnx.NodeProto, run: Run | None, weights: Shape | None = None
) -> int | None:
    """Count the MACs of one run; None if shapes are unknown.

    ``weights`` is the original shape of a convolution's weights: ONNX Runtime's blocked layout
    fills them up with zeros.
    """
    if node.op_type not in COMPUTE:
        return 0
    if run is None:
        return None
    kind = (node.op_type, node.domain)
    if node.op_type in _WEIGHTS:
        return _convolution(node, run, weights)
    if node.op_type in _RECURRENT:
        return _recurrent(run)
    if node.op_type == "Einsum":
        return _einsum(node, run)
    if kind in _PROJECTING:
        return _projecting_attention(run)
    if kind in _ATTENTION:
        return _attention(run)
    return _product(node, run)


def count_integer(
    node: onnx.NodeProto, run: Run | None, weights: Shape | None = None
) -> int:
    """Count the MACs of one run that are on integers; 0 if shapes are unknown."""
    if run is None or not is_integer(node):
        return 0
    if (node.op_type, node.domain) in _PROJECTING:
        return _projection(run) or 0
    return count(node, run, weights) or 0


def is_integer(node: onnx.NodeProto) -> bool:
    """Whether the operator multiplies integers."""
    if node.op_type == "MatMulNBits":
        return bool(_attribute(node, "accuracy_level") == INTEGER_LEVEL)
    return node.op_type in INTEGER


def weights(node: onnx.NodeProto, stored: Mapping[str, Shape]) -> Shape:
    """Return the shape of a convolution's stored weights; empty for all other operators."""
    position = _WEIGHTS.get(node.op_type)
    if position is None or position >= len(node.input):
        return ()
    return stored.get(node.input[position], ())


def groups(node: onnx.NodeProto) -> int:
    """Return the number of groups of a convolution's channels; 1 for all other operators."""
    return int(_attribute(node, "group") or 1)


def moved_bytes(
    event: Event | None, node: onnx.NodeProto, stored: Mapping[str, Shape]
) -> tuple[int, int, int]:
    """Return the bytes of activations that one run reads and writes, and the bytes of stored
    weights that it reads; zeros if shapes are unknown.
    """
    if not event:
        return 0, 0, 0
    entries = event["input_type_shape"]
    size = itemsize(next(iter(entries[0]), "") if entries else "")
    read = held = 0
    for position, shape in _input_shapes(node, event, stored).items():
        if node.input[position] in stored:
            held += math.prod(shape)
        else:
            read += math.prod(shape)
    written = sum(
        math.prod(shape) * itemsize(dtype)
        for entry in event["output_type_shape"]
        for dtype, shape in entry.items()
    )
    return read * size, written, held * size


def _convolution(
    node: onnx.NodeProto, run: Run, original: Shape | None
) -> int | None:
    """Outputs times the weights of one output channel; for a transposed convolution inputs
    times the weights of one input channel.
    """
    data = run.inputs.get(0)
    stored = run.inputs.get(_WEIGHTS[node.op_type])
    if not stored:
        return None
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(stored[1:]) if data else None
    output = run.outputs[0]
    if node.domain == "com.microsoft.nchwc" and original:
        return math.prod(output) // output[1] * math.prod(original)
    return math.prod(output) * math.prod(stored[1:])


def _recurrent(run: Run) -> int | None:
    """Steps and samples times both weight tables."""
    data, table, recurrent = (run.inputs.get(position) for position in range(3))
    if not data or not table or not recurrent:
        return None
    return math.prod(data[:2]) * (math.prod(table) + math.prod(recurrent))


def _product(node: onnx.NodeProto, run: Run) -> int | None:
    """Outputs times the axis that is summed over."""
    data = run.inputs.get(0)
    if not data:
        return None
    summed = data[-2] if _attribute(node, "transA") else data[-1]
    return math.prod(run.outputs[0]) * summed


def _attention(run: Run) -> int | None:
    """Queries times keys, and scores times values: with as many keys as there are, those of
    earlier steps included if the operator outputs them.
    """
    query = run.inputs.get(0)
    key = run.inputs.get(1)
    if len(run.outputs) > 1 and len(run.outputs[1]) == 4:
        key = run.outputs[1]
    if not query or not key or len(key) < 3:
        return None
    return (math.prod(query) + math.prod(run.outputs[0])) * key[-2]


def _projecting_attention(run: Run) -> int | None:
    """The projection, and two float products of all tokens with all tokens."""
    projection = _projection(run)
    if projection is None:
        return None
    return projection + 2 * math.prod(run.outputs[0]) * run.inputs[0][1]


def _projection(run: Run) -> int | None:
    """Tokens times the weights of query, key and value."""
    tokens = run.inputs.get(0)
    table = run.inputs.get(1)
    if not tokens or not table or len(tokens) != 3:
        return None
    return math.prod(tokens[:2]) * math.prod(table)


def _einsum(node: onnx.NodeProto, run: Run) -> int | None:
    """The product of the sizes of all letters, once for each operand beyond the first."""
    equation = _attribute(node, "equation").decode().replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        shape = run.inputs.get(position, ())
        if len(shape) != len(term):  # an ellipsis, or an unknown shape
            return None
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values()) * (len(terms) - 1)


def _input_shapes(
    node: onnx.NodeProto, event: Event, stored: Mapping[str, Shape]
) -> dict[int, Shape]:
    """Return the shapes of the inputs by position.

    The profile lists neither inputs that are left out nor, in some versions, weights that were
    packed.
    """
    present = [position for position, name in enumerate(node.input) if name]
    computed = [
        position for position in present if node.input[position] not in stored
    ]
    listed = [_shape(entry) for entry in event["input_type_shape"]]
    positions = present
    if len(listed) != len(present) and len(listed) == len(computed):
        positions = computed
    shapes = dict(zip(positions, listed, strict=False))
    for position in present:
        if node.input[position] in stored:
            shapes[position] = stored[node.input[position]]
    return shapes


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    """Return the value of an attribute; 0 if it is not set."""
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return 0


def _shape(entry: Mapping[str, Shape]) -> Shape:
    """Return the only value of an entry; empty for a sequence or an optional."""
    return next(iter(entry.values()), ())
