"""The build script as a process: its responses, what it rejects, and how it parses the
builder's log.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.formats.tensorrt import build as tensorrt_build

pytest.importorskip("tensorrt_rtx")

TENSOR = (
    "{{ Name: {0}, Dimensions: [{1}], Strides: [1], StrideOrder: [0], Datatype: {2}, "
    "Format: (Linear) Row major linear format }}"
)


def save(
    path: pathlib.Path,
    nodes: list[Any],
    constants: list[Any],
    output: str = "output",
) -> pathlib.Path:
    graph_input, graph_output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8])
        for name in ("input", output)
    )
    graph = helper.make_graph(
        nodes, "graph", [graph_input], [graph_output], constants
    )
    onnx.save(
        helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", 20),
                helper.make_opsetid("my.own", 1),
            ],
            ir_version=10,
        ),
        str(path),
    )
    return path


def gemm(path: pathlib.Path, quantized: type | None = None) -> pathlib.Path:
    """One 8x8 Gemm, its data quantized to int8 or uint8 where asked for, always with zero
    point 0.
    """
    weights = numpy_helper.from_array(numpy.eye(8, dtype="float32"), "weights")
    if quantized is None:
        return save(
            path,
            [
                helper.make_node(
                    "Gemm", ["input", "weights"], ["output"], name="gemm"
                )
            ],
            [weights],
        )
    scale, zero = (
        numpy_helper.from_array(numpy.float32(0.1), "scale"),
        numpy_helper.from_array(quantized(0), "zero"),
    )
    nodes = [
        helper.make_node(
            "QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantize"
        ),
        helper.make_node(
            "DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantize"
        ),
        helper.make_node("Gemm", ["x", "weights"], ["output"], name="gemm"),
    ]
    return save(path, nodes, [weights, scale, zero])


def ask(
    path: pathlib.Path, engine: pathlib.Path, **changed: Any
) -> dict[str, Any]:
    request = {
        "module": "tensorrt_rtx",
        "onnx": str(path),
        "engine": str(engine),
        "compute_capabilities": ["SM86"],
        "profiles": [{"input": [[1, 8], [1, 8], [4, 8]]}],
        **changed,
    }
    done = subprocess.run(
        [sys.executable, tensorrt_build.__file__, "-"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def error_text(answer: dict[str, Any]) -> str:
    return "\n".join(error["text"] for error in answer["errors"])


def test_a_build_answers_with_layers_memory_and_version(
    tmp_path: pathlib.Path,
) -> None:
    """stdout is one JSON document; the engine has the reported size, and nothing else
    is written.
    """
    folder = tmp_path / "out"
    folder.mkdir()
    answer = ask(gemm(tmp_path / "gemm.onnx"), folder / "main.engine")
    assert (
        answer["ok"]
        and answer["stage"] == "done"
        and answer["version"].startswith("1.")
    )
    assert [path.name for path in folder.iterdir()] == ["main.engine"]
    assert answer["engine_bytes"] == (folder / "main.engine").stat().st_size > 0
    (row,) = [row for row in answer["layers"] if row["kind"]]
    assert (
        row["kind"] == "gemm"
        and row["dtype"] == "Float"
        and "gemm" in row["origins"]
    )
    assert answer["memory"]["weights"] >= 8 * 8 * 4 and set(
        answer["memory"]
    ) == {
        "weights",
        "activation",
        "scratch",
    }


@pytest.mark.parametrize("names", [[], ["SM80", "SM121"]])
def test_capabilities_may_be_left_to_the_library(
    tmp_path: pathlib.Path, names: list[str]
) -> None:
    """No capability named, or others than the usual three: both build."""
    assert ask(
        gemm(tmp_path / "gemm.onnx"),
        tmp_path / "x.engine",
        compute_capabilities=names,
    )["ok"]


@pytest.mark.parametrize(
    "names", [["SM87"], ["SM90"], ["SM86", "NONE"], ["CURRENT"]]
)
def test_a_capability_outside_the_library_s_list_ends_the_build(
    tmp_path: pathlib.Path, names: list[str]
) -> None:
    """Also the words of the enumeration that name no GPU are refused; the answer lists what
    there is.
    """
    answer = ask(
        gemm(tmp_path / "gemm.onnx"),
        tmp_path / "x.engine",
        compute_capabilities=names,
    )
    assert not answer["ok"] and answer["stage"] == "capability"
    assert (
        f"{names[-1]} is not a compute capability of this version; it has SM75, SM80, SM86"
        in error_text(answer)
    )
    assert not (tmp_path / "x.engine").exists()


def test_uint8_that_would_be_taken_for_int8_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    """TensorRT only warns and builds an engine with other numbers; the script writes no
    engine. The int8 graph is fine.
    """
    answer = ask(
        gemm(tmp_path / "u8.onnx", numpy.uint8), tmp_path / "u8.engine"
    )
    assert (
        not answer["ok"]
        and tensorrt_build.FATAL_WARNING in error_text(answer)
        and not (tmp_path / "u8.engine").exists()
    )
    assert ask(gemm(tmp_path / "s8.onnx", numpy.int8), tmp_path / "s8.engine")[
        "ok"
    ]


def test_all_nodes_that_the_parser_names_are_listed(
    tmp_path: pathlib.Path,
) -> None:
    """Two custom operators are reported together, each with its node and operator."""
    nodes = [
        helper.make_node(
            "Frobnicate", ["input"], ["a"], name="first", domain="my.own"
        ),
        helper.make_node(
            "Mystery", ["a"], ["output"], name="second", domain="my.own"
        ),
    ]
    answer = ask(
        save(tmp_path / "custom.onnx", nodes, []), tmp_path / "x.engine"
    )
    assert answer["stage"] == "parse" and [
        (error["node"], error["op"]) for error in answer["errors"]
    ] == [("first", "Frobnicate"), ("second", "Mystery")]
    assert "Plugin not found" in error_text(answer)


@pytest.mark.parametrize(
    "profiles",
    [
        [],
        [{"input": [[4, 8], [4, 8], [1, 8]]}],
        [{"wrong": [[1, 8], [1, 8], [4, 8]]}],
    ],
)
def test_a_free_batch_needs_a_right_profile(
    tmp_path: pathlib.Path, profiles: list[Any]
) -> None:
    """No profile, a minimum above the maximum and an unknown input end the build with the
    library's reason.
    """
    answer = ask(
        gemm(tmp_path / "gemm.onnx"), tmp_path / "x.engine", profiles=profiles
    )
    assert (
        not answer["ok"]
        and answer["stage"] == "build"
        and answer["errors"]
        and not (tmp_path / "x.engine").exists()
    )


def test_a_missing_library_is_an_answer_not_a_crash(
    tmp_path: pathlib.Path,
) -> None:
    """The stage ``import`` and the reason."""
    answer = ask(
        gemm(tmp_path / "gemm.onnx"),
        tmp_path / "x.engine",
        module="tensorrt_of_nobody",
    )
    assert answer[
        "stage"
    ] == "import" and "No module named 'tensorrt_of_nobody'" in error_text(
        answer
    )


def line(
    name: str,
    kind: str,
    *,
    inputs: list[str],
    constants: list[str],
    origins: str = "",
) -> str:
    """One line of a ``Layers:`` block; a tensor is written ``8x3x3 Int8``."""

    def tensors(texts: list[str]) -> str:
        return ", ".join(
            TENSOR.format(
                f"t{k}", text.split()[0].replace("x", ","), text.split()[1]
            )
            for k, text in enumerate(texts)
        )

    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensors(inputs)}], "
        f"Constants: [ {tensors(constants)}], Outputs: [ {tensors(inputs[:1])}], "
        f"TacticName: some_tactic, StreamId: 0, Metadata: {origins}"
    )


@pytest.mark.parametrize(
    ("name", "kind", "inputs", "constants", "expected"),
    [
        (
            "c",
            "correlation",
            ["-1x4x8x8 Int8"],
            ["16x4x3x3 Int8", "1x16x1x1 Float"],
            ("conv", "Int8"),
        ),
        (
            "computed weights",
            "correlation",
            ["-1x4x8x8 Half", "16x4x3x3 Half"],
            ["1 Float", "1x16x1x1 Half"],
            ("conv", "Half"),
        ),
        (
            "weights of one axis",
            "gemm",
            ["-1x64 Int8"],
            ["64x1 Int8", "1 Float"],
            ("gemm", "Int8"),
        ),
        (
            "weight-only",
            "gemm",
            ["-1x64 Half"],
            ["64x10 Int8", "1 Float"],
            ("gemm", "HalfxInt8"),
        ),
        (
            "attention",
            "gemm",
            ["-1x16x16 Int8", "-1x16x16 Int8"],
            ["1 Float", "1 Float"],
            ("gemm", "Int8"),
        ),
        (
            "up",
            "deconv",
            ["-1x32x4x4 Float", "32x16x2x2 Float"],
            ["1 Float", "1x16x1x1 Float"],
            ("deconv", "Float"),
        ),
        (
            "__myl_CorrAddRelu_myl0_5",
            "runtime_fusion",
            ["-1x32x4x4 Half"],
            ["1x32x1x1 Half", "32x8x3x3 Half"],
            ("conv", "Half"),
        ),
        (
            "__myl_FcAddDivErf_myl0_5",
            "runtime_fusion",
            ["-1x64 Float"],
            ["64x128 Float", "1x128 Float"],
            ("gemm", "Float"),
        ),
        (
            "_gemm_mha_v2_myl0_5",
            "kgen",
            ["-1x4x16x16 Half"],
            [],
            ("gemm", "Half"),
        ),
        (
            "__myl_MulMinMaxRoun_myl0_1",
            "kgen",
            ["-1x3x8x8 Float"],
            ["1 Float"],
            ("", "Float"),
        ),
        ("pool", "avgpool", ["-1x16x8x8 Int8"], ["16 Float"], ("", "Int8")),
    ],
)
def test_a_layer_s_datatype_is_that_of_its_data_and_weights(
    name: str,
    kind: str,
    inputs: list[str],
    constants: list[str],
    expected: tuple[str, str],
) -> None:
    """Scales, biases and the constants alpha and beta do not count; mixed layers are reported
    as such.
    """
    (row,) = tensorrt_build.parse_layers(
        "something before\nLayers:\n"
        + line(name, kind, inputs=inputs, constants=constants)
        + "\n\nI/O Tensors:\n Name: input"
    )
    assert (row["kind"], row["dtype"]) == expected and row["name"] == name


def test_origins_and_transposes_are_read() -> None:
    """Names with brackets, commas and the record separator are parsed completely; a
    generated kernel that transposes is marked.
    """
    origins = "[ONNX Layer: conv[0]/a, b]\x1e[ONNX Layer: /relu]"
    rows = tensorrt_build.parse_layers(
        "\nLayers:\n"
        + "\n".join(
            (
                line(
                    "conv, first",
                    "correlation",
                    inputs=["1x4x8x8 Int8"],
                    constants=["16x4x3x3 Int8"],
                    origins=origins,
                ),
                line(
                    "__myl_ReshTranMul_myl0_8",
                    "kgen",
                    inputs=["1x4 Float"],
                    constants=[],
                    origins="[ONNX Layer: a][ONNX Layer: b]",
                ),
                line(
                    "__myl_Trans_myl0_8",
                    "kgen",
                    inputs=["1x4 Float"],
                    constants=[],
                ),
            )
        )
    )
    assert [row["origins"] for row in rows] == [
        ["conv[0]/a, b", "/relu"],
        ["a", "b"],
        [],
    ]
    assert [row["transposes"] for row in rows] == [False, True, False] and rows[
        0
    ]["name"] == "conv, first"


def test_the_words_of_classic_tensorrt_are_read() -> None:
    """Classic TensorRT writes Format/Datatype and names the weights' type apart (after its
    public logs; it was not run here).
    """
    tensor = (
        "{ Name: x, Location: Device, Dimensions: [1,64,56,56], Format/Datatype: Thirty-two "
        "wide channel vectorized row major Int8 format }"
    )
    text = (
        f"Layers:\nName: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ {tensor}], "
        f"Outputs: [ {tensor}], ParameterType: Convolution, "
        'Kernel: [3,3], Weights: {"Type": "Int8", "Count": 36864}, '
        'Bias: {"Type": "Float", "Count": 64}, '
        "Metadata: [ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"
    )
    (row,) = tensorrt_build.parse_layers(text)
    assert (row["kind"], row["dtype"], row["origins"]) == (
        "conv",
        "Int8",
        ["conv1", "relu1"],
    ) and row["inputs"] == [["Int8", [1, 64, 56, 56]]]


def test_a_log_without_the_block_has_no_layers() -> None:
    """Less verbose logs give an empty list, not an error, and so does memory."""
    assert (
        tensorrt_build.parse_layers(
            "Engine generation completed in 0.2 seconds."
        )
        == []
        and tensorrt_build.parse_memory("") == {}
    )
