"""Half precision leaves kept modules unchanged."""

import numpy
import onnx
import onnxruntime
import pytest

from edgekit.formats.onnx.half import to_half

W = numpy.random.default_rng(0).standard_normal((16, 16)).astype("float32")


def model(body: str) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> '
        f"g (float[n, 16] x) => (float[n, 16] y) {{ {body} }}"
    )
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    for name, node in zip("abcd", parsed.graph.node, strict=False):
        node.name = f"{name}/{node.op_type}"
    return parsed


@pytest.mark.parametrize(
    ("body", "keep"),
    [
        (
            "p = MatMul(x, w)  q = MatMul(p, w)  r = MatMul(p, w)  y = Add(q, r)",
            ("b", "c"),
        ),
        ("p = MatMul(x, w)  q = Mul(p, p)  y = MatMul(q, w)", ("b", "c")),
        ("p = MatMul(x, w)  y = MatMul(p, w)", ("a",)),
    ],
)
def test_kept_modules_read_the_same_float_weight_and_share_their_casts(
    body: str, keep: tuple[str, ...]
) -> None:
    """Two readers of one tensor, one that reads it twice, and a weight that is shared with
    a module in 16 bits.
    """
    half = to_half(model(body), keep)
    onnx.checker.check_model(half, full_check=True)
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in half.graph.initializer
    }
    for node in half.graph.node:
        if node.op_type == "MatMul":
            inside = node.name.partition("/")[0] in keep
            weight = stored[node.input[1]]
            assert weight.dtype == (numpy.float32 if inside else numpy.float16)
            assert not inside or numpy.array_equal(weight, W)
    x = numpy.random.default_rng(1).standard_normal((3, 16)).astype("float32")
    first, second = (
        onnxruntime.InferenceSession(
            item.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": x})[0]
        for item in (model(body), half)
    )
    numpy.testing.assert_allclose(
        second, first, atol=0.02 * numpy.abs(first).max()
    )
