"""The published rules of the Edge TPU, one by one, on TFLite files of one operator."""

import dataclasses
import pathlib
import re
from typing import Any

import numpy
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit.formats.edgetpu.mapper import (
    DTYPE,
    LIMITATION,
    MAPPED,
    RANK,
    UNSUPPORTED,
    VERSION,
    judge,
)
from edgekit.formats.edgetpu.rules import FIXES, RULES, VERSIONS
from edgekit.formats.tflite import graph as tflite_graph


@dataclasses.dataclass
class T:
    """A tensor of a file: its shape, its dtype, and its numbers if they are stored."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    data: Any = None
    zero: int = 0


def file(
    path: pathlib.Path,
    op: str,
    inputs: list[T],
    output: T,
    version: int = 1,
    **options: Any,
) -> pathlib.Path:
    """Write a TFLite file of one operator."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = [add_tensor(model, spec) for spec in (*inputs, output)]
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs = list(range(len(inputs)))
    operator.outputs = [len(inputs)]
    if options:
        name = options.pop("kind")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        operator.builtinOptions = getattr(schema, name + "T")()
        for key, value in options.items():
            setattr(operator.builtinOptions, key, value)
    graph.operators = [operator]
    graph.inputs = [k for k, spec in enumerate(inputs) if spec.data is None]
    graph.outputs = [len(inputs)]
    model.operatorCodes = [code]
    model.subgraphs = [graph]
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path


