"""Floors of tensors, and recurrent layers with int8 weights.

Linear layers are in test_linear.py.
"""

import numpy
import onnx
import onnxruntime
import pytest

from edgekit.formats.onnx import dynamic as onnx_dynamic
from edgekit.formats.onnx import graph as onnx_graph
from tests.processors import saturates

STEPS, INPUTS, HIDDEN = 6, 20, 24


def recurrent(directions: int, **settings: object) -> onnx.ModelProto:
    """An LSTM as the exporter writes it: [steps, batch, inputs] with stored weights."""
    random = numpy.random.default_rng(directions)
    shapes = {
        "W": (directions, 4 * HIDDEN, INPUTS),
        "R": (directions, 4 * HIDDEN, HIDDEN),
        "B": (directions, 8 * HIDDEN),
    }
    stored = [
        onnx.numpy_helper.from_array(
            (random.standard_normal(shape) * 0.2).astype("float32"), name
        )
        for name, shape in shapes.items()
    ]
    node = onnx.helper.make_node(
        "LSTM",
        ["x", "W", "R", "B"],
        ["y", "h"],
        name="rnn/LSTM",
        hidden_size=HIDDEN,
        direction="bidirectional" if directions == 2 else "forward",
        **settings,
    )
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
        for name, dims in (
            ("x", (STEPS, "batch", INPUTS)),
            ("y", (STEPS, directions, "batch", HIDDEN)),
            ("h", (directions, "batch", HIDDEN)),
        )
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], stored)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_has_int8_weights_and_answers_alike(directions: int) -> None:
    """All its outputs, within 4 steps of the output's range (input and state are rounded at
    each step); a quarter of the bytes.
    """
    changed = recurrent(directions)
    notes = onnx_dynamic.quantize(changed, True, (), {})
    assert notes["int8"] == {"LSTM": 1}
    onnx.checker.check_model(changed, full_check=True)
    assert onnx_graph.operators(changed.graph) == {"DynamicQuantizeLSTM": 1}
    assert changed.graph.node[0].name == "rnn/DynamicQuantizeLSTM"
    assert changed.ByteSize() < 0.35 * recurrent(directions).ByteSize()
    if saturates():
        pytest.skip(
            "ONNX Runtime's DynamicQuantizeLSTM saturates on this processor"
        )
    x = (
        numpy.random.default_rng(0)
        .standard_normal((STEPS, 3, INPUTS))
        .astype("float32")
    )
    first, second = (
        onnxruntime.InferenceSession(
            item.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": x})
        for item in (recurrent(directions), changed)
    )
    for expected, actual in zip(first, second, strict=True):
        assert (
            numpy.abs(actual - expected).max() <= 4 * numpy.ptp(expected) / 255
        )


def test_an_lstm_that_is_kept_or_has_its_batch_first_stays_float() -> None:
    """The runtime's int8 operator has no such layout; both are reported."""
    for changed, keep, reason in (
        (recurrent(1), ("rnn",), "it is in a module to keep in float"),
        (recurrent(1, layout=1), (), "layout"),
    ):
        notes = onnx_dynamic.quantize(changed, True, keep, {})
        assert onnx_graph.operators(changed.graph) == {"LSTM": 1}
        (left,) = notes["left_float"]  # type: ignore[misc]
        assert reason in left["reason"]


def test_floors_are_known_through_operators_that_keep_them() -> None:
    """GELU has a lowest value; what is never negative stays so through reshapes; a product
    of unknown sign has no floor.
    """
    text = (
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4] x) => (float[n, 4] y) '
        "{ a = Gelu(x)  b = Relu(x)  c = Transpose(b)  d = Mul(x, b)  e = Sigmoid(x)"
        "  y = Add(d, e) }"
    )
    assert onnx_dynamic.floors(onnx.parser.parse_model(text).graph) == {
        "a": -0.17,
        "b": 0.0,
        "c": 0.0,
        "e": 0.0,
    }
    x = numpy.linspace(-6, 6, 100001, dtype="float32")[:, None] * numpy.ones(
        (1, 4), "float32"
    )
    gelu = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> '
        "g (float[n, 4] x) => (float[n, 4] y) { y = Gelu(x) }"
    )
    lowest = (
        onnxruntime.InferenceSession(
            gelu.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        .run(None, {"x": x})[0]
        .min()
    )
    assert -0.17 <= lowest < -0.1699
