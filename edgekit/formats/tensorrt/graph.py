"""What an ONNX graph asks of TensorRT: what it refuses, which layers must run in which
datatype, how much work each is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import numpy_helper

from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt import nvidia

Row = dict[str, Any]

#: Operators that multiply and add; ConvTranspose never runs in int8 (facts of TensorRT-RTX
#: 1.7.1).
_PROMISED = ("Conv", "Gemm", "MatMul")
#: Operators with many multiplications that are not counted.
_UNCOUNTED = ("LSTM", "GRU", "RNN", "Einsum")
#: Operators that only move numbers: a tensor stays quantized through them.
_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Identity")
REQUANTIZE = (
    "quantize with symmetric int8: zero point 0, weights and activations QInt8, biases left in float "
    "(the scheme w8a8-static, with limits.activations: symmetric in the target)"
)
#: The datatypes that TensorRT quantizes to, and its own words for them.
QUANTIZED: Mapping[int, str] = {
    onnx.TensorProto.INT8: "Int8",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.INT4: "Int4",
    onnx.TensorProto.FLOAT4E2M1: "FP4",
}
#: The datatypes that only newer GPUs have, and their names in
#: edgekit/formats/tensorrt/nvidia.py.
_NEWER: Mapping[int, str] = {
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.FLOAT4E2M1: "fp4",
    onnx.TensorProto.BFLOAT16: "bf16",
}

#: TensorRT's words in the user's.
WORDS = {
    "Int8": "int8",
    "FP8": "fp8",
    "Int4": "in 4-bit weights",
    "FP4": "in 4-bit float weights",
}


def refuse(graph: onnx.GraphProto, name: str, step: str) -> None:
    """Raise StepError with all that TensorRT would refuse, or silently change: zero points,
    uint8, quantized biases, other operators, free dims.
    """
    free, quantized = list(_free_dims(graph)), list(_quantization_problems(graph))
    if free or quantized:
        listing = "\n  ".join(free + quantized)
        fixes = [
            "export with the batch (the first dimension) as the only free dimension"
        ] * bool(free) + [REQUANTIZE] * bool(quantized)
        raise StepError(
            f"{step}: TensorRT cannot take the graph of {name!r}:\n  {listing}",
            fix="; ".join(fixes),
        )


def count_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of one sample, for each Conv, ConvTranspose, Gemm and MatMul
    whose shapes are known.
    """
    static = onnx.ModelProto()
    static.CopyFrom(model)
    del static.graph.value_info[:]
    for value in (*static.graph.input, *static.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(static, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") for dim in dims
        ):
            shapes[value.name] = [dim.dim_value for dim in dims]
    found: dict[str, int] = {}
    for node in graph.node:
        names = (
            [*node.input[:2], node.output[0]]
            if node.op_type in (*_PROMISED, "ConvTranspose")
            else []
        )
        if names and all(name in shapes for name in names):
            found[name_of(node)] = found.get(name_of(node), 0) + _macs(
                node, *(shapes[name] for name in names)
            )
    return found


def _macs(
    node: onnx.NodeProto, data: list[int], weights: list[int], output: list[int]
) -> int:
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weights[1:])
    if node.op_type == "Gemm":
        transposed = any(
            attribute.name == "transA" and attribute.i for attribute in node.attribute
        )
        return math.prod(output) * data[0 if transposed else 1]
    return math.prod(output) * data[-1]


def name_of(node: onnx.NodeProto) -> str:
    """The name that TensorRT's parser gives to a node."""
    return node.name or f"node_of_{node.output[0]}"


def _free_dims(graph: onnx.GraphProto) -> Iterator[str]:
    held = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        free = [
            k
            for k, dim in enumerate(value.type.tensor_type.shape.dim)
            if k > 0 and not dim.HasField("dim_value")
        ]
        if free and value.name not in held:
            yield f"the input {value.name} has free dimensions beside the batch: {', '.join(map(str, free))}"


def profiles(
    graph: onnx.GraphProto, batches: Sequence[Sequence[int]]
) -> list[dict[str, list[list[int]]]]:
    """For each [min, opt, max] of the batch the shapes of the inputs with a free batch;
    nothing where no input has one.
    """
    found = []
    for row in batches:
        shapes = {}
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            if any(not dim.HasField("dim_value") for dim in dims):
                shapes[value.name] = [
                    [dim.dim_value if dim.HasField("dim_value") else batch for dim in dims]
                    for batch in row
                ]
        found += [shapes] if shapes else []
    return found


