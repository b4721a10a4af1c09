"""What an ONNX graph requires of TensorRT: what TensorRT rejects, which layers must run in
which datatype, and their multiply-accumulates.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import onnx.helper
import onnx.shape_inference
from onnx import numpy_helper

from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import macs as onnx_macs
from edgekit.formats.tensorrt import nvidia

Row = dict[str, Any]

#: Operators that multiply and can run in int8; ConvTranspose never does (facts of
#: TensorRT-RTX 1.7.1).
_PROMISED = ("Conv", "Gemm", "MatMul")
_COUNTED = (*_PROMISED, "ConvTranspose")
#: Operators with many multiplications that are not counted.
_UNCOUNTED = ("LSTM", "GRU", "RNN", "Einsum")
#: Operators that only move data: a tensor stays quantized through them.
_MOVES = (
    "Transpose",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Identity",
)
REQUANTIZE = (
    "quantize with symmetric int8: zero point 0, weights and activations QInt8, biases left "
    "in float (the scheme w8a8-static, with limits.activations: symmetric in the target)"
)
_FREE_BATCH_ONLY = (
    "export with the batch (the first dimension) as the only free dimension"
)
#: The datatypes that TensorRT quantizes to, and its own names for them.
QUANTIZED: Mapping[int, str] = {
    onnx.TensorProto.INT8: "Int8",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.INT4: "Int4",
    onnx.TensorProto.FLOAT4E2M1: "FP4",
}
_FOUR_BITS = (onnx.TensorProto.INT4, onnx.TensorProto.FLOAT4E2M1)
#: The datatypes that only newer GPUs have, and their names in nvidia.MIN_CAPABILITY.
_NEWER: Mapping[int, str] = {
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.FLOAT4E2M1: "fp4",
    onnx.TensorProto.BFLOAT16: "bf16",
}


def require_supported(graph: onnx.GraphProto, name: str, step: str) -> None:
    """Raise one StepError with everything that TensorRT would reject or silently change:
    zero points, uint8, quantized biases, other operators, free dims.
    """
    free = list(_free_dims(graph))
    quantized = list(_quantization_problems(graph))
    fixes = []
    if free:
        fixes.append(_FREE_BATCH_ONLY)
    if quantized:
        fixes.append(REQUANTIZE)
    if fixes:
        problems = "\n  ".join(free + quantized)
        raise StepError(
            f"{step}: TensorRT does not support the graph of {name!r}:\n  {problems}",
            fix="; ".join(fixes),
        )


def require_capabilities(
    graph: onnx.GraphProto, name: str, capabilities: Sequence[str]
) -> None:
    """Raise StepError if one of the GPUs has no arithmetic for a datatype of the graph.

    TensorRT itself would report it only for the entire engine.
    """
    dtypes = {tensor.data_type for tensor in onnx_graph.stored(graph).values()}
    problems = []
    fixes = []
    for dtype, precision in _NEWER.items():
        if dtype not in dtypes:
            continue
        minimum = nvidia.MIN_CAPABILITY[precision]
        explanation = nvidia.explain_too_old(precision, minimum, capabilities)
        if explanation is not None:
            problems.append(explanation[0])
            fixes.append(explanation[1])
    if problems:
        raise StepError(
            f"onnx_to_tensorrt: {'; '.join(problems)}; the graph of {name!r} contains it.",
            fix="; ".join(dict.fromkeys(fixes)),
        )


def count_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of one sample, by TensorRT's node name.

    Counts each Conv, ConvTranspose, Gemm and MatMul whose shapes are known.
    """
    shapes = _infer_shapes(model)
    macs: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in _COUNTED:
            continue
        names = [*node.input[:2], node.output[0]]
        if not all(name in shapes for name in names):
            continue
        data, weights, output = (shapes[name] for name in names)
        run = onnx_macs.Run(inputs={0: data, 1: weights}, outputs=[output])
        macs[name_of(node)] += onnx_macs.count(node, run) or 0
    return dict(macs)


def _infer_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The static shapes of stored and computed tensors, with 1 for every free dim."""
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
        has_shape = value.type.tensor_type.HasField("shape")
        if has_shape and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = [dim.dim_value for dim in dims]
    return shapes


def name_of(node: onnx.NodeProto) -> str:
    """The name of a node in TensorRT's parser."""
    return node.name or f"node_of_{node.output[0]}"


def _free_dims(graph: onnx.GraphProto) -> Iterator[str]:
    stored = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [
            str(position)
            for position, dim in enumerate(dims)
            if position > 0 and not dim.HasField("dim_value")
        ]
        if free and value.name not in stored:
            yield (
                f"the input {value.name} has free dimensions other than the batch: "
                f"{', '.join(free)}"
            )


