"""How many multiply-accumulates an operator of an ONNX graph makes, and how many of them on
integers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx.helper

Shape = Sequence[int]
Event = Mapping[str, Any]

#: Where a convolution's weights are among its inputs.
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
_PRODUCTS = {"Gemm", "FusedGemm", "MatMul", "FusedMatMul", *_INTEGER_PRODUCTS, *_PACKED}
#: Their weights and recurrent weights are inputs 1 and 2; both are multiplied once a step
#: and sample.
_RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}
#: These make query, key and value themselves: input 1 holds the weights of all three.
_PROJECTING = {("Attention", "com.microsoft"), ("QAttention", "com.microsoft")}
#: These are given query, key and value.
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
#: Operators whose products are of integers; in QAttention the projection alone.
INTEGER = {
    "QLinearConv",
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "QAttention",
    *_INTEGER_PRODUCTS,
}
#: Bytes of one number of each type; 4 for what is not named.
_SIZES = {
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "double": 8,
}
#: MatMulNBits's accuracy_level that rounds activations to int8 and accumulates in integers.
INTEGER_LEVEL = 4


def is_integer(node: onnx.NodeProto) -> bool:
    """Whether the operator multiplies integers."""
    return node.op_type in INTEGER or (
        node.op_type == "MatMulNBits"
        and _attribute(node, "accuracy_level") == INTEGER_LEVEL
    )


def macs(
    node: onnx.NodeProto,
    event: Event | None,
    stored: Mapping[str, Shape],
    true: Shape | None = None,
) -> tuple[int | None, int]:
    """All multiply-accumulates of one run, and those on integers.

    None where shapes are not known.

    ``event`` is what the profile says of the run, ``true`` the true shape of a
    convolution's weights: those of ONNX Runtime's blocked layout are filled up with zeros.
    """
    if node.op_type not in COMPUTE:
        return 0, 0
    if not event or not event["output_type_shape"] or not event["input_type_shape"]:
        return None, 0
    made = [_shape(entry) for entry in event["output_type_shape"]]
    known = _inputs(node, event, stored)
    if (node.op_type, node.domain) in _PROJECTING:
        return _projecting(node, known, made[0])
    found = _float_or_not(node, known, made, true)
    return found, (found or 0) if is_integer(node) else 0


def weights(node: onnx.NodeProto, stored: Mapping[str, Shape]) -> Shape:
    """The shape of a convolution's stored weights as the node has them; empty for all else."""
    place = _WEIGHTS.get(node.op_type)
    return (
        stored.get(node.input[place], ())
        if place is not None and place < len(node.input)
        else ()
    )


def groups(node: onnx.NodeProto) -> int:
    """How many groups a convolution's channels are in; 1 for all else."""
    return int(_attribute(node, "group") or 1)


def moved(
    event: Event | None, node: onnx.NodeProto, stored: Mapping[str, Shape]
) -> tuple[int, int, int]:
    """Bytes that one run reads and writes while the network runs, and bytes of stored
    weights; zeros where shapes are not known.
    """
    if not event:
        return 0, 0, 0
    kinds = [next(iter(entry), "") for entry in event["input_type_shape"]]
    size = _SIZES.get(kinds[0] if kinds else "", 4)
    known = _inputs(node, event, stored)
    read = sum(
        math.prod(shape)
        for place, shape in known.items()
        if node.input[place] not in stored
    )
    held = sum(
        math.prod(shape) for place, shape in known.items() if node.input[place] in stored
    )
    written = sum(
        math.prod(shape) * _SIZES.get(kind, 4)
        for entry in event["output_type_shape"]
        for kind, shape in entry.items()
    )
    return read * size, written, held * size


def _float_or_not(
    node: onnx.NodeProto,
    known: Mapping[int, Shape],
    made: Sequence[Shape],
    true: Shape | None,
) -> int | None:
    read = known.get(0)
    if node.op_type in _WEIGHTS:
        return _convolution(node, read, known.get(_WEIGHTS[node.op_type]), made[0], true)
    if node.op_type in _RECURRENT:
        tables = [known.get(1), known.get(2)]
        return (
            math.prod(read[:2]) * sum(math.prod(table) for table in tables if table)
            if read and all(tables)
            else None
        )
    if node.op_type == "Einsum":
        return _einsum(node, known)
    if (node.op_type, node.domain) in _ATTENTION:
        key = (
            made[1] if len(made) > 1 and len(made[1]) == 4 else known.get(1)
        )  # the keys with those of earlier steps, where they are given out
        return (
            (math.prod(read) + math.prod(made[0])) * key[-2]
            if read and key and len(key) > 2
            else None
        )
    return (
        math.prod(made[0]) * (read[-2] if _attribute(node, "transA") else read[-1])
        if read
        else None
    )


def _convolution(
    node: onnx.NodeProto,
    read: Shape | None,
    weight: Shape | None,
    made: Shape,
    true: Shape | None,
) -> int | None:
    """Outputs times the weights of one output channel; for a transposed one inputs times
    the weights of one input channel.
    """
    if not weight:
        return None
    if node.op_type == "ConvTranspose":
        return math.prod(read) * math.prod(weight[1:]) if read else None
    if node.domain == "com.microsoft.nchwc" and true:
        return math.prod(made) // made[1] * true[0] * math.prod(true[1:])
    return math.prod(made) * math.prod(weight[1:])


def _projecting(
    node: onnx.NodeProto, known: Mapping[int, Shape], made: Shape
) -> tuple[int | None, int]:
    """Tokens times the weights, and two products of all tokens with all tokens, which are
    in float.
    """
    read, weights = known.get(0), known.get(1)
    if not read or not weights or len(read) != 3:
        return None, 0
    projection = math.prod(read[:2]) * math.prod(weights)
    return projection + 2 * math.prod(made) * read[1], projection if is_integer(node) else 0


def _einsum(node: onnx.NodeProto, known: Mapping[int, Shape]) -> int | None:
    """The product of the sizes of all letters, once for each operand beyond the first."""
    terms = (
        _attribute(node, "equation").decode().replace(" ", "").partition("->")[0].split(",")
    )
    sizes: dict[str, int] = {}
    for place, term in enumerate(terms):
        if len(known.get(place, ())) != len(
            term
        ):  # an ellipsis, or a shape that is not known
            return None
        sizes.update(zip(term, known[place], strict=True))
    return math.prod(sizes.values()) * (len(terms) - 1)


def _inputs(
    node: onnx.NodeProto, event: Event, stored: Mapping[str, Shape]
) -> dict[int, Shape]:
    """The shapes of the inputs by place.

    The profile leaves out inputs that are not given, and weights that were packed.
    """
    given = [place for place, name in enumerate(node.input) if name]
    computed = [place for place in given if node.input[place] not in stored]
    told = [_shape(entry) for entry in event["input_type_shape"]]
    places = (
        given
        if len(told) == len(given)
        else computed
        if len(told) == len(computed)
        else given[: len(told)]
    )
    return {
        **dict(zip(places, told, strict=False)),
        **{
            place: stored[node.input[place]]
            for place in given
            if node.input[place] in stored
        },
    }


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(
        (
            onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
            if attribute.name == name
        ),
        0,
    )


def _shape(entry: Mapping[str, Shape]) -> Shape:
    """The only value of an entry; a sequence or an optional has none."""
    return next(iter(entry.values()), ())
