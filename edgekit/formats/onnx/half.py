"""Half precision on an ONNX file: 16-bit weights and arithmetic, 32-bit inputs and outputs."""

import warnings
from collections.abc import Iterable

import onnx
import onnx.numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekit.errors import StepError, condense
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph


def to_half(
    model: onnx.ModelProto, keep: Iterable[str] = ()
) -> onnx.ModelProto:
    """Return the model with float16 weights except in the modules to ``keep``.

    Inputs and outputs keep their types; the nodes are sorted. Raises StepError if the
    converter of ONNX Runtime fails.
    """
    keep = tuple(keep)
    blocked = [
        node.name
        for node in model.graph.node
        if is_within(onnx_graph.module(node), keep)
    ]
    _separate_constants(model.graph, set(blocked))
    half = _convert(model, blocked)
    _remove_duplicate_casts(half.graph)
    onnx_graph.sort(half.graph)
    onnx_graph.sweep(half.graph)
    return half


def _convert(model: onnx.ModelProto, blocked: list[str]) -> onnx.ModelProto:
    with warnings.catch_warnings():
        # Numbers below half precision's range become its smallest ones; the accuracy gate
        # judges that.
        warnings.filterwarnings(
            "ignore",
            message="the float32 number .* will be truncated",
            category=UserWarning,
        )
        try:
            half: onnx.ModelProto = convert_float_to_float16(
                model, keep_io_types=True, node_block_list=blocked
            )
        except (ValueError, TypeError, onnx.checker.ValidationError) as error:
            raise StepError(
                f"The file cannot be converted to half precision: {condense(error)}",
                fix="choose another scheme",
            ) from error
    return half


def _separate_constants(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Store a float tensor twice if a node to keep shares it with others: the converter
    would round it for both.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    converted = [node for node in graph.node if node.name not in kept]
    shared = {name for node in converted for name in node.input} & stored.keys()
    for node in graph.node:
        if node.name not in kept:
            continue
        for position, name in enumerate(node.input):
            if name in shared:
                node.input[position] = onnx_graph.add_constant(
                    graph,
                    f"{name}/kept",
                    onnx.numpy_helper.to_array(stored[name]),
                )


def _remove_duplicate_casts(graph: onnx.GraphProto) -> None:
    """Keep one of the casts that produce the same tensor: the converter writes one for each
    float node, and for each time that it reads a tensor.
    """
    produced: set[str] = set()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in produced:
            graph.node.remove(node)
        produced.update(node.output)
