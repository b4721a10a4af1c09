"""Find what can be quantized after export: linear layers in every form that exporters
write, embedding tables, and the reason why other operators stay float.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import onnx

from edgekit.arrays import Array
from edgekit.artifact import MAIN
from edgekit.errors import StepError, suggest
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import Edit

#: A smaller weight saves less than the nodes around it cost.
SMALLEST_WEIGHT = 1024
#: Elements of an embedding table that is worth int8 rows (64 kB of float).
SMALLEST_TABLE = 16384
#: The reason for operators in the modules that the user listed.
KEPT = "it is in a module to keep in float"
#: Operators of a file that is already quantized.
QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulNBits",
    "QGemm",
    "GatherBlockQuantized",
}


@dataclasses.dataclass(frozen=True)
class Linear:
    """``input @ weight + bias``, and the nodes that compute it."""

    module: str
    input: str
    output: str
    #: float32 [inputs, outputs]
    weight: Array
    #: float32 [outputs]
    bias: Array | None
    nodes: tuple[onnx.NodeProto, ...]


@dataclasses.dataclass(frozen=True)
class FloatOperator:
    """An operator with weights that stays in float, and why."""

    op: str
    module: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """Return the entry of a report."""
        return dataclasses.asdict(self)


def refuse_quantized(graph: onnx.GraphProto, name: str) -> None:
    """Raise StepError if the graph has quantized operators or 16-bit weights."""
    operators = [
        node.op_type for node in graph.node if node.op_type in QUANTIZED
    ]
    half = any(
        tensor.data_type == onnx.TensorProto.FLOAT16
        for tensor in graph.initializer
    )
    if operators or half:
        sign = operators[0] if operators else "16-bit weights"
        raise StepError(
            f"{name} is already quantized ({sign}).",
            fix="quantize once; start from the float file",
        )


def paths_in_part(keep: Iterable[str], part: str) -> tuple[str, ...]:
    """Return the modules to keep in float that belong to one part, as paths in its network."""
    if part == MAIN:
        return tuple(keep)
    prefix = f"{part}."
    return tuple(
        path.removeprefix(prefix) for path in keep if path.startswith(prefix)
    )


def refuse_unknown(
    keep: Iterable[str], graphs: Mapping[str, onnx.GraphProto]
) -> None:
    """Raise StepError if a path to keep in float matches no module of these parts."""
    modules = {
        part: {onnx_graph.module(node) for node in graph.node}
        for part, graph in graphs.items()
    }
    for path in keep:
        if not _matches_any(path, modules):
            raise StepError(
                f"No operator of the file belongs to the module {path!r}, which is to be"
                f" kept in float. {suggest(path, _module_paths(modules))}",
                fix="name modules as network.named_modules() does",
            )


def _matches_any(path: str, modules: Mapping[str, set[str]]) -> bool:
    return any(
        is_within(module, paths_in_part([path], part))
        for part, paths in modules.items()
        for module in paths
    )


def _module_paths(modules: Mapping[str, set[str]]) -> list[str]:
    return [
        path if part == MAIN else f"{part}.{path}"
        for part, paths in modules.items()
        for path in sorted(paths)
        if path
    ]


def find_linears(
    edit: Edit, keep: Iterable[str]
) -> tuple[list[Linear], list[FloatOperator]]:
    """Return the linear layers that can be quantized, in the graph's order, and the operators
    with weights that cannot.
    """
    layers: list[Linear] = []
    left: list[FloatOperator] = []
    for node in edit.graph.node:
        layer = _read(node, edit)
        if layer is None:
            continue
        module = onnx_graph.module(node)
        reason = _reason_against(layer, module, keep)
        if reason:
            left.append(FloatOperator(node.op_type, module, reason))
        elif isinstance(layer, Linear):
            layers.append(layer)
    return layers, left


def _reason_against(
    layer: Linear | str, module: str, keep: Iterable[str]
) -> str:
    """Why an operator stays in float; empty if it can be quantized."""
    if isinstance(layer, str):
        return layer
    if is_within(module, keep):
        return KEPT
    if layer.weight.size < SMALLEST_WEIGHT:
        size = layer.weight.size
        return f"its {size} weights save less than the nodes around them cost"
    return ""


def find_tables(edit: Edit, keep: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the lookups in embedding tables that are worth int8 rows."""
    return [
        node
        for node in edit.graph.node
        if _is_large_table(edit, node)
        and not is_within(onnx_graph.module(node), keep)
    ]