def add_tensor(model: Any, spec: T) -> Any:
    """A tensor, and its numbers as a new buffer of the model if they are stored."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = b"t", list(spec.shape), 0
    tensor.type = getattr(schema.TensorType, spec.dtype.upper())
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = (
        [0.1],
        [spec.zero],
    )
    if spec.data is not None:
        values = numpy.broadcast_to(
            numpy.asarray(spec.data, spec.dtype), spec.shape
        )
        buffer = schema.BufferT()
        buffer.data = numpy.frombuffer(values.tobytes(), "uint8")
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    return tensor


def ints(*values: int, shape: tuple[int, ...] | None = None) -> T:
    return T(
        shape or (len(values),),
        "int32",
        numpy.reshape(values, shape or (len(values),)),
    )


IMAGE, ROW, WIDE = T((1, 4, 4, 8)), T((1, 10)), T((1, 2, 10))
FILTER, BIAS = T((8, 3, 3, 8), data=1), T((8,), "int32", 1)
COMPUTED = T((2,), "int32")
CONV, POOL = {"kind": "Conv2DOptions"}, {"kind": "Pool2DOptions"}
JOIN, STRIDED = (
    {"kind": "ConcatenationOptions", "axis": 3},
    {"kind": "StridedSliceOptions"},
)
FULL = {"kind": "FullyConnectedOptions"}
TABLE: list[tuple[str, list[T], T, dict[str, Any], str, str]] = [
    ("ADD", [IMAGE, IMAGE], IMAGE, {}, MAPPED, ""),
    ("ADD", [T((1, 4), "float32"), IMAGE], IMAGE, {}, DTYPE, "float32"),
    ("ADD", [T((1, 4), "int16"), IMAGE], IMAGE, {}, DTYPE, "int16"),
    ("ADD", [T((2, 4, 4, 8)), IMAGE], IMAGE, {}, RANK, r"\[2, 4, 4, 8\]"),
    ("ADD", [T((1, 1, 4, 4, 8)), IMAGE], IMAGE, {}, MAPPED, ""),
    ("ADD", [T((1, 4, 4, 8), "uint8"), IMAGE], IMAGE, {}, MAPPED, ""),
    (
        "ADD",
        [IMAGE, IMAGE],
        IMAGE,
        {"version": 6},
        VERSION,
        "version 6, the compiler supports up to 4",
    ),
    ("AVERAGE_POOL_2D", [IMAGE], IMAGE, POOL, MAPPED, ""),
    (
        "AVERAGE_POOL_2D",
        [IMAGE],
        IMAGE,
        {**POOL, "fusedActivationFunction": 1},
        LIMITATION,
        "fused activation",
    ),
    ("MAX_POOL_2D", [IMAGE], IMAGE, POOL, MAPPED, ""),
    (
        "MAX_POOL_2D",
        [IMAGE],
        IMAGE,
        {**POOL, "fusedActivationFunction": 3},
        LIMITATION,
        "fused activation",
    ),
    ("CONCATENATION", [IMAGE, IMAGE], IMAGE, JOIN, MAPPED, ""),
    (
        "CONCATENATION",
        [IMAGE, IMAGE],
        IMAGE,
        {**JOIN, "fusedActivationFunction": 1},
        LIMITATION,
        "fused activation",
    ),
    ("CONCATENATION", [IMAGE, T((1, 4, 4, 8), data=5, zero=5)], IMAGE, JOIN, MAPPED, ""),
    ("CONCATENATION", [IMAGE, T((1, 4, 4, 8), data=-3, zero=-3)], IMAGE, JOIN, MAPPED, ""),
    (
        "CONCATENATION",
        [IMAGE, T((1, 4, 4, 8), data=0, zero=5)],
        IMAGE,
        JOIN,
        LIMITATION,
        "only as zeros",
    ),
    (
        "CONCATENATION",
        [IMAGE, IMAGE, T((1, 4, 4, 8), data=0)],
        IMAGE,
        JOIN,
        LIMITATION,
        "only as zeros, one of two",
    ),
    ("CONV_2D", [IMAGE, FILTER, BIAS], IMAGE, {**CONV, "version": 6}, MAPPED, ""),
    (
        "CONV_2D",
        [IMAGE, FILTER, BIAS],
        IMAGE,
        {**CONV, "dilationHFactor": 2, "dilationWFactor": 2},
        MAPPED,
        "",
    ),
    (
        "CONV_2D",
        [IMAGE, FILTER, BIAS],
        IMAGE,
        {**CONV, "dilationHFactor": 2},
        LIMITATION,
        "dilations",
    ),
    ("CONV_2D", [IMAGE, T((8, 3, 3, 8)), BIAS], IMAGE, CONV, LIMITATION, "input 1 is computed"),
    ("CONV_2D", [IMAGE, FILTER, T((8,), "int32")], IMAGE, CONV, LIMITATION, "input 2 is computed"),
    (
        "DEPTHWISE_CONV_2D",
        [IMAGE, FILTER, BIAS],
        IMAGE,
        {"kind": "DepthwiseConv2DOptions"},
        MAPPED,
        "",
    ),
    (
        "DEPTHWISE_CONV_2D",
        [IMAGE, FILTER, BIAS],
        IMAGE,
        {"kind": "DepthwiseConv2DOptions", "dilationWFactor": 3},
        LIMITATION,
        "dilations",
    ),
    ("DEQUANTIZE", [IMAGE], T((1, 4, 4, 8), "float32"), {}, DTYPE, "float32"),
    ("EXPAND_DIMS", [ROW, ints(1)], T((1, 1, 10)), {}, MAPPED, ""),
    ("FULLY_CONNECTED", [ROW, FILTER, BIAS], ROW, FULL, MAPPED, ""),
    ("FULLY_CONNECTED", [ROW, FILTER, BIAS], WIDE, FULL, LIMITATION, "single row"),
    (
        "FULLY_CONNECTED",
        [ROW, FILTER, BIAS],
        ROW,
        {**FULL, "weightsFormat": 1},
        LIMITATION,
        "shuffled",
    ),
    ("FULLY_CONNECTED", [ROW, ROW, BIAS], ROW, FULL, LIMITATION, "input 1 is computed"),
    (
        "FULLY_CONNECTED",
        [ROW, FILTER, BIAS],
        ROW,
        {**FULL, "version": 12},
        VERSION,
        "supports up to 9",
    ),
    ("L2_NORMALIZATION", [ROW], ROW, {}, MAPPED, ""),
    ("LOGISTIC", [IMAGE], IMAGE, {}, MAPPED, ""),
    ("MAXIMUM", [IMAGE, IMAGE], IMAGE, {}, MAPPED, ""),
    ("MINIMUM", [IMAGE, IMAGE], IMAGE, {}, MAPPED, ""),
    ("MUL", [IMAGE, IMAGE], IMAGE, {}, MAPPED, ""),
    ("SUB", [IMAGE, IMAGE], IMAGE, {}, MAPPED, ""),
    ("MEAN", [IMAGE, ints(1, 2)], T((1, 8)), {}, MAPPED, ""),
    ("MEAN", [T((1, 4, 4, 6)), ints(-1)], T((1, 4, 4)), {}, LIMITATION, "not a multiple of 4"),
    ("MEAN", [T((4, 1, 1, 8)), ints(0)], T((1, 8)), {}, RANK, ""),
    ("MEAN", [T((4, 8)), ints(0)], T((8,)), {}, LIMITATION, "batch"),
    ("MEAN", [IMAGE, COMPUTED], T((1, 8)), {}, LIMITATION, "input 1 is computed"),
    ("MEAN", [T((1, 256, 128, 4)), ints(1, 2)], T((1, 4)), {}, LIMITATION, "so many elements"),
    ("REDUCE_MAX", [IMAGE, ints(1, 2)], T((1, 8)), {}, MAPPED, ""),
    ("REDUCE_MIN", [T((4, 8)), ints(0)], T((8,)), {}, LIMITATION, "batch"),
    ("SUM", [IMAGE, ints(1)], T((1, 4, 8)), {}, MAPPED, ""),
    ("PACK", [ROW, ROW], T((1, 2, 10)), {"kind": "PackOptions", "axis": 1}, MAPPED, ""),
    (
        "PACK",
        [ROW, ROW],
        T((2, 1, 10)),
        {"kind": "PackOptions", "axis": 0},
        LIMITATION,
        "along the batch",
    ),
    (
        "PACK",
        [ROW, ROW],
        T((2, 1, 10)),
        {"kind": "PackOptions", "axis": -3},
        LIMITATION,
        "along the batch",
    ),
    ("PAD", [IMAGE, ints(0, 0, 1, 1, 1, 1, 0, 0, shape=(4, 2))], T((1, 6, 6, 8)), {}, MAPPED, ""),
    (
        "PAD",
        [IMAGE, ints(1, 0, 0, 0, 0, 0, 0, 0, shape=(4, 2))],
        T((1, 4, 4, 8)),
        {},
        LIMITATION,
        "pads the batch",
    ),
    ("PAD", [IMAGE, T((4, 2), "int32")], IMAGE, {}, LIMITATION, "input 1 is computed"),
    (
        "PADV2",
        [IMAGE, ints(0, 0, 1, 1, 1, 1, 0, 0, shape=(4, 2)), T((1,), data=-128)],
        IMAGE,
        {},
        UNSUPPORTED,
        "PADV2",
    ),
    ("PRELU", [IMAGE, T((1, 1, 8), data=3)], IMAGE, {}, MAPPED, ""),
    ("PRELU", [IMAGE, T((1, 4, 8), data=3)], IMAGE, {}, LIMITATION, "alpha"),
    ("QUANTIZE", [T((1, 4), "uint8")], T((1, 4)), {}, MAPPED, ""),
    ("QUANTIZE", [T((1, 4), "float32")], T((1, 4)), {}, LIMITATION, "floats"),
    ("QUANTIZE", [T((1, 4))], T((1, 4), "int16"), {}, DTYPE, "int16"),
    ("RELU", [IMAGE], IMAGE, {}, MAPPED, ""),
    ("RELU6", [IMAGE], IMAGE, {}, MAPPED, ""),
    ("RELU_N1_TO_1", [IMAGE], IMAGE, {}, MAPPED, ""),
    ("RELU_0_TO_1", [IMAGE], IMAGE, {}, UNSUPPORTED, ""),
    ("RESHAPE", [IMAGE, ints(1, 128)], T((1, 128)), {}, MAPPED, ""),
    ("RESHAPE", [IMAGE], T((1, 128)), {}, MAPPED, ""),
    ("RESHAPE", [IMAGE, COMPUTED], T((1, 128)), {}, LIMITATION, "input 1 is computed"),
    ("RESHAPE", [T((1, 4, 4, 8)), ints(2, 2, 4, 8)], T((2, 2, 4, 8)), {}, RANK, ""),
    ("RESIZE_BILINEAR", [IMAGE, ints(8, 8)], T((1, 8, 8, 8)), {}, MAPPED, "may stay on the CPU"),
    (
        "RESIZE_NEAREST_NEIGHBOR",
        [IMAGE, ints(8, 8)],
        T((1, 8, 8, 8)),
        {},
        MAPPED,
        "may stay on the CPU",
    ),
    ("SLICE", [IMAGE, ints(0, 0, 0, 0), ints(1, 2, 2, 8)], T((1, 2, 2, 8)), {}, MAPPED, ""),
    (
        "SLICE",
        [IMAGE, COMPUTED, ints(1, 2, 2, 8)],
        T((1, 2, 2, 8)),
        {},
        LIMITATION,
        "input 1 is computed",
    ),
    ("SOFTMAX", [ROW], ROW, {}, MAPPED, ""),
    ("SOFTMAX", [T((1, 20_000))], T((1, 20_000)), {}, LIMITATION, "16000"),
    ("SOFTMAX", [WIDE], WIDE, {}, LIMITATION, "single row"),
    ("SPACE_TO_DEPTH", [IMAGE], T((1, 2, 2, 32)), {}, MAPPED, ""),
    ("SPLIT", [ints(3), IMAGE], T((1, 4, 4, 4)), {}, MAPPED, ""),
    ("SPLIT", [ints(0), T((2, 8))], T((1, 8)), {}, LIMITATION, "splits the batch"),
    ("SQUEEZE", [T((1, 1, 1, 8))], T((1, 8)), {}, MAPPED, ""),
    (
        "STRIDED_SLICE",
        [IMAGE, ints(0, 0, 0, 0), ints(1, 2, 2, 8), ints(1, 1, 1, 1)],
        T((1, 2, 2, 8)),
        STRIDED,
        MAPPED,
        "",
    ),
    (
        "STRIDED_SLICE",
        [IMAGE, ints(0, 0, 0, 0), ints(1, 4, 4, 8), ints(1, 2, 2, 1)],
        T((1, 2, 2, 8)),
        STRIDED,
        LIMITATION,
        "strides",
    ),
    (
        "STRIDED_SLICE",
        [IMAGE, ints(0), ints(1), ints(1)],
        IMAGE,
        {**STRIDED, "newAxisMask": 1},
        LIMITATION,
        "new-axis",
    ),
    ("TANH", [IMAGE], IMAGE, {}, MAPPED, ""),
    (
        "TRANSPOSE",
        [IMAGE, ints(0, 3, 1, 2)],
        T((1, 8, 4, 4)),
        {},
        LIMITATION,
        "compiler 16 maps some",
    ),
    ("TRANSPOSE_CONV", [ints(1, 8, 8, 8), FILTER, IMAGE, BIAS], T((1, 8, 8, 8)), {}, MAPPED, ""),
    (
        "TRANSPOSE_CONV",
        [T((4,), "int32"), FILTER, IMAGE, BIAS],
        T((1, 8, 8, 8)),
        {},
        LIMITATION,
        "input 0 is computed",
    ),
    ("UNIDIRECTIONAL_SEQUENCE_LSTM", [WIDE], WIDE, {}, MAPPED, ""),
    ("LEAKY_RELU", [IMAGE], IMAGE, {}, UNSUPPORTED, ""),
    ("HARD_SWISH", [IMAGE], IMAGE, {}, UNSUPPORTED, ""),
    ("GELU", [IMAGE], IMAGE, {}, UNSUPPORTED, ""),
    ("BATCH_MATMUL", [WIDE, WIDE], WIDE, {}, UNSUPPORTED, ""),
    ("DEPTH_TO_SPACE", [IMAGE], IMAGE, {}, UNSUPPORTED, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    range(len(TABLE)),
    ids=[f"{row[0]}-{row[5] or row[4].split()[0]}" for row in TABLE],
)
def test_each_rule(row: int, tmp_path: pathlib.Path) -> None:
    """A single operator gets the compiler's status and a reason."""
    op, inputs, output, options, status, reason = TABLE[row]
    result = judge(
        tflite_graph.read(
            file(tmp_path / "one.tflite", op, inputs, output, **options)
        ).operators[0]
    )
    assert result.status == status
    assert re.search(reason, result.reason)
    assert result.reason or status == MAPPED


def test_doubtful_operators_count_for_the_upper_end(
    tmp_path: pathlib.Path,
) -> None:
    """Some compilers map transposes and large means, so the optimistic prediction maps them."""
    for op, inputs, output in (
        ("TRANSPOSE", [IMAGE, ints(0, 3, 1, 2)], T((1, 8, 4, 4))),
        ("MEAN", [T((1, 256, 128, 4)), ints(1, 2)], T((1, 4))),
    ):
        (operator,) = tflite_graph.read(
            file(tmp_path / "one.tflite", op, inputs, output)
        ).operators
        assert (
            judge(operator).status,
            judge(operator, optimistic=True).status,
        ) == (
            LIMITATION,
            MAPPED,
        )


def test_the_tables_agree() -> None:
    """Each rule has a source, a newest version and a row in the test above; each fix is for
    an operator that is rejected.
    """
    assert all(rule.source for rule in RULES.values())
    assert RULES.keys() == VERSIONS.keys()
    assert RULES.keys() <= {row[0] for row in TABLE}
    assert not FIXES.keys() & {
        op
        for op, rule in RULES.items()
        if rule.doubt is None and op not in ("SOFTMAX", "DEQUANTIZE")
    }
