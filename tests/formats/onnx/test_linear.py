"""Every form in which exporters write a linear layer is found, and its quantized version
computes what plain NumPy computes, within 2 output steps.
"""

from collections.abc import Callable

import numpy
import onnx
import onnxruntime
import pytest

from edgekit.errors import StepError
from edgekit.formats.onnx import blockwise as onnx_blocks
from edgekit.formats.onnx import dynamic as onnx_dynamic
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import linear as onnx_linear
from edgekit.formats.onnx.edit import Edit
from tests.processors import exact_options

#: Inputs that are no multiple of the block size, so that the last block is padded.
INPUTS, OUTPUTS = 80, 40
RANDOM = numpy.random.default_rng(0)
W = RANDOM.standard_normal((INPUTS, OUTPUTS)).astype("float32")
B = RANDOM.standard_normal(OUTPUTS).astype("float32")
V = RANDOM.standard_normal((INPUTS, OUTPUTS)).astype("float32")
STORED = {
    "W": W,
    "T": numpy.ascontiguousarray(W.T),
    "B": B,
    "V": V,
    "one": numpy.float32([0.5]),
}
FLAT, ROWS = f"float[batch, {INPUTS}] x", f"float[batch, 3, {INPUTS}] x"
#: The graph, and what it means: (weight, bias) of the layer in front of y.
SHAPES: dict[str, tuple[str, str, numpy.ndarray, numpy.ndarray | float]] = {
    "MatMul": (ROWS, "y = MatMul(x, W)", W, 0.0),
    "MatMul and Add": (ROWS, "h = MatMul(x, W)  y = Add(h, B)", W, B),
    "Add and MatMul": (ROWS, "h = MatMul(x, W)  y = Add(B, h)", W, B),
    "MatMul and one number": (
        FLAT,
        "h = MatMul(x, W)  y = Add(h, one)",
        W,
        0.5,
    ),
    "Transpose and MatMul": (
        FLAT,
        "t = Transpose <perm = [1, 0]> (T)  y = MatMul(x, t)",
        W,
        0.0,
    ),
    "Transpose without perm": (
        FLAT,
        "t = Transpose(T)  y = MatMul(x, t)",
        W,
        0.0,
    ),
    "Gemm": (FLAT, "y = Gemm(x, W, B)", W, B),
    "Gemm with transB": (FLAT, "y = Gemm <transB = 1> (x, T, B)", W, B),
    "Gemm with factors": (
        FLAT,
        "y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, T, B)",
        W / 2,
        B * 2,
    ),
    "Gemm without bias, and Add": (FLAT, "h = Gemm(x, W)  y = Add(h, B)", W, B),
}


def model(signature: str, body: str) -> onnx.ModelProto:
    outputs = (
        "float[batch, n] y" if signature == FLAT else "float[batch, 3, n] y"
    )
    parsed = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> main ({signature}) => ({outputs}) {{ {body} }}'
    )
    for name, value in STORED.items():
        parsed.graph.initializer.append(
            onnx.numpy_helper.from_array(value, name)
        )
    for number, node in enumerate(parsed.graph.node):
        node.name = f"layer{number}/{node.op_type}"
    onnx_graph.sweep(parsed.graph)
    return parsed


def run(changed: onnx.ModelProto, x: numpy.ndarray) -> numpy.ndarray:
    onnx.checker.check_model(changed, full_check=True)
    return numpy.asarray(
        onnxruntime.InferenceSession(
            changed.SerializeToString(),
            exact_options(),
            providers=["CPUExecutionProvider"],
        ).run(None, {"x": x})[0]
    )


def data(signature: str, batch: int = 4) -> numpy.ndarray:
    shape = (batch, INPUTS) if signature == FLAT else (batch, 3, INPUTS)
    x = numpy.random.default_rng(batch).standard_normal(shape).astype("float32")
    x[0] *= 20  # one row that is far larger than the others
    return x


def close(actual: numpy.ndarray, expected: numpy.ndarray) -> None:
    assert (
        numpy.abs(actual - expected).max()
        <= 2 * (expected.max() - expected.min()) / 255
    )


def int8_weights(weight: numpy.ndarray) -> numpy.ndarray:
    step = numpy.abs(weight).max(0) / 127
    return numpy.where(
        step > 0, numpy.rint(weight / numpy.where(step > 0, step, 1)) * step, 0
    )


def by_rows(
    x: numpy.ndarray,
    floor: float | None = None,
    count: slice | list[int] = slice(None),
) -> numpy.ndarray:
    """Each row in 8 bits: around zero, or from the floor up; only the channels ``count``
    set the scale.
    """
    if floor is None:
        step = numpy.abs(x[..., count]).max(-1, keepdims=True) / 127
        return numpy.clip(numpy.rint(x / step), -128, 127) * step
    step = (x[..., count] - floor).max(-1, keepdims=True) / 255
    return numpy.clip(numpy.rint((x - floor) / step), 0, 255) * step + floor


