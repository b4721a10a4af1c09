"""Half precision on an ONNX file: 16-bit weights and arithmetic, 32-bit inputs and outputs."""

import warnings
from collections.abc import Iterable

import onnx
import onnx.numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekit.errors import StepError
from edgekit.formats.module_paths import is_within
from edgekit.formats.onnx import graph as onnx_graph


def to_half(model: onnx.ModelProto, keep: Iterable[str] = ()) -> onnx.ModelProto:
    """The model with 16-bit weights, but for the modules to keep; inputs and outputs keep
    their types, and the nodes are in order.
    """
    keep = tuple(keep)
    blocked = [
        node.name for node in model.graph.node if is_within(onnx_graph.module(node), keep)
    ]
    _own_constants(model.graph, set(blocked))
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
                f"The file cannot be turned to half precision: {onnx_graph.first_line(error)}",
                fix="take another scheme",
            ) from error
    _once(half.graph)
    onnx_graph.sort(half.graph)
    onnx_graph.sweep(half.graph)
    return half


def _own_constants(graph: onnx.GraphProto, kept: set[str]) -> None:
    """A float tensor that a kept node shares with others is stored twice; the converter
    would round it for both.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    elsewhere = {
        name for node in graph.node if node.name not in kept for name in node.input
    }
    for node in graph.node:
        for position, name in enumerate(node.input):
            if node.name in kept and name in stored and name in elsewhere:
                node.input[position] = onnx_graph.add_constant(
                    graph, f"{name}/kept", onnx.numpy_helper.to_array(stored[name])
                )


def _once(graph: onnx.GraphProto) -> None:
    """Of casts that make the same tensor, keep one: the converter writes one for each float
    node, and for each time that it reads a tensor.
    """
    made: set[str] = set()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in made:
            graph.node.remove(node)
        made.update(node.output)
