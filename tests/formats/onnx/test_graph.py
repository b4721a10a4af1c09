"""Cleaning a graph leaves what it computes alone."""

import pathlib

import numpy
import onnx
import pytest

from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph


def model(text: str) -> onnx.ModelProto:
    return onnx.helper.make_model(
        onnx.parser.parse_graph(text),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )


def test_unread_nodes_and_constants_go_and_equal_ones_are_stored_once() -> None:
    """What the outputs need stays."""
    constants = "float a = {2.0}, float b = {2.0}, float c = {3.0}"
    made = model(
        f"g (float[1] x) => (float[1] y) <{constants}> {{ u = Mul(x, a) y = Add(u, b) dead = Neg(u) gone = Add(dead, c) }}"
    )
    onnx_graph.sweep(made.graph)
    onnx_graph.share_constants(made.graph)
    assert [node.op_type for node in made.graph.node] == ["Mul", "Add"]
    assert (
        len(made.graph.initializer) == 1
        and made.graph.node[0].input[1] == made.graph.node[1].input[1]
    )


def test_short_names_never_meet_an_input_or_output() -> None:
    """An input that is called t0 keeps its name for itself."""
    made = model(
        "g (float[1] t0) => (float[1] t1) <float long_name = {2.0}> { longer_name = Mul(t0, long_name) t1 = Neg(longer_name) }"
    )
    onnx_graph.shorten(made)
    onnx.checker.check_model(made, full_check=True)
    assert (
        made.graph.input[0].name == "t0"
        and made.graph.output[0].name == "t1"
        and made.graph.node[0].input[0] == "t0"
    )
    assert len({made.graph.node[0].input[1], made.graph.node[0].output[0], "t0", "t1"}) == 4


def test_a_broken_file_is_refused(tmp_path: pathlib.Path) -> None:
    """On reading and on writing."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x01garbage")
    with pytest.raises(StepError, match="not a valid ONNX file"):
        onnx_graph.read(path)
    with pytest.raises(StepError, match="would not be a valid"):
        onnx_graph.write(
            model("g (float[1] x) => (float[1] y) { y = Relu(nowhere) }"), path
        )


def test_a_circle_is_refused() -> None:
    """Sorting ends."""
    with pytest.raises(StepError, match="circle"):
        onnx_graph.sort(
            model(
                "g (float[1] x) => (float[1] y) { a = Add(x, b) b = Neg(a) y = Neg(b) }"
            ).graph
        )


def test_stored_tensors_of_inner_graphs_and_constant_nodes_are_found() -> None:
    """A quantized weight inside a branch is a stored tensor too."""
    graph = onnx.parser.parse_graph("""
        g (float[2] x, bool choose) => (float[2] y) <float[2] a = {1, 2}> {
            c = Constant <value = float[2] {3, 4}> ()
            y = If (choose) <
                then_branch = yes () => (float[2] p) <float[2] inside = {5, 6}> { p = Add(x, inside) }, else_branch = no () => (float[2] q) { q = Add(a, c) }
            >
        }""")
    assert onnx_graph.stored(graph).keys() == {"a", "c", "inside"}
    assert [node.op_type for node in onnx_graph.nodes(graph)] == [
        "Constant",
        "If",
        "Add",
        "Add",
    ]


def test_weights_outside_the_file_are_refused(tmp_path: pathlib.Path) -> None:
    """A step's artifact is one file a part: what lies beside it would be lost."""
    graph = onnx.parser.parse_graph(
        "g (float[n,32] x) => (float[n,32] y) { y = MatMul(x, w) }"
    )
    graph.initializer.append(
        onnx.numpy_helper.from_array(numpy.ones((32, 32), "float32"), "w")
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(
        model,
        str(tmp_path / "main.onnx"),
        save_as_external_data=True,
        location="data.bin",
        size_threshold=0,
    )
    with pytest.raises(StepError, match="weights of main.onnx lie outside it"):
        onnx_graph.read(tmp_path / "main.onnx")