def by_tensor(x: numpy.ndarray) -> numpy.ndarray:
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = (high - low) / 255
    zero = numpy.rint(-low / step)
    return (numpy.clip(numpy.rint(x / step) + zero, 0, 255) - zero) * step


def in_blocks(
    values: numpy.ndarray, levels: Callable[[numpy.ndarray], numpy.ndarray]
) -> numpy.ndarray:
    """Each 32 numbers along the last axis rounded by themselves."""
    return numpy.concatenate(
        [
            levels(values[..., start : start + 32])
            for start in range(0, values.shape[-1], 32)
        ],
        -1,
    )


def four_bits(block: numpy.ndarray) -> numpy.ndarray:
    low, high = (
        numpy.minimum(block.min(-1, keepdims=True), 0),
        numpy.maximum(block.max(-1, keepdims=True), 0),
    )
    step = (high - low) / 15
    zero = numpy.rint(-low / step)
    return (numpy.clip(numpy.rint(block / step) + zero, 0, 15) - zero) * step


def eight_bits(block: numpy.ndarray) -> numpy.ndarray:
    step = numpy.abs(block).max(-1, keepdims=True) / 127
    return numpy.rint(block / step) * step


#: How each scheme changes the graph, and what it then computes.
SCHEMES: dict[
    str,
    tuple[
        Callable[[onnx.ModelProto], object],
        Callable[[numpy.ndarray, numpy.ndarray], numpy.ndarray],
    ],
] = {
    "rows": (
        lambda changed: onnx_dynamic.quantize(changed, True, (), {}),
        lambda x, w: by_rows(x) @ int8_weights(w),
    ),
    "tensor": (
        lambda changed: onnx_dynamic.quantize(changed, False, (), {}),
        lambda x, w: by_tensor(x) @ int8_weights(w),
    ),
    "8 bits": (
        lambda changed: onnx_blocks.quantize(changed, 8, ()),
        lambda x, w: in_blocks(x, eight_bits) @ in_blocks(w.T, eight_bits).T,
    ),
    "4 bits": (
        lambda changed: onnx_blocks.quantize(changed, 4, ()),
        lambda x, w: in_blocks(x, eight_bits) @ in_blocks(w.T, four_bits).T,
    ),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_linear_layer_computes_the_simulation(
    shape: str, scheme: str
) -> None:
    """With any batch, no float product left, and the bias in one place."""
    signature, body, weight, bias = SHAPES[shape]
    change, simulated = SCHEMES[scheme]
    changed = model(signature, body)
    change(changed)
    assert (
        not {"MatMul", "Gemm", "Transpose"}
        & onnx_graph.operators(changed.graph).keys()
    )
    for batch in (1, 4):
        x = data(signature, batch)
        close(run(changed, x), simulated(x, weight) + bias)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_that_share_an_input_each_have_their_own_weights(
    scheme: str,
) -> None:
    """The rounding of the input is written once."""
    change, simulated = SCHEMES[scheme]
    changed = model(ROWS, "a = MatMul(x, W)  b = MatMul(x, V)  y = Add(a, b)")
    change(changed)
    operators = onnx_graph.operators(changed.graph)
    assert (
        max(
            operators.get("QuantizeLinear", 0),
            operators.get("DynamicQuantizeLinear", 0),
        )
        <= 1
    )
    x = data(ROWS)
    close(run(changed, x), simulated(x, W) + simulated(x, V))


@pytest.mark.parametrize(
    ("operator", "floor"), [("Relu", 0.0), ("Gelu", -0.17), ("Softmax", 0.0)]
)
def test_an_input_with_a_floor_uses_all_256_steps_above_it(
    operator: str, floor: float
) -> None:
    """After ReLU, Softmax and GELU no step is spent on numbers that cannot occur; the bias
    holds the floor's part.
    """
    changed = model(ROWS, f"h = {operator}(x)  m = MatMul(h, W)  y = Add(m, B)")
    x = data(ROWS)
    shown = run(model(ROWS, f"y = {operator}(x)"), x)
    onnx_dynamic.quantize(changed, True, (), {})
    result = run(changed, x)
    close(result, by_rows(shown, floor) @ int8_weights(W) + B)
    finer, coarser = (
        numpy.abs(answer - (shown @ int8_weights(W) + B)).mean()
        for answer in (result, by_rows(shown) @ int8_weights(W) + B)
    )
    assert finer < 0.75 * coarser


@pytest.mark.parametrize(
    "body",
    [
        "h = Identity(x)  y = MatMul(h, W)",
        "h = Relu(x)  y = MatMul(h, W)",
        "h = Gelu(x)  m = MatMul(h, W)  y = Add(m, B)",
    ],
)
def test_channels_in_float_set_no_scale_and_lose_nothing(body: str) -> None:
    """Two input channels 100 times as large go around the integers; the others are rounded
    as if these were not there.
    """
    x = data(ROWS)
    x[..., [3, 70]] *= 100
    changed = model(ROWS, body)
    onnx_dynamic.quantize(changed, True, (), {"h": (3, 70)})
    shown = run(model(ROWS, body.replace("h = ", "y = ").partition("  ")[0]), x)
    floor = {"Identity": None, "Relu": 0.0, "Gelu": -0.17}[
        body[4:].partition("(")[0]
    ]
    rest = [channel for channel in range(INPUTS) if channel not in (3, 70)]
    expected = (
        by_rows(shown, floor, rest)[..., rest] @ int8_weights(W[rest])
        + shown[..., [3, 70]] @ W[[3, 70]]
    )
    close(run(changed, x), expected + (B if "B" in body else 0))


def test_a_row_of_zeros_gives_the_bias_and_no_nan() -> None:
    """Padding is often exactly zero."""
    changed = model(ROWS, "h = MatMul(x, W)  y = Add(h, B)")
    onnx_dynamic.quantize(changed, True, (), {})
    numpy.testing.assert_allclose(
        run(changed, numpy.zeros((2, 3, INPUTS), "float32")),
        numpy.broadcast_to(B, (2, 3, OUTPUTS)),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        (
            f"float[{INPUTS}, batch] x",
            "y = Gemm <transA = 1> (x, W)",
            "it transposes its input",
        ),
        (
            FLAT,
            "c = MatMul(x, V)  y = Gemm(x, W, c)",
            "its bias is not a stored vector",
        ),
    ],
)
def test_what_is_not_covered_is_reported(
    signature: str, body: str, reason: str
) -> None:
    """A product of another kind stays in float, with its reason."""
    edit = Edit(model(signature, body))
    _, left = onnx_linear.find_linears(edit, ())
    assert [item.reason for item in left] == [reason]


