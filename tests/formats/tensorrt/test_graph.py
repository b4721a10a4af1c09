"""What the graph requires of TensorRT: what is rejected, what is promised, and its
multiply-accumulates.
"""

import ml_dtypes
import numpy
import onnx
import pytest

from edgekit.errors import StepError
from edgekit.formats.tensorrt.graph import (
    count_macs,
    describe_graph,
    require_supported,
)


def model(text: str, **stored: numpy.ndarray) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(numpy.asarray(array), name)
        for name, array in stored.items()
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10
    )


def product(
    data: numpy.ndarray,
    zero: numpy.ndarray | None,
    scale: numpy.ndarray | None = None,
) -> onnx.ModelProto:
    """A linear layer whose data and weights are rounded to the type of ``data``."""
    third, more = (", z", {"z": zero}) if zero is not None else ("", {})
    text = f"""g (float[n,64] x) => (float[n,32] y) {{
        q = QuantizeLinear(x, s{third})
        a = DequantizeLinear(q, s{third})
        b = DequantizeLinear(w, s{third})
        y = MatMul(a, b)
    }}"""
    return model(
        text, w=data, s=numpy.float32(0.1) if scale is None else scale, **more
    )


@pytest.mark.parametrize(
    ("dtype", "word"), [(numpy.int8, "Int8"), (ml_dtypes.float8_e4m3fn, "FP8")]
)
def test_symmetric_int8_and_fp8_are_supported_and_promised(
    dtype: type, word: str
) -> None:
    """Both pass, and the node must then run in that datatype."""
    onnx_model = product(
        numpy.ones((64, 32)).astype(dtype), numpy.zeros((), dtype)
    )
    require_supported(onnx_model.graph, "main", "step")
    description = describe_graph(onnx_model)
    assert (
        description["quantized"],
        description["precision"],
        description["promised"],
    ) == (
        True,
        word,
        {"node_of_y": word},
    )


@pytest.mark.parametrize(
    ("dtype", "zero", "message"),
    [
        (numpy.int8, 3, "its zero point is not 0"),
        (numpy.uint8, 0, "it stores uint8, not int8"),
        (ml_dtypes.float8_e5m2, 0, "float8e5m2"),
        (numpy.int8, None, "it has no zero point, which means uint8"),
    ],
)
def test_other_types_and_zero_points_are_refused(
    dtype: type, zero: int | None, message: str
) -> None:
    """Each node with its problem, and the fix."""
    point = (
        None if zero is None else numpy.array(zero, numpy.float32).astype(dtype)
    )
    with pytest.raises(StepError, match=message) as refusal:
        require_supported(
            product(
                numpy.ones((64, 32), numpy.float32).astype(dtype), point
            ).graph,
            "main",
            "step",
        )
    assert "limits.activations: symmetric" in (refusal.value.fix or "")


def test_four_bit_weights_in_blocks_are_promised() -> None:
    """TensorRT fuses those in blocks into the product; with per-column scales they are
    dequantized first, and nothing is promised.
    """
    weights = numpy.ones((64, 32)).astype(ml_dtypes.int4)
    blocked = model(
        "g (float[n,64] x) => (float[n,32] y) { "
        "b = DequantizeLinear <axis=0, block_size=32> (w, s)   y = MatMul(x, b) }",
        w=weights,
        s=numpy.ones((2, 32), "float32"),
    )
    columns = model(
        "g (float[n,64] x) => (float[n,32] y) { "
        "b = DequantizeLinear <axis=1> (w, s)   y = MatMul(x, b) }",
        w=weights,
        s=numpy.ones(32, "float32"),
    )
    for onnx_model, promised in (
        (blocked, {"node_of_y": "Int4"}),
        (columns, {}),
    ):
        require_supported(onnx_model.graph, "main", "step")
        description = describe_graph(onnx_model)
        assert (description["quantized"], description["promised"]) == (
            False,
            promised,
        )


def test_transposed_convolutions_and_matrix_products_are_counted() -> None:
    """ConvTranspose: input positions x kernel x output channels; MatMul: outputs x the
    shared axis; unnamed nodes get TensorRT's name.
    """
    onnx_model = model(
        "g (float[n,3,4,4] x) => (float[n,5,8,7] y) { "
        "large = ConvTranspose <strides=[2,2]> (x, up)   y = MatMul(large, w) }",
        up=numpy.ones((3, 5, 2, 2), "float32"),
        w=numpy.ones((8, 7), "float32"),
    )
    assert count_macs(onnx_model) == {
        "node_of_large": 3 * 16 * 5 * 4,
        "node_of_y": 5 * 8 * 7 * 8,
    }
