"""Make a Q/DQ graph fast on ONNX Runtime, without changing the numbers that it computes.

ONNX Runtime's x86 kernels want unsigned activations: with int8 activations most
convolutions do not fuse, and the file is slower than float. int8 with zero point z and
uint8 with zero point z + 128 hold the same real numbers. In a symmetric graph (z = 0) a
tensor that is never negative takes zero point 0 and the same scale, so that its ReLU needs
no node of its own; only values that int8 would have clipped can change.
"""

import dataclasses
from typing import ClassVar

import numpy
import onnx
import onnx.numpy_helper

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.task import SplitName

#: Operators whose output is never negative where none of their inputs is.
_KEEPS_SIGN = {
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceMax",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Concat",
    "Slice",
    "Add",
    "Mul",
    "QuantizeLinear",
    "DequantizeLinear",
    "Gather",
    "Expand",
}
_NEVER_NEGATIVE = {"Relu", "Sigmoid", "Softmax", "HardSigmoid"}
#: Operators that read several tensors; of the others only the first input is data.
_JOINS = {"Add", "Mul", "Concat"}
#: Channels are made a multiple of this for ONNX Runtime's int8 convolutions.
FAST_CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class LowerOnnx:
    """Rewrite the graph for ONNX Runtime's int8 kernels. A float file passes unchanged."""

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("onnx",)
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Any ONNX file can be lowered."""

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the lowered file of every part."""
        parts, notes = [], {}
        for part in artifact.parts:
            model = onnx_graph.read(artifact.path(part))
            notes[part.name] = lower(model)
            file = f"{part.name}.onnx"
            onnx_graph.write(model, context.folder / file)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": File(path=file)},
                )
            )
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"changes": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The interface is the same, and no signed activation is left for ONNX Runtime."""
        for old, new in zip(before.parts, after.parts, strict=True):
            first, second = (
                onnx_graph.read(before.path(old)).graph,
                onnx_graph.read(after.path(new)).graph,
            )
            if list(first.input) != list(second.input) or list(first.output) != list(
                second.output
            ):
                raise StepError(
                    f"Lowering changed the inputs or outputs of {new.name}.",
                    fix="report this as a bug",
                )
            if _signed_quantizers(second):
                raise StepError(
                    f"Lowering left int8 activations in {new.name}.",
                    fix="report this as a bug",
                )


def lower(model: onnx.ModelProto) -> dict[str, int]:
    """Change the graph for ONNX Runtime, in place; tells how much of what was changed."""
    graph = model.graph
    pads = _fold_pads(graph)
    unsigned = _make_unsigned(graph)
    widened = _widen_channels(graph)
    onnx_graph.sweep(graph)
    onnx_graph.share_constants(graph)
    return {
        "unsigned_tensors": unsigned,
        "folded_pads": pads,
        "widened_convolutions": widened,
    }


def never_negative(graph: onnx.GraphProto) -> set[str]:
    """The tensors that cannot hold a negative number, whatever the input."""
    constants = onnx_graph.constants(graph)
    found: set[str] = set()
    for node in graph.node:
        operands = node.input if node.op_type in _JOINS else node.input[:1]
        clipped = (
            node.op_type == "Clip"
            and len(node.input) > 1
            and node.input[1] in constants
            and float(constants[node.input[1]]) >= 0
        )
        kept = node.op_type in _KEEPS_SIGN and all(name in found for name in operands)
        if node.op_type in _NEVER_NEGATIVE or clipped or kept:
            found.update(node.output)
    return found


def _signed_quantizers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The QuantizeLinear nodes of activations with int8 zero points, one scale a tensor."""
    constants = onnx_graph.constants(graph)
    found = []
    for node in graph.node:
        if (
            node.op_type == "QuantizeLinear"
            and len(node.input) > 2
            and node.input[2] in constants
        ):
            zero = constants[node.input[2]]
            if zero.dtype == numpy.int8 and zero.size == 1:
                found.append(node)
    return found


def _make_unsigned(graph: onnx.GraphProto) -> int:
    """Move activations from int8 to uint8.

    A tensor that something other than DequantizeLinear reads stays as it is.
    """
    constants, readers, outputs = (
        onnx_graph.constants(graph),
        onnx_graph.consumers(graph),
        {value.name for value in graph.output},
    )
    positive, clips = never_negative(graph), _clips(graph)
    changed = 0
    for node in _signed_quantizers(graph):
        users = readers.get(node.output[0], [])
        if node.output[0] in outputs or any(
            user.op_type != "DequantizeLinear" for user in users
        ):
            continue
        zero, scale = (
            int(constants[node.input[2]].item()),
            constants[node.input[1]].astype(numpy.float32).item(),
        )
        moved = 0 if zero == 0 and node.input[0] in positive else zero + 128
        if moved == 0 and node.input[0] in clips:
            _clip_integers(graph, node, clips[node.input[0]], scale)
        name = onnx_graph.add_constant(
            graph, f"u8_{moved}", numpy.array(moved, numpy.uint8)
        )
        node.input[2] = name
        for user in users:
            user.input[2] = name
        changed += 1
    return changed + _make_constants_unsigned(graph)


