"""The audit of an engine: shares, float layers, transposes and warnings, from the build log
alone.
"""

import json
import pathlib
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Audit, Context
from edgekit.errors import RunnerError
from edgekit.formats.tensorrt.audit import audit
from edgekit.formats.tensorrt.export import OnnxToTensorrt
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits
from edgekit.task import Task

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 4, 8, 8)),
    ),
    outputs=(
        TensorSpec(name="output", dtype="float32", dims=("batch", 8, 16, 16)),
    ),
)


def row(
    kind: str, dtype: str, macs: int, node: str = "", transposes: bool = False
) -> dict[str, Any]:
    return {
        "name": f"layer of {node}",
        "type": kind or "kgen",
        "kind": kind,
        "dtype": dtype,
        "macs": macs,
        "nodes": [node] if node else [],
        "origins": [node] if node else [],
        "transposes": transposes,
    }


def artifact(
    folder: pathlib.Path, layers: list[dict[str, Any]], **changed: Any
) -> Artifact:
    log = {
        "module": "tensorrt_rtx",
        "version": "1.7.1",
        "compute_capabilities": ["SM86", "SM89"],
        "memory": {"weights": 1000, "activation": 500},
        "quantized": True,
        "uncounted": [],
        "layers": layers,
        **changed,
    }
    (folder / "main.log.json").write_text(json.dumps(log))
    return Artifact(
        format="tensorrt",
        parts=(
            Part(
                name="main",
                signature=SIGNATURE,
                files={"log": File(path="main.log.json")},
            ),
        ),
        folder=folder,
    )


def numbers(report: Audit) -> dict[str, float | None]:
    return {measured.name: measured.value for measured in report.measurements}


def test_the_share_is_of_multiply_accumulates(tmp_path: pathlib.Path) -> None:
    """Three quarters of the work in int8 is 0.75, whatever the number of layers; the rest
    is reported as float layers and warnings.
    """
    layers = [
        row("conv", "Int8", 600, "a"),
        row("gemm", "Int8", 150, "b"),
        row("deconv", "Float", 200, "up"),
        row("", "Float", 0, "relu", transposes=True),
        row("gemm", "Half", 50, "c"),
    ]
    report = audit(artifact(tmp_path, layers), Limits())
    assert numbers(report) == {
        "int8_mac_share": 0.75,
        "float_ops": 2,
        "transposes": 1,
    }
    assert (
        report.measurements[0].how.startswith("multiply-accumulates at batch 1")
        and "SM86, SM89, not run" in report.measurements[0].where
    )
    assert [line["op"] for line in report.rows] == [
        "conv",
        "gemm",
        "deconv",
        "kgen",
        "gemm",
    ]
    assert dict(report.rows[2]) == {
        "op": "deconv",
        "name": "layer of up",
        "dtype": "Float",
        "macs": 200,
        "module": "up",
        "part": "main",
    }
    assert list(report.warnings) == [
        "main: up (deconv) runs in Float although the graph is int8",
        "main: c (gemm) runs in Half although the graph is int8",
    ]


def test_without_multiply_accumulates_the_layers_are_counted(
    tmp_path: pathlib.Path,
) -> None:
    """If the work of a layer is unknown, the share is of layers, as ``how`` states."""
    report = audit(
        artifact(
            tmp_path, [row("conv", "Int8", 600, "a"), row("gemm", "Half", 0)]
        ),
        Limits(),
    )
    assert report.measurements[0].value == 0.5 and report.measurements[
        0
    ].how.startswith("layers")


@pytest.mark.parametrize("dtype", ["Int8", "Float"])
def test_a_product_inside_a_generated_kernel_is_float(
    tmp_path: pathlib.Path, dtype: str
) -> None:
    """A kernel may read int8, but it multiplies in float: it counts as a float layer."""
    report = audit(
        artifact(tmp_path, [row("kernel", dtype, 100, "small")]), Limits()
    )
    assert numbers(report) == {
        "int8_mac_share": 0.0,
        "float_ops": 1,
        "transposes": 0,
    }
    assert list(report.warnings) == [
        "main: small (kernel) runs inside a generated kernel although the graph is int8"
    ]


def test_weight_only_layers_are_not_int8(tmp_path: pathlib.Path) -> None:
    """Half data with int8 weights multiply in Half."""
    assert numbers(
        audit(artifact(tmp_path, [row("gemm", "HalfxInt8", 100)]), Limits())
    ) == {"int8_mac_share": 0.0, "float_ops": 1, "transposes": 0}


def test_fp8_layers_are_recognized_by_their_datatype(
    tmp_path: pathlib.Path,
) -> None:
    """8-bit floats are neither int8 nor float layers; a product that was promised and runs
    in Half is warned of, one of two activations is not.
    """
    layers = [
        row("conv", "FP8", 700, "stem"),
        row("gemm", "Half", 200, "head"),
        row("gemm", "Half", 100, "attention"),
    ]
    engine_artifact = artifact(
        tmp_path,
        layers,
        precision="FP8",
        promised={"stem": "FP8", "head": "FP8"},
    )
    report = audit(engine_artifact, Limits())
    assert numbers(report) == {
        "int8_mac_share": 0.0,
        "float_ops": 2,
        "transposes": 0,
    }
    assert report.measurements[0].detail["by_dtype"] == {
        "FP8": 700,
        "Half": 300,
    }
    assert list(report.warnings) == [
        "main: head (gemm) runs in Half although the graph is fp8"
    ]


