"""A graph that was rewritten is valid."""

import numpy
import onnx
import onnxruntime
import pytest

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.edit import MICROSOFT, Edit


def model(body: str, **stored: numpy.ndarray) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> '
        f"g (float[n, 4] x) => (float[n, 4] y) {{ {body} }}"
    )
    parsed.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name)
        for name, value in stored.items()
    )
    return parsed


def test_new_nodes_take_the_place_of_old_ones_in_order_with_names_of_their_own() -> (
    None
):
    """ONNX Runtime refuses a file with two nodes of one name, and a domain that is not
    declared.
    """
    result = model("h = Add(x, a)  y = Neg(h)", a=numpy.ones(4, "float32"))
    result.graph.node[1].name = "m/Neg"
    edit = Edit(result)
    edit.drop(result.graph.node[0])
    half = edit.add("Mul", ["x", edit.number(0.5)], "m")
    twice = edit.add("Neg", [half], "m")
    again = edit.add("Neg", [twice], "m")
    edit.add("Add", [again, edit.number(0.5)], "m", "h")
    edit.finish()
    onnx.checker.check_model(result, full_check=True)
    assert onnx_graph.is_sorted(result.graph)
    assert [node.name for node in result.graph.node] == [
        "m/Mul",
        "m/Neg.2",
        "m/Neg.3",
        "m/Add",
        "m/Neg",
    ]
    assert len(result.graph.initializer) == 1, (
        "equal constants are stored once, unused ones not at all"
    )
    session = onnxruntime.InferenceSession(
        result.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    numpy.testing.assert_array_equal(
        session.run(None, {"x": numpy.ones((2, 4), "float32")})[0],
        numpy.full((2, 4), -1, "float32"),
    )
    assert MICROSOFT not in {entry.domain for entry in result.opset_import}


def test_an_operator_of_onnx_runtime_brings_its_domain() -> None:
    """Once, however often it is used."""
    result = model("y = Neg(x)")
    for _ in range(2):
        edit = Edit(result)
        edit.add("MatMulNBits", ["x"], K=4, N=4, bits=8, block_size=32)
        kept = edit.graph.node[0]
        edit.finish()
        assert kept.op_type == "Neg"
    result.graph.node.append(
        onnx.helper.make_node("MatMulNBits", ["x"], ["z"], domain=MICROSOFT)
    )
    Edit(result).finish()
    assert [entry.domain for entry in result.opset_import].count(MICROSOFT) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("t = Identity(w)", numpy.arange(6).reshape(2, 3)),
        ("t = Transpose(w)", numpy.arange(6).reshape(2, 3).T),
        (
            "s = Transpose <perm = [1, 0]> (w)  t = Transpose(s)",
            numpy.arange(6).reshape(2, 3),
        ),
        ("t = Neg(w)", None),
    ],
)
def test_a_stored_tensor_is_seen_through_transpose_and_identity(
    body: str, expected: numpy.ndarray | None
) -> None:
    """Nothing else is computed ahead."""
    edit = Edit(
        model(
            f"{body}  y = Neg(x)",
            w=numpy.arange(6, dtype="float32").reshape(2, 3),
        )
    )
    result = edit.stored("t")
    assert (result is None) == (expected is None)
    if expected is not None:
        numpy.testing.assert_array_equal(result, expected)