def _clips(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, float]]:
    """Every Clip from 0 to a limit whose result is read once, with the limit, by the tensor
    that it makes.
    """
    constants, readers = onnx_graph.constants(graph), onnx_graph.consumers(graph)
    found = {}
    for node in graph.node:
        if (
            node.op_type == "Clip"
            and len(node.input) == 3
            and all(name in constants for name in node.input[1:])
        ):
            low, high = (float(constants[name]) for name in node.input[1:])
            if low == 0 and len(readers.get(node.output[0], [])) == 1:
                found[node.output[0]] = (node, high)
    return found


def _clip_integers(
    graph: onnx.GraphProto,
    quantizer: onnx.NodeProto,
    clip: tuple[onnx.NodeProto, float],
    scale: float,
) -> None:
    """Clip after quantizing instead of before, to the same number, where uint8 with int8's
    scale reaches higher than the limit.

    A float Clip between a convolution and its QuantizeLinear keeps the convolution in
    float. Rounding is monotonic, so the order does not matter.
    """
    node, limit = clip
    highest = min(127, int(numpy.rint(numpy.float32(limit) / numpy.float32(scale))))
    if limit >= 255 * scale:
        return  # uint8 itself is the clip
    quantizer.input[0] = node.input[0]
    raw = f"{quantizer.output[0]}_unclipped"
    bounds = [
        onnx_graph.add_constant(graph, f"u8_{bound}", numpy.array(bound, numpy.uint8))
        for bound in (0, highest)
    ]
    inner = onnx.helper.make_node(
        "Clip", [raw, *bounds], [quantizer.output[0]], name=node.name
    )
    quantizer.output[0] = raw
    place = next(
        index for index, other in enumerate(graph.node) if other.output == quantizer.output
    )
    graph.node.insert(place + 1, inner)


def _make_constants_unsigned(graph: onnx.GraphProto) -> int:
    """Constant operands with one scale: they must be of the same type as the activation
    they meet.
    """
    constants = onnx_graph.constants(graph)
    readers = onnx_graph.consumers(graph)
    changed = 0
    for node in list(graph.node):
        if (
            node.op_type != "DequantizeLinear"
            or node.input[0] not in constants
            or len(node.input) < 3
        ):
            continue
        stored, zero = constants[node.input[0]], constants[node.input[2]]
        elementwise = all(
            user.op_type in ("Add", "Mul", "Concat")
            for user in readers.get(node.output[0], [])
        )
        if stored.dtype != numpy.int8 or zero.size != 1 or not elementwise:
            continue
        moved = int(zero.item()) + 128
        node.input[0] = onnx_graph.add_constant(
            graph,
            f"{node.input[0]}_u8",
            (stored.astype(numpy.int16) + 128).astype(numpy.uint8),
        )
        node.input[2] = onnx_graph.add_constant(
            graph, f"u8_{moved}", numpy.array(moved, numpy.uint8)
        )
        changed += 1
    return changed


def _fold_pads(graph: onnx.GraphProto) -> int:
    """A Pad with zeros in front of a convolution becomes the convolution's own padding:
    exact, and one node and one Q/DQ pair less.
    """
    constants, makers = onnx_graph.constants(graph), onnx_graph.producers(graph)
    folded = 0
    for conv in graph.node:
        if conv.op_type != "Conv":
            continue
        outer = _pair(makers, conv.input[0])
        pad = makers.get(outer[0].input[0]) if outer else None
        inner = (
            makers.get(pad.input[0]) if pad is not None and pad.op_type == "Pad" else None
        )
        if (
            outer is None
            or pad is None
            or inner is None
            or inner.op_type != "DequantizeLinear"
            or list(inner.input[1:]) != list(outer[1].input[1:])
        ):
            continue
        amounts = _zero_padding(pad, constants)
        if amounts is not None and _add_padding(conv, amounts):
            conv.input[0] = inner.output[0]
            folded += 1
    return folded


