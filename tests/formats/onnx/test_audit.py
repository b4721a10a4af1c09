"""The audit reports what ONNX Runtime really executes, also of files of other tools."""

import os
import pathlib

import numpy
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Audit
from edgekit.errors import RunnerError
from edgekit.formats.onnx.audit import audit, read
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits


def model(text: str, **stored: numpy.ndarray) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in stored.items()
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )


def quantized(folder: pathlib.Path, zero: numpy.ndarray) -> pathlib.Path:
    """Two convolutions with Q/DQ around them; activations of the type of ``zero``."""
    random = numpy.random.default_rng(0)
    stored = {
        name: random.integers(-127, 127, shape, dtype=numpy.int8)
        for name, shape in (("w1", (8, 1, 3, 3)), ("w2", (8, 8, 1, 1)))
    }
    graph_model = model(
        """g (float[batch,1,8,8] x) => (float[batch,8,6,6] y) {
            q0 = QuantizeLinear(x, s, z)   d0 = DequantizeLinear(q0, s, z)
            k1 = DequantizeLinear(w1, s, zw)   c1 = Conv(d0, k1)   r1 = Relu(c1)
            q1 = QuantizeLinear(r1, s, z)   d1 = DequantizeLinear(q1, s, z)
            k2 = DequantizeLinear(w2, s, zw)   c2 = Conv(d1, k2)   r2 = Relu(c2)
            q2 = QuantizeLinear(r2, s, z)   y = DequantizeLinear(q2, s, z)
        }""",
        s=numpy.array(0.02, "float32"),
        z=zero,
        zw=numpy.array(0, "int8"),
        **stored,
    )
    path = folder / "quantized.onnx"
    onnx.save(graph_model, str(path))
    return path


def number(report: Audit, name: str) -> float | None:
    return next(
        measurement.value
        for measurement in report.measurements
        if measurement.name == name
    )


def test_a_graph_that_fuses_is_all_int8(tmp_path: pathlib.Path) -> None:
    """Every MAC in int8, no float operator, no pair left, no warning; MACs are exact."""
    report = read(quantized(tmp_path, numpy.array(0, "uint8")))
    assert (
        number(report, "int8_mac_share"),
        number(report, "float_ops"),
        number(report, "qdq_pairs"),
    ) == (1.0, 0.0, 0.0)
    assert not report.warnings
    macs = [row["macs"] for row in report.rows if row["op"] == "QLinearConv"]
    assert macs == [8 * 6 * 6 * 9, 8 * 6 * 6 * 8]
    assert all(
        "onnxruntime" in measurement.where and measurement.how
        for measurement in report.measurements
    )


def test_a_graph_that_does_not_fuse_is_reported(tmp_path: pathlib.Path) -> None:
    """int8 activations with a ReLU leave float convolutions in a quantized graph: the known
    trap.
    """
    report = read(quantized(tmp_path, numpy.array(0, "int8")))
    share = number(report, "int8_mac_share")
    assert share is not None and share < 1
    assert (number(report, "float_ops") or 0) > 0 and any(
        "compute in float" in text for text in report.warnings
    )


def test_integer_convolutions_of_dynamic_quantization_are_reported(
    tmp_path: pathlib.Path,
) -> None:
    """ConvInteger is int8 and yet slower than float."""
    graph_model = model(
        "g (uint8[batch,1,8,8] x) => (int32[batch,2,6,6] y) { y = ConvInteger(x, w) }",
        w=numpy.ones((2, 1, 3, 3), "int8"),
    )
    onnx.save(graph_model, str(tmp_path / "dynamic.onnx"))
    report = read(tmp_path / "dynamic.onnx")
    assert number(report, "int8_mac_share") == 1.0 and any(
        "ConvInteger" in text for text in report.warnings
    )


def exported(folder: pathlib.Path) -> pathlib.Path:
    """A float network, exported by edgekit so that node names contain the modules."""
    from edgekit.formats.onnx import graph as onnx_graph
    from edgekit.formats.onnx.export import export

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = (
                nn.Conv2d(1, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.Linear(16, 10),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(
                functional.relu(self.norm(self.stem(x))).mean((2, 3))
            )

    image = TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8))
    signature = Signature(
        inputs=(image,),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 10)),
        ),
    )
    torch.manual_seed(0)
    onnx_graph.write(export(Net().eval(), signature), folder / "main.onnx")
    return folder / "main.onnx"


def test_rows_name_the_module_even_after_fusing(tmp_path: pathlib.Path) -> None:
    """ONNX Runtime renames what it fuses; the row still names the PyTorch module."""
    report = read(exported(tmp_path))
    modules = {row["module"]: row for row in report.rows if row["macs"]}
    assert (
        modules.keys() == {"stem", "head"}
        and modules["stem"]["macs"] == 16 * 64 * 9
        and modules["head"]["macs"] == 160
    )
    assert number(report, "int8_mac_share") == 0.0 and not report.warnings


