"""Dynamic int8 for ONNX Runtime: int8 weights with one scale an output channel, activations
rounded to 8 bits while the network runs.

Row by row, every token has a scale of its own, and the few input channels that are far
larger than the others (see ``onnx_outliers``) go through a small float product beside the
integer one (Dettmers et al. 2022, LLM.int8). Activations that cannot be below a known floor
use all 256 steps above it; the floor's part of the result is constant and lies in the bias.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy
import onnx

from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import Edit
from edgekit.formats.onnx.linear import (
    Left,
    Linear,
    linears,
    per_channel,
    round_table,
    tables,
)
from edgekit.formats.onnx.lower import never_negative

#: Below the lowest value of x * Phi(x), which is -0.16997.
_GELU_FLOOR = -0.17
_TINY = 1e-12
#: Channels in float, by the tensor that holds them.
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
    #: The channels that stay in float, gathered; empty where there are none.
    beside: str


def quantize(
    model: onnx.ModelProto, per_row: bool, keep: Iterable[str], outliers: Outliers
) -> dict[str, object]:
    """Rewrite the model in place; tells what is int8 and what is not.

    ``outliers`` counts for rows only.
    """
    edit = Edit(model)
    keep = tuple(keep)
    layers, left = linears(edit, keep)
    lowest = floors(edit.graph)
    shared: dict[str, Rows] = {}
    rounded: dict[str, list[str]] = {}
    for layer in layers:
        if per_row:
            if layer.input not in shared:
                shared[layer.input] = _round_rows(
                    edit, layer, lowest.get(layer.input), outliers.get(layer.input, ())
                )
            _by_rows(edit, layer, shared[layer.input])
        else:
            if layer.input not in rounded:
                rounded[layer.input] = edit.add_many(
                    "DynamicQuantizeLinear", [layer.input], ["?", "?", "?"]
                )
            _by_tensor(edit, layer, rounded[layer.input])
    done = Counter({"Linear": len(layers), "Embedding": 0, "LSTM": 0})
    for node in tables(edit, keep):
        round_table(edit, node)
        done["Embedding"] += 1
    for node in edit.graph.node:
        if node.op_type == "LSTM":
            reason = _lstm(edit, node, keep)
            done["LSTM"] += not reason
            left += [Left(node.op_type, onnx_graph.module(node), reason)] if reason else []
    edit.finish()
    beside = {
        layer.module: len(shared[layer.input].channels)
        for layer in layers
        if per_row and shared[layer.input].channels
    }
    return {
        "int8": {name: count for name, count in done.items() if count},
        "left_float": [item.told() for item in left],
        "float_channels": beside,
    }


def floors(graph: onnx.GraphProto) -> dict[str, float]:
    """Tensors that are never below a number, with that number."""
    known = dict.fromkeys(never_negative(graph), 0.0)
    known.update(
        {node.output[0]: _GELU_FLOOR for node in graph.node if node.op_type == "Gelu"}
    )
    return known


def _round_rows(
    edit: Edit, layer: Linear, floor: float | None, channels: tuple[int, ...]
) -> Rows:
    """The nodes that round a tensor row by row.

    Channels that stay in float do not count for the row's largest value.
    """
    signed = floor is None
    shifted = edit.add("Sub", [layer.input, edit.number(floor)]) if floor else layer.input
    measured, beside = shifted, ""
    if channels:
        mask = numpy.ones(layer.weight.shape[0], numpy.float32)
        mask[list(channels)] = 0
        measured = edit.add("Mul", [shifted, edit.constant(mask)])
        beside = edit.add(
            "Gather",
            [layer.input, edit.constant(numpy.array(channels, numpy.int64))],
            axis=-1,
        )
    measured = edit.add("Abs", [measured]) if signed else measured
    largest = edit.add(
        "ReduceMax", [measured, edit.constant(numpy.array([-1], numpy.int64))], keepdims=1
    )
    # A row of zeros, or one that is all at its floor, must not divide by zero.
    peak = edit.add("Max", [largest, edit.number(_TINY)])
    step = 1 / (127 if signed else 255)
    zero = edit.constant(numpy.array(128 if signed else 0, numpy.uint8))
    levels = edit.add(
        "QuantizeLinear", [edit.add("Div", [shifted, peak]), edit.number(step), zero]
    )
    return Rows(levels, peak, zero, step, floor or 0.0, channels, beside)


def _by_rows(edit: Edit, layer: Linear, rows: Rows) -> None:
    """Integer product, times the row's scale; plus the float channels; plus the bias."""
    channels = list(rows.channels)
    weight = layer.weight.copy()
    weight[channels] = 0
    stored, scales = per_channel(weight)
    one, combined = (
        edit.number(1),
        edit.constant((scales * rows.step).astype(numpy.float32)),
    )
    steps = edit.add(
        "MatMulIntegerToFloat",
        [rows.levels, edit.constant(stored), one, combined, rows.zero],
        layer.module,
    )
    bias = layer.bias
    if rows.floor:
        offset = numpy.float32(rows.floor) * (stored.astype(numpy.float32) * scales).sum(
            axis=0
        )
        bias = offset if bias is None else bias + offset
    results = [("Mul", [steps, rows.peak])]
    if channels:
        results.append(
            (
                "Add",
                [
                    edit.add(
                        "MatMul",
                        [rows.beside, edit.constant(layer.weight[channels])],
                        layer.module,
                    )
                ],
            )
        )
    if bias is not None:
        results.append(("Add", [edit.constant(bias.astype(numpy.float32))]))
    value = ""
    for position, (operator, inputs) in enumerate(results):
        last = layer.output if position == len(results) - 1 else ""
        value = edit.add(
            operator, [value, *inputs] if value else inputs, layer.module, last
        )
    _drop(edit, layer)


