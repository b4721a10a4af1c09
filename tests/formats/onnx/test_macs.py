"""Multiply-accumulates of single operators, run by ONNX Runtime itself, against their
formulas.
"""

import pathlib
from typing import Any

import numpy
import onnx
import pytest

from edgekit.formats.onnx.audit import read

FLOAT, MICROSOFT = onnx.TensorProto.FLOAT, "com.microsoft"


def work(
    folder: pathlib.Path,
    node: onnx.NodeProto,
    inputs: dict[str, Any],
    stored: dict[str, Any],
    outputs: dict[str, Any],
    opset: int = 20,
) -> tuple[int, int, dict[str, Any]]:
    """Integer and all MACs of a graph of one operator, and its row.

    Inputs and outputs: name -> shape of floats.
    """
    input_values, output_values = (
        [
            onnx.helper.make_tensor_value_info(name, FLOAT, shape)
            for name, shape in values.items()
        ]
        for values in (inputs, outputs)
    )
    constants = [
        onnx.numpy_helper.from_array(numpy.asarray(array), name)
        for name, array in stored.items()
    ]
    opsets = [
        onnx.helper.make_opsetid("", opset),
        onnx.helper.make_opsetid(MICROSOFT, 1),
    ]
    onnx.save(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                [node], "g", input_values, output_values, constants
            ),
            opset_imports=opsets,
            ir_version=10,
        ),
        str(folder / "one.onnx"),
    )
    report = read(folder / "one.onnx")
    share = report.measurements[0]
    assert share.value is not None, report.warnings
    (row,) = (dict(row) for row in report.rows if row["op"] == node.op_type)
    return share.detail["int8"], share.detail["all"], row


@pytest.mark.parametrize(("level", "dtype"), [(0, "float"), (4, "int8")])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_integer_with_level_four_only(
    bits: int, level: int, dtype: str, tmp_path: pathlib.Path
) -> None:
    """3-D input, batch free: 7 tokens * 64 * 48 products; in integers where accuracy_level
    is 4.
    """
    packed = numpy.full((48, 2, 32 * bits // 8), 17, "uint8")
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain=MICROSOFT,
        K=64,
        N=48,
        bits=bits,
        block_size=32,
        accuracy_level=level,
    )
    every = 7 * 64 * 48
    shape = numpy.ones((48 * 2,), "float32")
    integer, report, row = work(
        tmp_path,
        node,
        {"x": ["n", 7, 64]},
        {"w": packed, "s": shape},
        {"y": ["n", 7, 48]},
    )
    assert (integer, report, row["dtype"]) == (
        every if level == 4 else 0,
        every,
        dtype,
    )


def test_a_quantized_attention_projects_in_integers_and_attends_in_float(
    tmp_path: pathlib.Path,
) -> None:
    """5 tokens, 16 inputs, 16 hidden values: 5*16*48 integer products for query, key and
    value, 2*5*5*16 float ones.
    """
    node = onnx.helper.make_node(
        "QAttention",
        ["q", "w", "b", "sx", "sw", "", "zx", "zw"],
        ["y"],
        domain=MICROSOFT,
        num_heads=2,
    )
    one = numpy.float32(0.1)
    stored = {
        "q": numpy.zeros((1, 5, 16), "uint8"),
        "w": numpy.ones((16, 48), "int8"),
        "b": numpy.zeros(48, "float32"),
        "sx": one,
        "sw": one,
        "zx": numpy.uint8(128),
        "zw": numpy.int8(0),
    }
    del stored["q"]
    graph_input = onnx.helper.make_tensor_value_info(
        "q", onnx.TensorProto.UINT8, ["n", 5, 16]
    )
    constants = [
        onnx.numpy_helper.from_array(numpy.asarray(array), name)
        for name, array in stored.items()
    ]
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [graph_input],
        [onnx.helper.make_tensor_value_info("y", FLOAT, ["n", 5, 16])],
        constants,
    )
    opsets = [
        onnx.helper.make_opsetid("", 20),
        onnx.helper.make_opsetid(MICROSOFT, 1),
    ]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10),
        str(tmp_path / "attention.onnx"),
    )
    share = read(tmp_path / "attention.onnx").measurements[0]
    assert (share.detail["int8"], share.detail["all"]) == (
        5 * 16 * 48,
        5 * 16 * 48 + 2 * 5 * 5 * 16,
    )


