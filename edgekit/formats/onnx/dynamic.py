"""Dynamic int8 for ONNX Runtime: int8 weights with per-channel scales, activations rounded
to 8 bits while the network runs.

Row by row, every token has its own scale, and the few input channels that are far larger
than the others (see ``outliers``) go through a small float product next to the integer one
(Dettmers et al. 2022, LLM.int8). Activations that cannot be below a floor use all 256 levels
above it; the floor's part of the result is constant and is added to the bias.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy
import onnx

from edgekit.arrays import Array
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.linear import (
    KEPT,
    FloatOperator,
    Linear,
    find_linears,
    find_tables,
    quantize_columns,
    quantize_table,
)
from edgekit.formats.onnx.lowering.unsigned import never_negative

#: Below the lowest value of x * Phi(x), which is -0.16997.
_GELU_FLOOR = -0.17
_TINY = 1e-12
#: Channels that stay in float, by the tensor that they are channels of.
Outliers = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Rows:
    """A tensor as 8-bit rows: ``real = levels * peak * step + floor``, levels counted from
    ``zero``.
    """

    levels: str
    peak: str
    zero: str
    step: float
    floor: float
    channels: tuple[int, ...]
    #: The tensor of the channels that stay in float; empty if there are none.
    float_part: str


def quantize(
    model: onnx.ModelProto,
    per_row: bool,
    keep: Iterable[str],
    outliers: Outliers,
) -> dict[str, object]:
    """Quantize the model in place; report what is int8 and what is not.

    ``outliers`` are used if ``per_row``; with per-tensor scales all channels are int8.
    """
    edit = Edit(model)
    keep = tuple(keep)
    layers, left = find_linears(edit, keep)
    float_channels: dict[str, int] = {}
    if per_row:
        float_channels = _quantize_rows(edit, layers, outliers)
    else:
        _quantize_tensors(edit, layers)
    tables = find_tables(edit, keep)
    for node in tables:
        quantize_table(edit, node)
    done = Counter({"Linear": len(layers), "Embedding": len(tables), "LSTM": 0})
    for node in edit.graph.node:
        if node.op_type != "LSTM":
            continue
        reason = _quantize_lstm(edit, node, keep)
        if reason:
            left.append(
                FloatOperator(node.op_type, onnx_graph.module(node), reason)
            )
        else:
            done["LSTM"] += 1
    edit.finish()
    return {
        "int8": {name: count for name, count in done.items() if count},
        "left_float": [operator.as_dict() for operator in left],
        "float_channels": float_channels,
    }


def floors(graph: onnx.GraphProto) -> dict[str, float]:
    """Return the tensors that are never below a number, with that number."""
    by_tensor = dict.fromkeys(never_negative(graph), 0.0)
    for node in graph.node:
        if node.op_type == "Gelu":
            by_tensor[node.output[0]] = _GELU_FLOOR
    return by_tensor


def _quantize_rows(
    edit: Edit, layers: Iterable[Linear], outliers: Outliers
) -> dict[str, int]:
    """Quantize with per-row scales; return how many channels of each layer stay in float."""
    lowest = floors(edit.graph)
    rounded: dict[str, Rows] = {}
    float_channels: dict[str, int] = {}
    for layer in layers:
        if layer.input not in rounded:
            channels = outliers.get(layer.input, ())
            rounded[layer.input] = _round_rows(
                edit, layer, lowest.get(layer.input), channels
            )
        rows = rounded[layer.input]
        _multiply_rows(edit, layer, rows)
        if rows.channels:
            float_channels[layer.module] = len(rows.channels)
    return float_channels


def _quantize_tensors(edit: Edit, layers: Iterable[Linear]) -> None:
    """Quantize with per-tensor scales of the activations."""
    rounded: dict[str, list[str]] = {}
    for layer in layers:
        if layer.input not in rounded:
            rounded[layer.input] = edit.add_many(
                "DynamicQuantizeLinear", [layer.input], ["?", "?", "?"]
            )
        _multiply_tensor(edit, layer, rounded[layer.input])


def _round_rows(
    edit: Edit, layer: Linear, floor: float | None, channels: tuple[int, ...]
) -> Rows:
    """Add the nodes that round a tensor row by row.

    Channels that stay in float are left out of the row's largest value.
    """
    signed = floor is None
    shifted = (
        edit.add("Sub", [layer.input, edit.number(floor)])
        if floor
        else layer.input
    )
    measured = shifted
    float_part = ""
    if channels:
        mask = numpy.ones(layer.weight.shape[0], numpy.float32)
        mask[list(channels)] = 0
        measured = edit.add("Mul", [shifted, edit.constant(mask)])
        indices = edit.constant(numpy.array(channels, numpy.int64))
        float_part = edit.add("Gather", [layer.input, indices], axis=-1)
    if signed:
        measured = edit.add("Abs", [measured])
    last_axis = edit.constant(numpy.array([-1], numpy.int64))
    largest = edit.add("ReduceMax", [measured, last_axis], keepdims=1)
    # A row of zeros, or one that is all at its floor, must not divide by zero.
    peak = edit.add("Max", [largest, edit.number(_TINY)])
    step = 1 / (127 if signed else 255)
    zero = edit.constant(numpy.array(128 if signed else 0, numpy.uint8))
    scaled = edit.add("Div", [shifted, peak])
    levels = edit.add("QuantizeLinear", [scaled, edit.number(step), zero])
    return Rows(levels, peak, zero, step, floor or 0.0, channels, float_part)


def _multiply_rows(edit: Edit, layer: Linear, rows: Rows) -> None:
    """Add the integer product, times the row's scale, plus the float channels, plus the bias."""
    channels = list(rows.channels)
    weight = layer.weight.copy()
    weight[channels] = 0
    stored, scales = quantize_columns(weight)
    one = edit.number(1)
    combined = edit.constant((scales * rows.step).astype(numpy.float32))
    product = edit.add(
        "MatMulIntegerToFloat",
        [rows.levels, edit.constant(stored), one, combined, rows.zero],
        layer.module,
    )
    chain = [("Mul", [product, rows.peak])]
    if channels:
        float_weight = edit.constant(layer.weight[channels])
        addend = edit.add(
            "MatMul", [rows.float_part, float_weight], layer.module
        )
        chain.append(("Add", [addend]))
    bias = _bias_with_floor(layer, rows.floor, stored, scales)
    if bias is not None:
        chain.append(("Add", [edit.constant(bias.astype(numpy.float32))]))
    value: list[str] = []
    for position, (operator, operands) in enumerate(chain):
        output = layer.output if position == len(chain) - 1 else ""
        value = [edit.add(operator, value + operands, layer.module, output)]
    _drop(edit, layer)