def test_dequantized_four_bit_weights_are_reported(
    tmp_path: pathlib.Path,
) -> None:
    """The engine is right, and not faster for it."""
    layers = [
        row("gemm", "HalfxInt4", 700, "a"),
        row("gemm", "Float", 300, "b"),
    ]
    engine_artifact = artifact(
        tmp_path,
        layers,
        quantized=False,
        precision="Int4",
        promised={"a": "Int4", "b": "Int4"},
    )
    assert list(audit(engine_artifact, Limits()).warnings) == [
        "main: b (gemm) runs in Float although the graph is in 4-bit weights; its weights are "
        "dequantized first, which saves no time"
    ]


def test_a_float_graph_gives_no_warnings(tmp_path: pathlib.Path) -> None:
    """Float layers are what a float graph asks for."""
    report = audit(
        artifact(tmp_path, [row("conv", "Float", 10, "a")], quantized=False),
        Limits(),
    )
    assert numbers(report)["int8_mac_share"] == 0.0 and not report.warnings


def test_an_engine_without_products_has_no_share(
    tmp_path: pathlib.Path,
) -> None:
    """Nothing to divide by is unmeasured, not zero."""
    share = audit(
        artifact(tmp_path, [row("", "Float", 0, "relu")]), Limits()
    ).measurements[0]
    assert share.value is None and share.verdict == "unmeasured"


def test_what_the_device_cannot_run_is_warned_of(
    tmp_path: pathlib.Path,
) -> None:
    """A capability that was not built for, too little memory and operators that were not
    counted.
    """
    engine_artifact = artifact(
        tmp_path, [row("gemm", "Int8", 10)], uncounted=["LSTM"]
    )
    warned = audit(
        engine_artifact,
        Limits(compute_capabilities=("8.6", "SM120"), memory_bytes=1499),
    ).warnings
    assert list(warned) == [
        "main: LSTM are not counted in int8_mac_share",
        "main: the engine was not built for SM120 (only SM86, SM89)",
        "main: weights and activations need 1500 bytes, the device has 1499",
    ]
    assert not audit(
        artifact(tmp_path, [row("gemm", "Int8", 10)]),
        Limits(compute_capabilities=("SM86",), memory_bytes=1500),
    ).warnings


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layers": []}'])
def test_a_log_that_cannot_be_read_is_an_error(
    tmp_path: pathlib.Path, text: str
) -> None:
    """A damaged log is reported with its name."""
    engine_artifact = artifact(tmp_path, [])
    (tmp_path / "main.log.json").write_text(text)
    with pytest.raises(
        RunnerError, match=r"The build log main.log.json cannot be read"
    ):
        audit(engine_artifact, Limits())


def test_an_engine_without_a_log_is_an_error(tmp_path: pathlib.Path) -> None:
    """An engine of another tool does not report its datatypes."""
    part = Part(
        name="main",
        signature=SIGNATURE,
        files={"engine": File(path="main.engine")},
    )
    with pytest.raises(RunnerError, match="has no build log"):
        audit(
            Artifact(format="tensorrt", parts=(part,), folder=tmp_path),
            Limits(),
        )


def test_a_real_engine_is_audited(tmp_path: pathlib.Path) -> None:
    """A quantized convolution (int8) and a transposed one (never int8 in TensorRT): share
    and float layers from a real build.
    """
    pytest.importorskip("tensorrt_rtx")
    pairs, constants = (
        [],
        [
            numpy_helper.from_array(numpy.float32(0.05), "scale"),
            numpy_helper.from_array(numpy.int8(0), "zero"),
        ],
    )
    random = numpy.random.default_rng(0)
    for name, shape in (("w", (8, 4, 3, 3)), ("up", (8, 8, 2, 2))):
        constants.append(
            numpy_helper.from_array(
                random.integers(-127, 128, shape).astype("int8"), f"{name}.int8"
            )
        )
        pairs.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}.int8", "scale", "zero"], [name]
            )
        )
    for number, name in enumerate(("input", "relu")):
        pairs += [
            helper.make_node(
                "QuantizeLinear", [name, "scale", "zero"], [f"q{number}"]
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"q{number}", "scale", "zero"],
                [f"x{number}"],
            ),
        ]
        if name == "input":
            pairs += [
                helper.make_node(
                    "Conv",
                    ["x0", "w"],
                    ["conv"],
                    name="conv",
                    pads=[1, 1, 1, 1],
                ),
                helper.make_node("Relu", ["conv"], ["relu"]),
            ]
    nodes = [
        *pairs,
        helper.make_node(
            "ConvTranspose", ["x1", "up"], ["output"], name="up", strides=[2, 2]
        ),
    ]
    graph_input, graph_output = (
        helper.make_tensor_value_info(
            spec.name, TensorProto.FLOAT, list(spec.dims)
        )
        for spec in (*SIGNATURE.inputs, *SIGNATURE.outputs)
    )
    graph = helper.make_graph(
        nodes, "graph", [graph_input], [graph_output], constants
    )
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
        ),
        str(tmp_path / "main.onnx"),
    )
    before = Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=SIGNATURE,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=tmp_path,
    )
    folder = tmp_path / "out"
    folder.mkdir()
    step = OnnxToTensorrt(("SM86", "SM89", "SM120"))
    step.requires(before)
    images = numpy.zeros((2, 4, 8, 8), "float32")
    after = step.run(
        before,
        Context(
            folder=folder,
            networks=dict,
            task=Task(name="none", test=(images, numpy.zeros(2, "int64"))),
        ),
    )
    step.ensures(before, after)
    report = audit(
        after, Limits(compute_capabilities=("SM86", "SM89", "SM120"))
    )
    conv, deconv = 64 * 8 * 4 * 9, 8 * 64 * 8 * 4
    assert (
        numbers(report)["int8_mac_share"]
        == pytest.approx(conv / (conv + deconv))
        and numbers(report)["float_ops"] == 1
    )
    assert list(report.warnings) == [
        "main: up (deconv) runs in Float although the graph is int8"
    ]