def test_all_parts_of_an_artifact_count_and_limits_are_checked(
    tmp_path: pathlib.Path,
) -> None:
    """A device with integer arithmetic only cannot run a float part."""
    signature = Signature(
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=("batch", 1, 8, 8)),
        ),
        outputs=(
            TensorSpec(name="y", dtype="float32", dims=("batch", 8, 6, 6)),
        ),
    )
    files = {
        "float": exported(tmp_path),
        "int8": quantized(tmp_path, numpy.array(0, "uint8")),
    }
    parts = tuple(
        Part(
            name=name,
            signature=signature,
            files={"model": File(path=path.name)},
        )
        for name, path in files.items()
    )
    report = audit(
        Artifact(format="onnx", parts=parts, folder=tmp_path),
        Limits(arithmetic="integer"),
    )
    assert {row["part"] for row in report.rows} == {"float", "int8"}
    assert 0 < (number(report, "int8_mac_share") or 0) < 1
    assert [
        text.partition(":")[0]
        for text in report.warnings
        if "integer arithmetic" in text
    ] == ["float"]


def test_a_graph_without_products_has_no_share(tmp_path: pathlib.Path) -> None:
    """Unmeasured, not zero."""
    onnx.save(
        model("g (float[batch] x) => (float[batch] y) { y = Relu(x) }"),
        str(tmp_path / "relu.onnx"),
    )
    measured = read(tmp_path / "relu.onnx").measurements[0]
    assert (measured.value, measured.verdict) == (None, "unmeasured")


def test_a_graph_that_zeros_do_not_fit_is_still_audited(
    tmp_path: pathlib.Path,
) -> None:
    """A shape that contradicts batch 1: rows without MACs, and the reason."""
    graph_model = model(
        "g (float[n] x) => (float[m] y) { r = Reshape(x, shape)   y = MatMul(r, w) }",
        shape=numpy.array([2, 3]),
        w=numpy.ones(3, "float32"),
    )
    onnx.save(graph_model, str(tmp_path / "fixed.onnx"))
    report = read(tmp_path / "fixed.onnx")
    assert number(report, "int8_mac_share") is None and any(
        "did not run on zeros" in text for text in report.warnings
    )