def profile_shapes(
    graph: onnx.GraphProto, batches: Sequence[Sequence[int]]
) -> list[dict[str, list[list[int]]]]:
    """The shapes of every input with a free batch, for each [min, opt, max] of the batch.

    Empty if no input has a free batch.
    """
    profiles = []
    for batch_sizes in batches:
        shapes = {}
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                continue
            shapes[value.name] = [
                _with_batch(dims, batch) for batch in batch_sizes
            ]
        if shapes:
            profiles.append(shapes)
    return profiles


def _with_batch(dims: Sequence[Any], batch: int) -> list[int]:
    return [
        dim.dim_value if dim.HasField("dim_value") else batch for dim in dims
    ]


def _quantization_problems(graph: onnx.GraphProto) -> Iterator[str]:
    """Why TensorRT does not support the graph's quantization.

    Empty for symmetric int8, fp8, 4-bit weights and an unquantized graph.
    """
    constants = onnx_graph.stored(graph)
    for node in onnx_graph.nodes(graph):
        if _is_integer_operator(node.op_type):
            yield (
                f"{name_of(node)}: {node.op_type} is an integer operator; TensorRT supports "
                "only pairs of QuantizeLinear and DequantizeLinear"
            )
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            problem = _zero_point_problem(node, constants)
            if problem:
                yield f"{name_of(node)}: {problem}"


def _is_integer_operator(op: str) -> bool:
    if op.startswith(("QLinear", "DynamicQuantize", "QGemm", "QAttention")):
        return True
    return op.endswith("Integer") or "IntegerTo" in op


def _zero_point_problem(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> str | None:
    data = constants.get(node.input[0])
    if data is not None and node.op_type == "DequantizeLinear":
        if data.data_type == onnx.TensorProto.INT32:
            return "a bias is quantized to int32"
        if data.data_type not in QUANTIZED:
            return (
                f"it stores {_dtype_name(data)}, not int8, float8e4m3fn or int4"
            )
    zero_point = node.input[2] if len(node.input) > 2 else ""
    if not zero_point:
        dtype = onnx_graph.attributes(node).get("output_dtype", 0)
        is_uint8 = node.op_type == "QuantizeLinear" and dtype not in QUANTIZED
        return "it has no zero point, which means uint8" if is_uint8 else None
    tensor = constants.get(zero_point)
    if tensor is None:
        return "its zero point is computed, not a constant"
    if tensor.data_type not in QUANTIZED:
        return f"its zero point is {_dtype_name(tensor)}, not int8"
    if numpy_helper.to_array(tensor).astype("float32").any():
        return "its zero point is not 0 (asymmetric)"
    return None


def _dtype_name(tensor: onnx.TensorProto) -> str:
    name: str = onnx.TensorProto.DataType.Name(tensor.data_type)
    return name.lower()


def describe_graph(model: onnx.ModelProto) -> Row:
    """What the graph is quantized to, which nodes must run in which datatype, and its
    multiply-accumulates, as in the build log and the recipe.
    """
    nodes = list(onnx_graph.nodes(model.graph))
    promised = _promised_dtypes(nodes, onnx_graph.stored(model.graph))
    quantized = any(node.op_type == "QuantizeLinear" for node in nodes)
    precision = "Int8" if quantized else ""
    for dtype in ("FP4", "Int4", "Int8", "FP8"):  # the last one counts
        if dtype in promised.values():
            precision = dtype
    return {
        "quantized": quantized,
        "precision": precision,
        "promised": promised,
        "node_macs": count_macs(model),
        "uncounted": sorted(
            {node.op_type for node in nodes if node.op_type in _UNCOUNTED}
        ),
    }


def _promised_dtypes(
    nodes: Sequence[onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> dict[str, str]:
    """Node name -> the datatype of its weights, for products of quantized data (Int8, FP8)
    and for products with 4-bit weights in blocks.
    """
    producers = {output: node for node in nodes for output in node.output}
    promised = {}
    for node in nodes:
        if node.op_type not in _PROMISED:
            continue
        data, weights = (
            _find_dequantize(producers, name) for name in node.input[:2]
        )
        # A product of two activations is not promised: TensorRT may fuse it into an
        # attention kernel.
        tensor = stored.get(weights.input[0]) if weights is not None else None
        if (
            weights is None
            or tensor is None
            or tensor.data_type not in QUANTIZED
        ):
            continue
        is_blocked = bool(onnx_graph.attributes(weights).get("block_size"))
        if data is not None or (is_blocked and tensor.data_type in _FOUR_BITS):
            promised[name_of(node)] = QUANTIZED[tensor.data_type]
    return promised


def _find_dequantize(
    producers: Mapping[str, onnx.NodeProto], name: str
) -> onnx.NodeProto | None:
    """The DequantizeLinear that a tensor comes from, through operators that move data."""
    node = producers.get(name)
    while node is not None and node.op_type in _MOVES:
        node = producers.get(node.input[0])
    return (
        node
        if node is not None and node.op_type == "DequantizeLinear"
        else None
    )