def test_attention_in_its_float_forms(tmp_path: pathlib.Path) -> None:
    """With projection weights; with query, key and value given (3 queries, 5 keys); and
    ONNX's own of opset 23.
    """
    own = onnx.helper.make_node(
        "Attention", ["x", "w", "b"], ["y"], domain=MICROSOFT, num_heads=2
    )
    stored = {
        "w": numpy.ones((16, 48), "float32"),
        "b": numpy.zeros(48, "float32"),
    }
    assert work(
        tmp_path, own, {"x": ["n", 5, 16]}, stored, {"y": ["n", 5, 16]}
    )[:2] == (
        0,
        5 * 16 * 48 + 2 * 5 * 5 * 16,
    )
    input_values = onnx.helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v"],
        ["y"],
        domain=MICROSOFT,
        num_heads=2,
    )
    shapes = {"q": ["n", 3, 16], "k": ["n", 5, 16], "v": ["n", 5, 16]}
    assert work(tmp_path, input_values, shapes, {}, {"y": ["n", 3, 16]})[
        :2
    ] == (
        0,
        2 * 3 * 5 * 16,
    )
    standard = onnx.helper.make_node(
        "Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2
    )
    assert work(tmp_path, standard, shapes, {}, {"y": ["n", 3, 16]}, opset=23)[
        :2
    ] == (
        0,
        2 * 3 * 5 * 16,
    )


def test_einsum_counts_the_sizes_of_its_letters(tmp_path: pathlib.Path) -> None:
    """Batch 1, 4 heads, 5 queries, 6 keys, 8 values."""
    node = onnx.helper.make_node(
        "Einsum", ["q", "k"], ["y"], equation="bhqd, bhkd -> bhqk"
    )
    assert work(
        tmp_path,
        node,
        {"q": ["n", 4, 5, 8], "k": ["n", 4, 6, 8]},
        {},
        {"y": ["n", 4, 5, 6]},
    )[:2] == (0, 4 * 5 * 6 * 8)


def test_transposed_data_of_a_gemm(tmp_path: pathlib.Path) -> None:
    """transA: the inner size is the first one."""
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)
    assert work(
        tmp_path,
        node,
        {"x": [6, 2]},
        {"w": numpy.ones((6, 3), "float32")},
        {"y": [2, 3]},
    )[:2] == (0, 2 * 6 * 3)


def test_a_gru_of_both_directions(tmp_path: pathlib.Path) -> None:
    """2 directions, 3 gates, 4 hidden values, 5 inputs, 7 steps."""
    node = onnx.helper.make_node(
        "GRU", ["x", "w", "r"], ["y"], hidden_size=4, direction="bidirectional"
    )
    stored = {
        "w": numpy.ones((2, 12, 5), "float32"),
        "r": numpy.ones((2, 12, 4), "float32"),
    }
    assert work(
        tmp_path, node, {"x": [7, "n", 5]}, stored, {"y": [7, 2, "n", 4]}
    )[:2] == (
        0,
        7 * 2 * 12 * (5 + 4),
    )


def test_a_loop_counts_as_often_as_it_runs(tmp_path: pathlib.Path) -> None:
    """A matrix product inside a loop of 3 rounds is 3 products; the branch of an If that is
    not taken is none.
    """
    loop = onnx.parser.parse_graph("""
        g (float[n,4] x) => (float[n,4] y) <int64 rounds = {3}, bool yes = {1}> {
            y = Loop (rounds, yes, x) <
                body = inside (int64 i, bool going, float[n,4] a) => (bool on, float[n,4] b) {
                    on = Identity(going) b = MatMul(a, w)
                }
            >
        }""")
    branch = onnx.parser.parse_graph("""
        g (float[n,4] x, bool choose) => (float[n,4] y) {
            y = If (choose) <
                then_branch = yes () => (float[n,4] a) { a = MatMul(x, w) },
                else_branch = no () => (float[n,4] b) { b = Relu(x) }
            >
        }""")
    for name, graph, expected in (
        ("loop", loop, 3 * 4 * 4),
        ("if", branch, None),
    ):
        graph.initializer.append(
            onnx.numpy_helper.from_array(numpy.eye(4, dtype="float32"), "w")
        )
        onnx.save(
            onnx.helper.make_model(
                graph,
                opset_imports=[onnx.helper.make_opsetid("", 20)],
                ir_version=10,
            ),
            str(tmp_path / f"{name}.onnx"),
        )
        report = read(tmp_path / f"{name}.onnx")
        assert (report.measurements[0].detail or {}).get("all") == expected, (
            name
        )
        assert any(row["op"] == "MatMul" for row in report.rows) is (
            expected is not None
        )