def test_invalid_files_are_refused(tmp_path: pathlib.Path) -> None:
    """Missing, garbage, truncated, and a graph that the runtime has no operator for."""
    with pytest.raises(RunnerError, match="does not exist"):
        read(tmp_path / "missing.onnx")
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not an onnx file at all")
    complete = exported(tmp_path)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(complete.read_bytes()[: complete.stat().st_size // 2])
    for path in (garbage, cut):
        with pytest.raises(RunnerError, match="not a valid ONNX file"):
            read(path)
    strange = model("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    strange.graph.node[0].op_type, strange.graph.node[0].domain = (
        "Mystery",
        "nowhere",
    )
    strange.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(strange, str(tmp_path / "strange.onnx"))
    with pytest.raises(RunnerError, match="refuses strange.onnx"):
        read(tmp_path / "strange.onnx")


@pytest.mark.parametrize("way", ["stored", "dequantized", "a Constant node"])
def test_channels_that_fill_no_block_are_not_counted_as_if_they_did(
    way: str, tmp_path: pathlib.Path
) -> None:
    """The runtime's blocked layout adds channels of zeros; 3 to 20 channels on 6x6 places
    are 36 * 20 * 27 products all the same.
    """
    weights = numpy.ones(
        (20, 3, 3, 3), "float32" if way != "dequantized" else "int8"
    )
    before = "w = DequantizeLinear(q, s)" if way == "dequantized" else ""
    graph_model = model(
        f"g (float[n,3,8,8] x) => (float[n,20,6,6] y) {{ {before} c = Conv(x, w)   y = Relu(c) }}",
        s=numpy.float32(1).reshape(()),
        **{"q" if way == "dequantized" else "w": weights},
    )
    if way == "a Constant node":
        (tensor,) = (
            tensor
            for tensor in graph_model.graph.initializer
            if tensor.name == "w"
        )
        graph_model.graph.node.insert(
            0, onnx.helper.make_node("Constant", [], ["w"], value=tensor)
        )
        graph_model.graph.initializer.remove(tensor)
    onnx.save(graph_model, str(tmp_path / "conv.onnx"))
    assert [
        row["macs"] for row in read(tmp_path / "conv.onnx").rows if row["macs"]
    ] == [36 * 20 * 27]


def float8_convolution() -> onnx.ModelProto:
    """A convolution in 32-bit arithmetic whose data and weights are rounded to 8-bit
    floats.
    """
    import ml_dtypes

    zero = numpy.zeros((), ml_dtypes.float8_e4m3fn)
    weights = numpy.ones((2, 3, 1, 1), ml_dtypes.float8_e4m3fn)
    text = """g (float[n,3,4,4] x) => (float[n,2,4,4] y) {
        q = QuantizeLinear(x, s, z)   d = DequantizeLinear(q, s, z)   k = DequantizeLinear(w, s, z)
        c = Conv(d, k)   r = QuantizeLinear(c, s, z)   y = DequantizeLinear(r, s, z)
    }"""
    return model(text, s=numpy.asarray(numpy.float32(0.1)), z=zero, w=weights)


def runtime_accepts(path: pathlib.Path) -> bool:
    """Whether the installed ONNX Runtime loads the file; versions differ in what they
    accept.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # onnxruntime raises another class for each status
        return False
    return True


def test_float8_audit_points_to_tensorrt(tmp_path: pathlib.Path) -> None:
    """ONNX Runtime refuses 8-bit floats up to 1.31 and converts them to 32 bits from 1.32
    on; both point to the engine.
    """
    path = tmp_path / "fp8.onnx"
    onnx.save(float8_convolution(), str(path))
    if runtime_accepts(path):
        audit = read(path)
        assert number(audit, "int8_mac_share") == 0.0
        advice = "\n".join(audit.warnings)
    else:
        with pytest.raises(RunnerError, match="refuses fp8.onnx") as refusal:
            read(path)
        advice = refusal.value.fix or ""
    assert "8-bit floats" in advice
    assert "inspect the engine" in advice


def test_a_refused_float8_file_points_to_tensorrt(
    tmp_path: pathlib.Path,
) -> None:
    """The fix follows from the types in the file, not from the text of the runtime's
    error.
    """
    refused = float8_convolution()
    refused.graph.node[3].op_type, refused.graph.node[3].domain = (
        "Mystery",
        "nowhere",
    )
    refused.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(refused, str(tmp_path / "fp8.onnx"))
    with pytest.raises(RunnerError, match="refuses fp8.onnx") as refusal:
        read(tmp_path / "fp8.onnx")
    assert "inspect the engine" in (refusal.value.fix or "")


@pytest.mark.parametrize("how", ["outside", "hard link"])
def test_external_data_outside_the_folder_is_never_read(
    how: str, tmp_path: pathlib.Path
) -> None:
    """ONNX Runtime itself would read a hard link to another file; the checker refuses
    before it is asked.
    """
    secret, folder = tmp_path / "secret.bin", tmp_path / "model"
    secret.write_bytes(b"\0" * 16)
    folder.mkdir()
    location = "../secret.bin"
    if how == "hard link":
        os.link(secret, folder / "data.bin")
        location = "data.bin"
    graph_model = model(
        "g (float[4] x) => (float[4] y) { y = Add(x, w) }",
        w=numpy.zeros(4, "float32"),
    )
    tensor = graph_model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", location),
        ("offset", "0"),
        ("length", "16"),
    ):
        tensor.external_data.add(key=key, value=value)
    (folder / "evil.onnx").write_bytes(graph_model.SerializeToString())
    with pytest.raises(RunnerError, match="not a valid ONNX file"):
        read(folder / "evil.onnx")


@pytest.mark.parametrize(
    ("offset", "length"), [("0", str(2**50)), ("-5", "16")]
)
def test_missing_external_data_are_reported(
    offset: str, length: str, tmp_path: pathlib.Path
) -> None:
    """The checker passes a file whose external data are shorter than it states, or begin
    before the file; reading them is an error with a message.
    """
    (tmp_path / "data.bin").write_bytes(b"\0" * 16)
    graph_model = model(
        "g (float[n,2] x) => (float[n,2] y) { y = MatMul(x, w) }",
        w=numpy.zeros((2, 2), "float32"),
    )
    tensor = graph_model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", "data.bin"),
        ("offset", offset),
        ("length", length),
    ):
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "short.onnx").write_bytes(graph_model.SerializeToString())
    with pytest.raises(
        RunnerError, match="not a valid ONNX file: External data"
    ):
        read(tmp_path / "short.onnx")


def test_a_recurrent_layer_is_arithmetic(tmp_path: pathlib.Path) -> None:
    """An LSTM of 5 steps, 3 inputs and 2 hidden values makes 5 * 8 * (3 + 2)
    multiply-accumulates, in float: they count against the share of int8.
    """
    graph_model = model(
        "g (float[5,1,3] x) => (float[5,1,1,2] y) { y = LSTM <hidden_size = 2> (x, w, r) }",
        w=numpy.ones((1, 8, 3), "float32"),
        r=numpy.ones((1, 8, 2), "float32"),
    )
    onnx.save(graph_model, str(tmp_path / "lstm.onnx"))
    report = read(tmp_path / "lstm.onnx")
    assert [row["macs"] for row in report.rows if row["op"] == "LSTM"] == [
        5 * 8 * (3 + 2)
    ]
    assert number(report, "int8_mac_share") == 0