def _by_tensor(edit: Edit, layer: Linear, rounded: list[str]) -> None:
    """The fused product of ONNX Runtime; with one reader it takes the rounding of the input
    along as well.
    """
    levels, scale, zero = rounded
    stored, scales = per_channel(layer.weight)
    inputs = [levels, edit.constant(stored), scale, edit.constant(scales), zero]
    if layer.bias is not None:
        inputs += ["", edit.constant(numpy.ascontiguousarray(layer.bias, numpy.float32))]
    edit.add("MatMulIntegerToFloat", inputs, layer.module, layer.output)
    _drop(edit, layer)


def _lstm(edit: Edit, node: onnx.NodeProto, keep: tuple[str, ...]) -> str:
    """An LSTM with int8 weights, one scale a row of each gate; the runtime scales its input
    and state. Gives the reason where it stays float.
    """
    if is_within(onnx_graph.module(node), keep):
        return "it was to stay in float"
    settings = onnx_graph.attributes(node)
    weights = [edit.stored(name) for name in node.input[1:3]]
    if settings.pop("layout", 0) or any(
        weight is None or weight.ndim != 3 for weight in weights
    ):
        return "its weights are not stored, or its layout has the batch first"
    quantized, scales = [], []
    for weight in weights:
        assert weight is not None
        columns = [per_channel(direction.T) for direction in weight]
        quantized.append(edit.constant(numpy.stack([stored for stored, _ in columns])))
        scale = numpy.stack([scale for _, scale in columns])
        scales += [
            edit.constant(scale),
            edit.constant(numpy.zeros(scale.shape, numpy.int8)),
        ]
    others = [*node.input[3:8], "", "", "", "", ""][:5]
    edit.add_many(
        "DynamicQuantizeLSTM",
        [node.input[0], *quantized, *others, *scales],
        list(node.output),
        onnx_graph.module(node),
        **settings,
    )
    edit.drop(node)
    return ""


def _drop(edit: Edit, layer: Linear) -> None:
    for node in layer.nodes:
        edit.drop(node)
