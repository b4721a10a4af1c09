"""Cleaning a graph leaves what it computes alone."""

import pathlib

import numpy
import onnx
import pytest

from edgekit.errors import StepError
from edgekit.formats.onnx import compact as onnx_compact
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
    changed = model(
        f"g (float[1] x) => (float[1] y) <{constants}> {{"
        " u = Mul(x, a) y = Add(u, b) dead = Neg(u) gone = Add(dead, c) }"
    )
    onnx_graph.sweep(changed.graph)
    onnx_compact.share_constants(changed.graph)
    assert [node.op_type for node in changed.graph.node] == ["Mul", "Add"]
    assert (
        len(changed.graph.initializer) == 1
        and changed.graph.node[0].input[1] == changed.graph.node[1].input[1]
    )


def test_short_names_never_meet_an_input_or_output() -> None:
    """An input named t0 keeps its name for itself."""
    changed = model(
        "g (float[1] t0) => (float[1] t1) <float long_name = {2.0}> {"
        " longer_name = Mul(t0, long_name) t1 = Neg(longer_name) }"
    )
    onnx_compact.shorten(changed)
    onnx.checker.check_model(changed, full_check=True)
    assert (
        changed.graph.input[0].name == "t0"
        and changed.graph.output[0].name == "t1"
        and changed.graph.node[0].input[0] == "t0"
    )
    assert (
        len(
            {
                changed.graph.node[0].input[1],
                changed.graph.node[0].output[0],
                "t0",
                "t1",
            }
        )
        == 4
    )


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


def test_a_cycle_is_refused() -> None:
    """Sorting ends."""
    with pytest.raises(StepError, match="contains a cycle at Add"):
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
                then_branch = yes () => (float[2] p) <float[2] inside = {5, 6}> {
                    p = Add(x, inside)
                },
                else_branch = no () => (float[2] q) { q = Add(a, c) }
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
    """A step's artifact has one file for each part: other files would be lost."""
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
    with pytest.raises(
        StepError, match="main.onnx stores its weights in other files"
    ):
        onnx_graph.read(tmp_path / "main.onnx")


def branches() -> onnx.GraphProto:
    """An If whose branch reads ``a`` and ``x`` from outside, and computes ``p`` and ``q``."""
    return onnx.parser.parse_graph("""
        g (float[2] x, bool choose) => (float[2] y) {
            a = Neg(x)
            unused = Relu(x)
            y = If (choose) <
                then_branch = yes () => (float[2] q) <float[2] w = {1, 2}> {
                    q = Add(p, w)
                    p = Mul(a, x)
                },
                else_branch = no () => (float[2] r) { r = Neg(x) }
            >
        }""")


def test_a_node_reads_what_its_subgraphs_read_from_outside() -> None:
    """Not what they compute or store themselves, whatever the order of their nodes."""
    negative, _, choice = branches().node
    assert onnx_graph.inputs(negative) == {"x"}
    assert onnx_graph.inputs(choice) == {"choose", "a", "x"}
    assert [node.op_type for node in onnx_graph.consumers(branches())["a"]] == [
        "If"
    ]


def test_sweeping_and_sorting_look_into_subgraphs() -> None:
    """The node that only a branch reads stays, and comes before the If."""
    graph = branches()
    onnx_graph.replace_nodes(graph, list(graph.node)[::-1])
    assert not onnx_graph.is_sorted(graph)
    onnx_graph.sort(graph)
    assert onnx_graph.is_sorted(graph)
    onnx_graph.sweep(graph)
    assert [node.op_type for node in graph.node] == ["Neg", "If"]


def test_an_unused_if_is_removed() -> None:
    """ONNX operators have no side effects."""
    graph = branches()
    graph.output[0].name = "a"
    onnx_graph.sweep(graph)
    assert [node.op_type for node in graph.node] == ["Neg"]


def test_a_truncated_model_computes_one_tensor_and_the_original_is_unchanged() -> (
    None
):
    """As a latency estimate needs it."""
    original = model(
        "g (float[1] x) => (float[1] y) { a = Neg(x) b = Relu(a) y = Exp(b) }"
    )
    output = onnx.helper.make_tensor_value_info(
        "a", onnx.TensorProto.FLOAT, [1]
    )
    short = onnx_graph.truncate(original, output)
    onnx.checker.check_model(short, full_check=True)
    assert onnx_graph.operators(short.graph) == {"Neg": 1}
    assert len(original.graph.node) == 3
