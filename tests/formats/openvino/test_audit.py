"""The audit lists what OpenVINO executes, with the MACs that the ONNX file's audit counts."""

import pathlib
import shutil

import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Audit, Context
from edgekit.errors import RunnerError
from edgekit.formats.onnx import audit as onnx_audit
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.openvino import audit, executed
from edgekit.formats.openvino.export import OnnxToOpenvino
from edgekit.quantization.graph import calibrate, simulate
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits
from edgekit.testing import tiny_task


class Convolutions(nn.Module):
    """Usual, grouped, strided, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(16, 32, 3, groups=4)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x).relu()).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """One head of self-attention, whose products OpenVINO fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)
        self.value = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (4, 8)).transpose(1, 2)
        key = self.key(x).unflatten(-1, (4, 8)).transpose(1, 2)
        value = self.value(x).unflatten(-1, (4, 8)).transpose(1, 2)
        weights = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
        return (weights @ value).transpose(1, 2).flatten(2)


class Recurrent(nn.Module):
    """A bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(x)[0]
        return states


NETWORKS: dict[
    str, tuple[type[nn.Module], tuple[int, ...], tuple[int, ...]]
] = {
    "convolutions": (Convolutions, (3, 12, 12), (10,)),
    "attention": (Attention, (20, 32), (20, 32)),
    "recurrent": (Recurrent, (5, 16), (5, 48)),
}


def build(folder: pathlib.Path, name: str, scheme: str = "float") -> Artifact:
    """A network as an ONNX file (``main.onnx`` in the folder) and as an OpenVINO artifact."""
    kind, inputs, outputs = NETWORKS[name]
    signature = Signature(
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=("batch", *inputs)),
        ),
        outputs=(
            TensorSpec(name="y", dtype="float32", dims=("batch", *outputs)),
        ),
    )
    torch.manual_seed(0)
    network: nn.Module = kind().eval()
    if scheme == "w8a8-static":
        calibration = calibrate(
            network, [(torch.rand(16, *inputs),)], signature
        )
        network = simulate(network, signature, calibration, fold=True)
    onnx_graph.write(export(network, signature), folder / "main.onnx")
    part = Part(
        name="main",
        signature=signature,
        files={"model": File(path="main.onnx")},
    )
    before = Artifact(format="onnx", parts=(part,), folder=folder)
    (folder / "openvino").mkdir()
    context = Context(
        folder=folder / "openvino", networks=dict, task=tiny_task()
    )
    return OnnxToOpenvino(scheme=scheme).run(before, context)


def value(report: Audit, name: str) -> float | None:
    return next(row.value for row in report.measurements if row.name == name)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_counts_the_macs_that_the_onnx_audit_counts(
    tmp_path: pathlib.Path, name: str
) -> None:
    """Two readers of two runtimes agree to the last product."""
    artifact = build(tmp_path, name)
    ours = audit.audit(artifact, Limits()).measurements[0]
    theirs = onnx_audit.read(tmp_path / "main.onnx").measurements[0]
    assert ours.detail["all"] == theirs.detail["all"]
    assert ours.value == 0


def test_a_quantized_network_computes_in_int8(tmp_path: pathlib.Path) -> None:
    """All products of the calibrated network are of integers, and rows name the modules."""
    report = audit.audit(
        build(tmp_path, "convolutions", "w8a8-static"), Limits()
    )
    assert value(report, "int8_mac_share") == 1
    compute = {
        row["module"]: row["dtype"] for row in report.rows if row["macs"]
    }
    assert compute == {"stem": "int8", "grouped": "int8", "head": "int8"}


def test_compressed_weights_are_not_int8_arithmetic(
    tmp_path: pathlib.Path,
) -> None:
    """``runtimePrecision`` is the type of the weights; the kernel multiplies floats."""
    report = audit.audit(build(tmp_path, "attention", "w8-weight"), Limits())
    assert value(report, "int8_mac_share") == 0
    assert value(report, "qdq_pairs") == 0


@pytest.mark.parametrize(
    ("kernel", "precision", "arithmetic"),
    [
        ("brgemm_avx2_f32", "u8", "f32"),
        ("brgconv_avx512_core_bf16", "bf16", "bf16"),
        ("jit_avx2_1x1_I8", "u8", "i8"),
        ("brgemm_avx512_core_amx_u8", "u8", "u8"),
        ("undef", "f32", "f32"),
    ],
)
def test_the_kernel_names_the_arithmetic(
    kernel: str, precision: str, arithmetic: str
) -> None:
    """The last word of its name, else the precision that the runtime reports."""
    assert executed.arithmetic_of(kernel, precision) == arithmetic


def test_integer_devices_are_warned_of_float(tmp_path: pathlib.Path) -> None:
    """The limits of a target become warnings."""
    report = audit.audit(
        build(tmp_path, "convolutions"), Limits(arithmetic="integer")
    )
    assert any("integer arithmetic only" in text for text in report.warnings)


def test_any_file_is_read_with_its_weights(tmp_path: pathlib.Path) -> None:
    """A file on its own path; without its .bin, or with a damaged .xml, one clear error."""
    artifact = build(tmp_path, "convolutions")
    (tmp_path / "user").mkdir()
    for name in ("main.xml", "main.bin"):
        shutil.copyfile(artifact.folder / name, tmp_path / "user" / name)
    assert value(audit.read(tmp_path / "user" / "main.xml"), "float_ops")
    (tmp_path / "user" / "main.bin").unlink()
    with pytest.raises(RunnerError, match="in its folder"):
        audit.read(tmp_path / "user" / "main.xml")
    (tmp_path / "user" / "main.bin").write_bytes(b"")
    with pytest.raises(RunnerError, match="cannot be compiled with OpenVINO"):
        audit.read(tmp_path / "user" / "main.xml")


def test_bfloat16_is_reported() -> None:
    """A float file that is executed in bfloat16, and a bf16 file that is not."""
    report = executed.Executed("2026.4", (), "", "bf16", ())
    assert list(audit._warnings(report, Limits())) == [
        "OpenVINO executes what is float in it in bfloat16 on this processor; set "
        "INFERENCE_PRECISION_HINT to f32 to keep float32."
    ]
    report = executed.Executed("2026.4", (), "bf16", "f32", ())
    assert "executed in f32" in next(audit._warnings(report, Limits()))