def _widen_channels(graph: onnx.GraphProto) -> int:
    """Give convolutions of few channels some more that are zero: an int8 convolution whose
    channels are no multiple of 4 takes a path three times as slow.

    The integers are padded with their zero point, the weights with zeros, so the sums are
    the same.
    """
    constants, makers = onnx_graph.constants(graph), onnx_graph.producers(graph)
    widened = 0
    for conv in list(graph.node):
        if conv.op_type != "Conv" or onnx_graph.attributes(conv).get("group", 1) != 1:
            continue
        pair, weight = _pair(makers, conv.input[0]), makers.get(conv.input[1])
        if (
            pair is None
            or weight is None
            or weight.op_type != "DequantizeLinear"
            or weight.input[0] not in constants
        ):
            continue
        stored, axis = (
            constants[weight.input[0]],
            onnx_graph.attributes(weight).get("axis", 1),
        )
        missing = -stored.shape[1] % FAST_CHANNELS
        if (
            not missing
            or (axis != 0 and constants[weight.input[1]].size > 1)
            or len(pair[1].input) < 3
        ):
            continue
        _pad_channels(graph, conv, pair[1], missing)
        wide = numpy.pad(stored, [(0, 0), (0, missing), *[(0, 0)] * (stored.ndim - 2)])
        copied = onnx.helper.make_node(
            "DequantizeLinear",
            [
                onnx_graph.add_constant(graph, f"{weight.input[0]}_wide", wide),
                *weight.input[1:],
            ],
            [f"{weight.output[0]}_wide"],
            name=f"{weight.name}_wide" if weight.name else "",
            axis=axis,
        )
        graph.node.insert(list(graph.node).index(conv), copied)
        conv.input[1] = copied.output[0]
        widened += 1
    return widened


def _pad_channels(
    graph: onnx.GraphProto, conv: onnx.NodeProto, dequantize: onnx.NodeProto, missing: int
) -> None:
    """Put a Pad of the integers, and a DequantizeLinear of its own, in front of a
    convolution.
    """
    rank = len(
        onnx_graph.constants(graph)[
            onnx_graph.producers(graph)[conv.input[1]].input[0]
        ].shape
    )
    amounts = numpy.zeros(2 * rank, numpy.int64)
    amounts[rank + 1] = missing
    name = f"{dequantize.input[0]}_wide"
    if name not in onnx_graph.producers(graph):
        pads = onnx_graph.add_constant(graph, f"pads_{rank}_{missing}", amounts)
        place = list(graph.node).index(dequantize) + 1
        graph.node.insert(
            place,
            onnx.helper.make_node(
                "Pad",
                [dequantize.input[0], pads, dequantize.input[2]],
                [name],
                name=f"{conv.name}/Pad",
            ),
        )
        graph.node.insert(
            place + 1,
            onnx.helper.make_node(
                "DequantizeLinear", [name, *dequantize.input[1:]], [f"{name}_float"]
            ),
        )
    conv.input[0] = f"{name}_float"


def _pair(
    makers: dict[str, onnx.NodeProto], name: str
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The QuantizeLinear and the DequantizeLinear that make a tensor."""
    second = makers.get(name)
    first = (
        makers.get(second.input[0])
        if second is not None and second.op_type == "DequantizeLinear"
        else None
    )
    return (
        (first, second)
        if first is not None and second is not None and first.op_type == "QuantizeLinear"
        else None
    )


def _zero_padding(
    pad: onnx.NodeProto, constants: dict[str, onnx_graph.Array]
) -> list[int] | None:
    """Begin and end of every axis where the node pads places (not samples or channels) with
    zeros, else None.
    """
    mode = onnx_graph.attributes(pad).get("mode", b"constant")
    if (
        mode != b"constant"
        or pad.input[1] not in constants
        or (len(pad.input) > 3 and pad.input[3])
    ):
        return None
    if (
        len(pad.input) > 2
        and pad.input[2]
        and (pad.input[2] not in constants or float(constants[pad.input[2]]) != 0)
    ):
        return None
    amounts = [int(amount) for amount in constants[pad.input[1]]]
    rank = len(amounts) // 2
    return (
        amounts
        if min(amounts) >= 0 and not any(amounts[:2] + amounts[rank : rank + 2])
        else None
    )


def _add_padding(conv: onnx.NodeProto, amounts: list[int]) -> bool:
    rank = len(amounts) // 2
    attributes = onnx_graph.attributes(conv)
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    extra = amounts[2:rank] + amounts[rank + 2 :]
    before = attributes.get("pads", [0] * len(extra))
    for attribute in list(conv.attribute):
        if attribute.name == "pads":
            conv.attribute.remove(attribute)
    conv.attribute.append(
        onnx.helper.make_attribute(
            "pads", [a + b for a, b in zip(before, extra, strict=True)]
        )
    )
    return True