def refuse_old(graph: onnx.GraphProto, name: str, capabilities: Sequence[str]) -> None:
    """Raise StepError where one of the GPUs has no arithmetic for a datatype of the graph,
    before TensorRT says so of the whole engine.
    """
    held = {tensor.data_type for tensor in onnx_graph.stored(graph).values()}
    refusals = [
        nvidia.too_old(word, nvidia.LEAST[word], capabilities)
        for kind, word in _NEWER.items()
        if kind in held
    ]
    told = [refusal for refusal in refusals if refusal]
    if told:
        said, fixes = zip(*told, strict=True)
        raise StepError(
            f"onnx_to_tensorrt: {'; '.join(said)}; the graph of {name!r} holds it.",
            fix="; ".join(dict.fromkeys(fixes)),
        )


def _quantization_problems(graph: onnx.GraphProto) -> Iterator[str]:
    """Why TensorRT cannot take the graph's quantization; nothing for symmetric int8, fp8,
    4-bit weights, or an unquantized graph.
    """
    constants = onnx_graph.stored(graph)
    for node in onnx_graph.nodes(graph):
        word = node.op_type
        if (
            word.startswith(("QLinear", "DynamicQuantize", "QGemm", "QAttention"))
            or word.endswith("Integer")
            or "IntegerTo" in word
        ):
            yield f"{name_of(node)}: {word} computes in integers of its own; TensorRT takes QuantizeLinear and DequantizeLinear pairs only"
        elif word in ("QuantizeLinear", "DequantizeLinear"):
            problem = _zero_point_problem(node, constants)
            if problem:
                yield f"{name_of(node)}: {problem}"


def _zero_point_problem(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> str | None:
    data = constants.get(node.input[0])
    given = [*node.input, "", ""][2]  # the third input may be left out
    if (
        node.op_type == "DequantizeLinear"
        and data is not None
        and data.data_type == onnx.TensorProto.INT32
    ):
        return "a bias is quantized to int32"
    if (
        data is not None
        and node.op_type == "DequantizeLinear"
        and data.data_type not in QUANTIZED
    ):
        return f"it holds {_word(data)}, not int8, float8e4m3fn or int4"
    if not given:
        declared = next(
            (
                attribute.i
                for attribute in node.attribute
                if attribute.name == "output_dtype"
            ),
            0,
        )
        implied = node.op_type == "QuantizeLinear" and declared not in QUANTIZED
        return "it has no zero point, which means uint8" if implied else None
    point = constants.get(given)
    if point is None:
        return "its zero point is computed, not a constant"
    if point.data_type not in QUANTIZED:
        return f"its zero point is {_word(point)}, not int8"
    return (
        "its zero point is not 0 (asymmetric)"
        if numpy_helper.to_array(point).astype("float32").any()
        else None
    )


def _word(tensor: onnx.TensorProto) -> str:
    word: str = onnx.TensorProto.DataType.Name(tensor.data_type)
    return word.lower()


def facts(model: onnx.ModelProto) -> Row:
    """What the graph says: what it is quantized to, which nodes must then run in which
    datatype, and its multiply-accumulates.
    """
    nodes = list(onnx_graph.nodes(model.graph))
    promised = _promised(nodes, onnx_graph.stored(model.graph))
    quantized = any(node.op_type == "QuantizeLinear" for node in nodes)
    precision = next(
        (word for word in ("FP8", "Int8", "Int4", "FP4") if word in promised.values()),
        "Int8" if quantized else "",
    )
    return {
        "quantized": quantized,
        "precision": precision,
        "promised": promised,
        "node_macs": count_macs(model),
        "uncounted": sorted({node.op_type for node in nodes if node.op_type in _UNCOUNTED}),
    }


def _promised(
    nodes: list[onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> dict[str, str]:
    """Node name -> the datatype of its weights, for products of quantized data (Int8, FP8)
    and for products with 4-bit weights in blocks.
    """
    producers = {output: node for node in nodes for output in node.output}

    def source(name: str) -> onnx.NodeProto | None:
        node = producers.get(name)
        while node is not None and node.op_type in _MOVES:
            node = producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    found = {}
    for node in nodes:
        data, weights = (
            [source(name) for name in node.input[:2]]
            if node.op_type in _PROMISED
            else (None, None)
        )
        # A product of two activations is not promised: TensorRT may fuse it into an
        # attention kernel.
        tensor = stored.get(weights.input[0]) if weights is not None else None
        if weights is None or tensor is None or tensor.data_type not in QUANTIZED:
            continue
        blocked = any(
            attribute.name == "block_size" and attribute.i
            for attribute in weights.attribute
        )
        if data is not None or (
            blocked
            and tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.FLOAT4E2M1)
        ):
            found[name_of(node)] = QUANTIZED[tensor.data_type]
    return found
