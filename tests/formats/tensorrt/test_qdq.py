"""The rewritten graph itself: what shares a scale, what is left alone, what opset it needs."""

import ml_dtypes
import numpy
import onnx
import pytest

from edgekit.errors import StepError
from edgekit.formats.tensorrt.qdq import (
    find_products,
    quantize_blocks,
    to_fp8,
    to_int4,
)


def model(
    text: str, opset: int = 20, **stored: numpy.ndarray
) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in stored.items()
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
    )


def weights(*shape: int) -> numpy.ndarray:
    return numpy.random.default_rng(0).standard_normal(shape).astype("float32")


def test_products_are_those_of_data_with_stored_weights() -> None:
    """Not a product of two activations, nor of integers, nor a transposed convolution; a
    Gemm's axis follows transB.
    """
    onnx_model = model(
        """g (float[n,64] x, float[n,8,64] t)
        => (float[n,8] a, float[n,8] b, float[n,8,8] c, float[n,8,64] d) {
        a = Gemm <transB=1> (x, w1)   b = Gemm(x, w2)   tt = Transpose <perm=[0,2,1]> (t)
        c = MatMul(t, tt)   d = MatMul(t, w3)
    }""",
        w1=weights(8, 64),
        w2=weights(64, 8),
        w3=weights(64, 64),
    )
    products = find_products(onnx_model.graph)
    assert [(product.node.output[0], product.axis) for product in products] == [
        ("a", 1),
        ("b", 0),
        ("d", 0),
    ]


def test_readers_of_one_tensor_share_its_pair_and_others_read_it_unrounded() -> (
    None
):
    """One QuantizeLinear for two products; the residual keeps the float tensor; the result
    is a valid graph, its nodes in order.
    """
    onnx_model = model(
        "g (float[n,64] x) => (float[n,64] y) { "
        "a = MatMul(x, w)   b = MatMul(x, v)   c = Add(a, b)   y = Add(c, x) }",
        w=weights(64, 64),
        v=weights(64, 64) * 3,
    )
    for node in onnx_model.graph.node:
        node.name = node.output[0]
    to_fp8(onnx_model, find_products(onnx_model.graph), {"a": 4.48, "b": 4.48})
    onnx.checker.check_model(onnx_model, full_check=True)
    quantizers = [
        node
        for node in onnx_model.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert len(quantizers) == 1 and list(onnx_model.graph.node[-1].input) == [
        "c",
        "x",
    ]
    scale = next(
        tensor
        for tensor in onnx_model.graph.initializer
        if tensor.name == quantizers[0].input[1]
    )
    assert onnx.numpy_helper.to_array(scale) == pytest.approx(0.01)


def test_a_tensor_that_is_always_zero_has_a_scale() -> None:
    """A scale of 0 would divide by zero."""
    onnx_model = model(
        "g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }",
        w=numpy.zeros((64, 64), "float32"),
    )
    to_fp8(onnx_model, find_products(onnx_model.graph), {"": 0.0})
    assert all(
        onnx.numpy_helper.to_array(tensor).astype("float32") > 0
        for tensor in onnx_model.graph.initializer
        if tensor.name.endswith("scale")
    )
    assert quantize_blocks(numpy.zeros((2, 32), "float16"), 1)[1].min() > 0


def test_a_weight_that_something_else_reads_stays_as_it_is_there() -> None:
    """An embedding that is also the last layer: the gather reads floats, the product 4
    bits.
    """
    onnx_model = model(
        "g (int64[n] i) => (float[n,64] y) { e = Gather(w, i)   y = MatMul(e, w) }",
        w=weights(64, 64),
    )
    to_int4(onnx_model, find_products(onnx_model.graph))
    onnx.checker.check_model(onnx_model, full_check=True)
    gather, _, product = onnx_model.graph.node
    assert gather.input[0] == "w" and product.input[1] != "w"
    assert onnx_model.opset_import[0].version == 21
    kinds = {
        tensor.name: tensor.data_type for tensor in onnx_model.graph.initializer
    }
    assert (
        kinds["w"] == onnx.TensorProto.FLOAT
        and onnx.TensorProto.INT4 in kinds.values()
    )


def test_an_operator_that_changed_its_meaning_is_not_carried_over() -> None:
    """GroupNormalization takes other scales from opset 21 on."""
    onnx_model = model(
        "g (float[n,64] x) => (float[n,64] y) { "
        "a = GroupNormalization <num_groups=2> (x, s, s)   y = MatMul(a, w) }",
        s=numpy.ones(2, "float32"),
        w=weights(64, 64),
    )
    with pytest.raises(
        StepError, match="export with opset 21|GroupNormalization has changed"
    ):
        to_int4(onnx_model, find_products(onnx_model.graph))


def test_scales_are_those_of_the_stored_type() -> None:
    """Half-precision weights have half-precision scales, and the integers are rounded with
    these, not with finer ones.
    """
    array = weights(3, 64).astype("float16")
    integers, scales = quantize_blocks(array, 1)
    assert scales.dtype == numpy.float16 and set(
        numpy.unique(integers.astype(ml_dtypes.int4).astype("float32"))
    ) <= set(range(-8, 8))
    plain = numpy.abs(
        integers * numpy.repeat(scales.astype("float32"), 32, 1)
        - array.astype("float32")
    )
    assert plain.max() <= 1.6 * scales.max()
