"""The audit of an .ort file reports what the file stores, with the numbers of the ONNX
file's audit.
"""

import pathlib

import numpy
import onnx
import pytest

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Audit
from edgekit.errors import RunnerError
from edgekit.formats.onnx import audit as audit_onnx
from edgekit.formats.ort import audit as audit_ort
from edgekit.formats.ort.export import run_conversion
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits

FILES = {"onnx": "main.onnx", "ort": "main.ort", "operators": "main.config"}


def convolutions(folder: pathlib.Path, zero: str = "uint8") -> pathlib.Path:
    """Two int8 convolutions, their modules in their names, and the .ort file that they
    are converted to.
    """
    random = numpy.random.default_rng(0)
    graph = onnx.parser.parse_graph("""g (float[batch,1,8,8] x) => (float[batch,8,6,6] y) {
            q0 = QuantizeLinear(x, s, z)   d0 = DequantizeLinear(q0, s, z)
            k1 = DequantizeLinear(w1, s, zw)   c1 = Conv(d0, k1)   r1 = Relu(c1)
            q1 = QuantizeLinear(r1, s, z)   d1 = DequantizeLinear(q1, s, z)
            k2 = DequantizeLinear(w2, s, zw)   c2 = Conv(d1, k2)   r2 = Relu(c2)
            q2 = QuantizeLinear(r2, s, z)   y = DequantizeLinear(q2, s, z)
        }""")
    stored = {
        "s": numpy.array(0.02, "float32"),
        "z": numpy.array(-128 if zero == "int8" else 0, zero),
        "zw": numpy.array(0, "int8"),
        "w1": random.integers(-127, 127, (8, 1, 3, 3), dtype=numpy.int8),
        "w2": random.integers(-127, 127, (8, 8, 1, 1), dtype=numpy.int8),
    }
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in stored.items()
    )
    for node, name in zip(
        (node for node in graph.node if node.op_type == "Conv"),
        ("stem.first", "stem.second"),
        strict=True,
    ):
        node.name = f"{name}/Conv"
    onnx.save(
        onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", 20)],
            ir_version=10,
        ),
        str(folder / "main.onnx"),
    )
    run_conversion(FILES, "main", folder)
    return folder / "main.ort"


def number(audited: Audit, name: str) -> float | None:
    return next(
        measurement.value
        for measurement in audited.measurements
        if measurement.name == name
    )


def artifact(folder: pathlib.Path, version: str) -> Artifact:
    signature = Signature(
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=("batch", 1, 8, 8)),
        ),
        outputs=(TensorSpec(name="y", dtype="float32", dims=()),),
    )
    files = {"model": File(path="main.ort"), "source": File(path="main.onnx")}
    return Artifact(
        format="ort",
        parts=(Part(name="main", signature=signature, files=files),),
        notes={"parts": {"main": {"onnxruntime": version}}},
        folder=folder,
    )


def test_the_numbers_are_those_of_the_onnx_file(tmp_path: pathlib.Path) -> None:
    """Same share, same MACs, same modules; the report states what was read."""
    audited, source = (
        audit_ort.read(convolutions(tmp_path)),
        audit_onnx.read(tmp_path / "main.onnx"),
    )
    for name in ("int8_mac_share", "float_ops", "qdq_pairs", "casts"):
        assert number(audited, name) == number(source, name)
    assert number(audited, "int8_mac_share") == 1.0
    rows = [
        (row["op"], row["module"], row["macs"], row["dtype"])
        for row in audited.rows
        if row["op"] == "QLinearConv"
    ]
    assert rows == [
        ("QLinearConv", "stem.first", 8 * 36 * 9, "uint8"),
        ("QLinearConv", "stem.second", 8 * 36 * 8, "uint8"),
    ]
    assert all(
        ".ort file stores" in measured.how for measured in audited.measurements
    )
    assert not audited.warnings


def test_signed_activations_are_no_fault_on_arm(tmp_path: pathlib.Path) -> None:
    """They all fuse in the .ort file, as ONNX Runtime does it for ARM; the ONNX file's
    audit warns of x86, this one does not.
    """
    audited = audit_ort.read(convolutions(tmp_path, "int8"))
    assert number(audited, "int8_mac_share") == 1.0
    assert {
        row["dtype"] for row in audited.rows if row["op"] == "QLinearConv"
    } == {"int8"}
    assert not any("x86" in text for text in audited.warnings)


def test_another_version_of_onnxruntime_is_reported(
    tmp_path: pathlib.Path,
) -> None:
    """The artifact's notes name the version that wrote the file; a phone's runtime may be older."""
    convolutions(tmp_path)
    version = audit_ort.read_stored(tmp_path / "main.ort").version
    assert not audit_ort.audit(artifact(tmp_path, version), Limits()).warnings
    warned = audit_ort.audit(artifact(tmp_path, "1.14.0"), Limits()).warnings
    assert len(warned) == 1 and "converted by ONNX Runtime 1.14.0" in warned[0]


def test_another_format_is_reported_or_refused(tmp_path: pathlib.Path) -> None:
    """Format 5 is still read and warned of; format 9 is none that this runtime knows."""
    path = convolutions(tmp_path)
    content = path.read_bytes()
    place = content.index(
        b"\x01\x00\x00\x006\x00"
    )  # a flatbuffer's text: its length, then the letters
    for version in (b"5", b"9"):
        changed = tmp_path / f"format{version.decode()}.ort"
        changed.write_bytes(
            content[: place + 4] + version + content[place + 5 :]
        )
        if version == b"9":
            with pytest.raises(
                RunnerError, match=r"cannot read format9.ort \(format 9\)"
            ):
                audit_ort.read(changed)
        else:
            assert any(
                "its format is version 5" in text
                for text in audit_ort.read(changed).warnings
            )


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "missing", "noise"])
def test_what_is_no_ort_file_is_one_sentence(
    kind: str, tmp_path: pathlib.Path
) -> None:
    """A RunnerError with a fix, never a traceback or a hang."""
    path = tmp_path / "given.ort"
    complete = convolutions(tmp_path).read_bytes()
    noise = complete[:8] + numpy.random.default_rng(1).bytes(len(complete) - 8)
    contents = {
        "empty": b"",
        "text": b"this is a text and no model",
        "cut": complete[: len(complete) // 2],
        "noise": noise,
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(RunnerError) as raised:
        audit_ort.read(path)
    assert raised.value.fix
