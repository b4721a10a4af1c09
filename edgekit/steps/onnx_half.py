"""Half precision on an ONNX file: 16-bit weights and arithmetic, 32-bit inputs and outputs."""

import warnings
from collections.abc import Iterable

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from edgekit.errors import StepError
from edgekit.steps import onnx_graph


def to_half(model: onnx.ModelProto, keep: Iterable[str] = ()) -> onnx.ModelProto:
    """The model with 16-bit weights, but for the modules to keep; inputs and outputs keep their types, and the nodes are in order."""
    keep = tuple(keep)
    blocked = [node.name for node in model.graph.node if onnx_graph.within(onnx_graph.module(node), keep)]
    with warnings.catch_warnings():
        # Numbers below half precision's range become its smallest ones; the accuracy gate judges that.
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated", category=UserWarning)
        try:
            half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, op_block_list=DEFAULT_OP_BLOCK_LIST, node_block_list=blocked)
        except (ValueError, TypeError, onnx.checker.ValidationError) as error:
            raise StepError(f"The file cannot be turned to half precision: {onnx_graph.first_line(error)}", fix="take another scheme") from error
    onnx_graph.sort(half.graph)
    onnx_graph.sweep(half.graph)
    return half