def test_a_sum_that_others_read_too_keeps_its_add() -> None:
    """The product is read twice: only the product is replaced, and both readers get it."""
    changed = model(FLAT, "h = MatMul(x, W)  a = Add(h, B)  y = Mul(a, h)")
    onnx_dynamic.quantize(changed, True, (), {})
    x = data(FLAT)
    product = by_rows(x) @ int8_weights(W)
    close(run(changed, x), (product + B) * product)


def test_small_weights_stay_and_paths_are_those_of_their_part() -> None:
    """10 x 10 weights are not worth it; ``part.path`` is the part's own ``path``."""
    small = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> '
        "g (float[n, 10] x) => (float[n, 10] y) { y = MatMul(x, S) }"
    )
    small.graph.initializer.append(
        onnx.numpy_helper.from_array(numpy.ones((10, 10), "float32"), "S")
    )
    layers, left = onnx_linear.find_linears(Edit(small), ())
    assert layers == []
    assert "100 weights save less" in left[0].reason
    assert onnx_linear.paths_in_part(
        ("text.layer.1", "image.head"), "text"
    ) == ("layer.1",)
    assert onnx_linear.paths_in_part(("layer.1",), "main") == ("layer.1",)
    changed = model(FLAT, "y = MatMul(x, W)").graph
    onnx_linear.refuse_unknown(("layer0",), {"main": changed})
    onnx_linear.refuse_unknown(("text.layer0",), {"text": changed})
    with pytest.raises(StepError, match="Did you mean 'text.layer0'"):
        onnx_linear.refuse_unknown(("text.layer1",), {"text": changed})


@pytest.mark.parametrize("rows", [400, 300])
def test_an_embedding_has_per_row_scales_if_it_is_large_enough(
    rows: int,
) -> None:
    """Each row is within half its own step; a table below 64 kB is left unchanged."""
    table = (
        RANDOM.standard_normal((rows, 48))
        * numpy.geomspace(0.01, 100, rows)[:, None]
    ).astype("float32")
    source = (
        '<ir_version: 10, opset_import: ["" : 20]> '
        "g (int64[n, 5] x) => (float[n, 5, 48] y) { y = Gather <axis = 0> (E, x) }"
    )
    lookup = onnx.parser.parse_model(source)
    lookup.graph.initializer.append(onnx.numpy_helper.from_array(table, "E"))
    edit = Edit(lookup)
    nodes = onnx_linear.find_tables(edit, ())
    assert len(nodes) == (rows == 400)
    for node in nodes:
        onnx_linear.quantize_table(edit, node)
    edit.finish()
    index = numpy.arange(rows // 5 * 5).reshape(-1, 5)
    steps = numpy.abs(table[index]).max(-1, keepdims=True) / 127
    assert (
        numpy.abs(run(lookup, index) - table[index])
        <= 0.51 * steps * len(nodes)
    ).all()