def _is_large_table(edit: Edit, node: onnx.NodeProto) -> bool:
    if node.op_type != "Gather" or node.input[0] not in edit.constants:
        return False
    if onnx_graph.attributes(node).get("axis", 0) != 0:
        return False
    table = edit.constants[node.input[0]]
    is_matrix = table.ndim == 2 and table.dtype == numpy.float32
    return is_matrix and table.size >= SMALLEST_TABLE


def quantize_table(edit: Edit, node: onnx.NodeProto) -> None:
    """Replace a lookup in a float table by one in int8 rows with per-row scales; only the rows
    that are looked up are dequantized.
    """
    rows, scales = quantize_columns(edit.constants[node.input[0]].T)
    module = onnx_graph.module(node)
    edit.drop(node)
    table = edit.constant(numpy.ascontiguousarray(rows.T))
    levels = edit.add("Gather", [table, node.input[1]], module, axis=0)
    scale = edit.add(
        "Gather", [edit.constant(scales[:, None]), node.input[1]], axis=0
    )
    values = edit.add("Cast", [levels], to=onnx.TensorProto.FLOAT)
    edit.add("Mul", [values, scale], output=node.output[0])


def quantize_columns(weight: Array) -> tuple[Array, Array]:
    """Quantize [inputs, outputs] to int8 in [-127, 127] with a per-column scale.

    Returns the levels (int8) and the scales (float32 [outputs]).
    """
    peak = numpy.maximum(numpy.abs(weight).max(axis=0), numpy.float32(1e-12))
    scales = (peak / 127).astype(numpy.float32)
    levels = numpy.clip(numpy.rint(weight / scales), -127, 127)
    return levels.astype(numpy.int8), scales


def _read(node: onnx.NodeProto, edit: Edit) -> Linear | str | None:
    """Return a linear layer, or the reason why an operator with weights is none, or None for
    all other operators.
    """
    if node.op_type in ("Conv", "ConvTranspose"):
        return "ONNX Runtime has no fast integer convolution without calibrated activations"
    if node.op_type in ("GRU", "RNN"):
        return f"ONNX Runtime has no int8 {node.op_type}"
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    weight = edit.stored(node.input[1])
    if weight is None or weight.ndim != 2 or weight.dtype != numpy.float32:
        is_product = node.op_type == "MatMul"  # of two activations
        return (
            None
            if is_product
            else "its weight is not a stored matrix of floats"
        )
    if node.op_type == "Gemm":
        return _read_gemm(node, weight, edit)
    return _with_bias(_linear(node, weight), edit)


def _read_gemm(node: onnx.NodeProto, weight: Array, edit: Edit) -> Linear | str:
    settings: dict[str, Any] = {
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 0,
        **onnx_graph.attributes(node),
    }
    if settings["transA"]:
        return "it transposes its input"
    if settings["transB"]:
        weight = weight.T
    layer = _linear(node, numpy.float32(settings["alpha"]) * weight)
    if len(node.input) < 3 or not node.input[2]:
        return _with_bias(layer, edit)
    bias = _vector(edit.stored(node.input[2]), weight.shape[1])
    if bias is None:
        return "its bias is not a stored vector"
    return dataclasses.replace(
        layer, bias=numpy.float32(settings["beta"]) * bias
    )


def _linear(node: onnx.NodeProto, weight: Array) -> Linear:
    module = onnx_graph.module(node)
    return Linear(module, node.input[0], node.output[0], weight, None, (node,))


def _with_bias(layer: Linear, edit: Edit) -> Linear:
    """Return the layer with the Add that follows it, if that adds one stored number to each
    output and nothing else reads the product.
    """
    readers = edit.consumers.get(layer.output, [])
    if (
        len(readers) != 1
        or readers[0].op_type != "Add"
        or layer.output in edit.outputs
    ):
        return layer
    add = readers[0]
    other = next((name for name in add.input if name != layer.output), "")
    bias = _vector(edit.stored(other), layer.weight.shape[1])
    if bias is None:
        return layer
    nodes = (*layer.nodes, add)
    return dataclasses.replace(
        layer, bias=bias, output=add.output[0], nodes=nodes
    )


def _vector(value: Array | None, size: int) -> Array | None:
    """Return one number per output, or None if the tensor is not of that form."""
    if value is None or value.dtype != numpy.float32 or value.ndim > 2:
        return None
    if value.size not in (1, size) or value.shape[-1:] not in (
        (),
        (1,),
        (size,),
    ):
        return None
    return numpy.broadcast_to(value.reshape(-1), (size,))