def _bias_with_floor(
    layer: Linear, floor: float, stored: Array, scales: Array
) -> Array | None:
    """Return the bias plus the floor's part of the product, which is constant."""
    if not floor:
        return layer.bias
    column_sums = (stored.astype(numpy.float32) * scales).sum(axis=0)
    offset: Array = numpy.float32(floor) * column_sums
    return offset if layer.bias is None else layer.bias + offset


def _multiply_tensor(edit: Edit, layer: Linear, rounded: list[str]) -> None:
    """Add ONNX Runtime's fused product; if it is the only reader, the runtime fuses the
    rounding of the input too.
    """
    levels, scale, zero = rounded
    stored, scales = quantize_columns(layer.weight)
    inputs = [levels, edit.constant(stored), scale, edit.constant(scales), zero]
    if layer.bias is not None:
        bias = numpy.ascontiguousarray(layer.bias, numpy.float32)
        inputs += ["", edit.constant(bias)]
    edit.add("MatMulIntegerToFloat", inputs, layer.module, layer.output)
    _drop(edit, layer)


def _quantize_lstm(
    edit: Edit, node: onnx.NodeProto, keep: tuple[str, ...]
) -> str:
    """Replace an LSTM by one with int8 weights and per-row scales of each gate; the runtime
    scales its input and state.

    Returns the reason if it stays float, else an empty string.
    """
    module = onnx_graph.module(node)
    if is_within(module, keep):
        return KEPT
    settings = onnx_graph.attributes(node)
    weights = [edit.stored(name) for name in node.input[1:3]]
    stored = [
        weight for weight in weights if weight is not None and weight.ndim == 3
    ]
    if settings.pop("layout", 0) or len(stored) < len(weights):
        return "its weights are not stored, or its layout has the batch first"
    quantized: list[str] = []
    scale_inputs: list[str] = []
    for weight in stored:
        columns = [quantize_columns(direction.T) for direction in weight]
        quantized.append(
            edit.constant(numpy.stack([levels for levels, _ in columns]))
        )
        scales = numpy.stack([scale for _, scale in columns])
        scale_inputs.append(edit.constant(scales))
        scale_inputs.append(
            edit.constant(numpy.zeros(scales.shape, numpy.int8))
        )
    others = [*node.input[3:8], "", "", "", "", ""][:5]
    edit.add_many(
        "DynamicQuantizeLSTM",
        [node.input[0], *quantized, *others, *scale_inputs],
        list(node.output),
        module,
        **settings,
    )
    edit.drop(node)
    return ""


def _drop(edit: Edit, layer: Linear) -> None:
    for node in layer.nodes:
        edit.drop(node)
