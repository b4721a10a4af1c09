"""Find what can be quantized after export: linear layers in every shape that exporters
write, embedding tables, and why others stay float.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import onnx

from edgekit.artifact import MAIN
from edgekit.errors import StepError, suggest
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.graph import Array

#: A smaller weight saves less than the nodes around it cost.
SMALLEST_WEIGHT = 1024
#: Numbers of an embedding table that is worth int8 rows (64 kB of float).
SMALLEST_TABLE = 16384
#: Operators of a file that is quantized already.
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
    """``input @ weight + bias``. The nodes are those that compute it now."""

    module: str
    input: str
    output: str
    #: float32 [inputs, outputs]
    weight: Array
    #: float32 [outputs]
    bias: Array | None
    nodes: tuple[onnx.NodeProto, ...]


@dataclasses.dataclass(frozen=True)
class Left:
    """An operator with weights that stays in float, and why."""

    op: str
    module: str
    reason: str

    def told(self) -> dict[str, str]:
        """As a report holds it."""
        return dataclasses.asdict(self)


def refuse_quantized(graph: onnx.GraphProto, name: str) -> None:
    """Raise StepError for a file that holds quantized operators or 16-bit weights."""
    node = next((node for node in graph.node if node.op_type in QUANTIZED), None)
    if node is not None or any(
        tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer
    ):
        told = node.op_type if node is not None else "16-bit weights"
        raise StepError(
            f"{name} is quantized already ({told}).",
            fix="quantize once; start from the float file",
        )


def kept(keep: Iterable[str], part: str) -> tuple[str, ...]:
    """The paths to keep in float that lie in one part, as its own network calls them."""
    return tuple(
        path if part == MAIN else path.removeprefix(f"{part}.")
        for path in keep
        if part == MAIN or path.startswith(f"{part}.")
    )


def refuse_unknown(keep: Iterable[str], graphs: Mapping[str, onnx.GraphProto]) -> None:
    """Raise StepError where a path to keep in float names no module of these parts."""
    modules = {
        part: {onnx_graph.module(node) for node in graph.node}
        for part, graph in graphs.items()
    }
    for path in keep:
        if not any(
            is_within(module, kept([path], part))
            for part, paths in modules.items()
            for module in paths
        ):
            known = [
                path if part == MAIN else f"{part}.{path}"
                for part, paths in modules.items()
                for path in sorted(paths)
                if path
            ]
            told = f"No operator of the file comes from a module {path!r}, which was to stay in float. {suggest(path, known)}"
            raise StepError(told, fix="name modules as network.named_modules() does")


def linears(edit: Edit, keep: Iterable[str]) -> tuple[list[Linear], list[Left]]:
    """The linear layers that can be quantized, in the graph's order, and the operators with
    weights that cannot.
    """
    found: list[Linear] = []
    left: list[Left] = []
    for node in edit.graph.node:
        layer = _read(node, edit)
        if layer is None:
            continue
        module = onnx_graph.module(node)
        reason = (
            layer
            if isinstance(layer, str)
            else "it was to stay in float"
            if is_within(module, keep)
            else _small(layer.weight)
        )
        if reason:
            left.append(Left(node.op_type, module, reason))
        else:
            assert isinstance(layer, Linear)
            found.append(layer)
    return found, left


def tables(edit: Edit, keep: Iterable[str]) -> list[onnx.NodeProto]:
    """The lookups in embedding tables that are worth int8 rows."""
    found = []
    for node in edit.graph.node:
        if (
            node.op_type != "Gather"
            or node.input[0] not in edit.constants
            or onnx_graph.attributes(node).get("axis", 0) != 0
        ):
            continue
        table = edit.constants[node.input[0]]
        if (
            table.ndim == 2
            and table.dtype == numpy.float32
            and table.size >= SMALLEST_TABLE
            and not is_within(onnx_graph.module(node), keep)
        ):
            found.append(node)
    return found


def round_table(edit: Edit, node: onnx.NodeProto) -> None:
    """A lookup in a float table becomes one in int8 rows, each with a scale of its own."""
    rows, scales = per_channel(edit.constants[node.input[0]].T)
    module = onnx_graph.module(node)
    edit.drop(node)
    picked = edit.add(
        "Gather",
        [edit.constant(numpy.ascontiguousarray(rows.T)), node.input[1]],
        module,
        axis=0,
    )
    scale = edit.add("Gather", [edit.constant(scales[:, None]), node.input[1]], axis=0)
    edit.add(
        "Mul",
        [edit.add("Cast", [picked], to=onnx.TensorProto.FLOAT), scale],
        output=node.output[0],
    )


def per_channel(weight: Array) -> tuple[Array, Array]:
    """int8 in [-127, 127] with one scale for each column of [inputs, outputs], and the
    scales.
    """
    peak = numpy.maximum(numpy.abs(weight).max(axis=0), numpy.float32(1e-12))
    scales = (peak / 127).astype(numpy.float32)
    return numpy.clip(numpy.rint(weight / scales), -127, 127).astype(numpy.int8), scales


def _read(node: onnx.NodeProto, edit: Edit) -> Linear | str | None:
    """A linear layer; the reason why an operator with weights is none; None for all other
    operators.
    """
    if node.op_type in ("Conv", "ConvTranspose"):
        return "ONNX Runtime has no fast integer convolution without calibrated activations"
    if node.op_type in ("GRU", "RNN"):
        return f"ONNX Runtime has no int8 {node.op_type}"
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    weight = edit.stored(node.input[1])
    if weight is None or weight.ndim != 2 or weight.dtype != numpy.float32:
        return (
            None
            if node.op_type == "MatMul"
            else "its weight is not a stored matrix of floats"
        )
    if node.op_type == "Gemm":
        return _gemm(node, weight, edit)
    return _with_bias(
        Linear(
            onnx_graph.module(node), node.input[0], node.output[0], weight, None, (node,)
        ),
        edit,
    )


def _gemm(node: onnx.NodeProto, weight: Array, edit: Edit) -> Linear | str:
    settings: dict[str, Any] = {
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 0,
        **onnx_graph.attributes(node),
    }
    if settings["transA"]:
        return "it transposes its input"
    weight = numpy.float32(settings["alpha"]) * (weight.T if settings["transB"] else weight)
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = _vector(edit.stored(node.input[2]), weight.shape[1])
        if bias is None:
            return "its bias is not a stored vector"
        bias = numpy.float32(settings["beta"]) * bias
    layer = Linear(
        onnx_graph.module(node), node.input[0], node.output[0], weight, bias, (node,)
    )
    return layer if bias is not None else _with_bias(layer, edit)


def _with_bias(layer: Linear, edit: Edit) -> Linear:
    """The layer with the Add behind it, where that adds one stored number to each output
    and nobody else reads the sum's input.
    """
    readers = edit.consumers.get(layer.output, [])
    if len(readers) != 1 or readers[0].op_type != "Add" or layer.output in edit.outputs:
        return layer
    other = next((name for name in readers[0].input if name != layer.output), "")
    bias = _vector(edit.stored(other), layer.weight.shape[1])
    return (
        layer
        if bias is None
        else dataclasses.replace(
            layer, bias=bias, output=readers[0].output[0], nodes=(*layer.nodes, readers[0])
        )
    )


def _vector(value: Array | None, size: int) -> Array | None:
    """One number for each output, or None where that is not what is stored."""
    if (
        value is None
        or value.dtype != numpy.float32
        or value.ndim > 2
        or value.size not in (1, size)
        or value.shape[-1:] not in ((), (1,), (size,))
    ):
        return None
    return numpy.broadcast_to(value.reshape(-1), (size,))


def _small(weight: Array) -> str:
    return (
        f"its {weight.size} weights save less than the nodes around them cost"
        if weight.size < SMALLEST_WEIGHT
        else ""
    )
