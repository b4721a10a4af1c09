"""What an Ethos-U takes of a file, with the real Vela: where every operator runs, what it
costs, and why the CPU has the rest.
"""

import pathlib
import shutil
from collections import OrderedDict

import pytest
import torch
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Audit
from edgekit.errors import EdgekitError, ModelError
from edgekit.formats.ethosu import audit as audit_ethosu
from edgekit.formats.ethosu import vela
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.measurement import Measurement
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits

pytest.importorskip("ethosu.vela", reason="needs edgekit[ethosu]")

FREE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 3, 8, 8)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 4)),),
)
DEVICE = Limits(
    accelerator="ethos-u55-256",
    system_config="Ethos_U55_High_End_Embedded",
    memory_mode="Shared_Sram",
    io="int8",
    shapes="static",
)
FIRST, SECOND, HEAD = 64 * 8 * 27, 64 * 8 * 72, 8 * 4


class Waves(nn.Module):
    """A sine, which no NPU has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class Volumes(nn.Module):
    """A window that is a graph of its own in TFLite: Vela's rows are then those of that
    graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.volume, self.head = nn.AvgPool3d(2), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.volume(x.unsqueeze(1)).flatten(1))
        return result


def network(middle: nn.Module) -> nn.Module:
    layers = {
        "first": nn.Conv2d(3, 8, 3, padding=1),
        "middle": middle,
        "second": nn.Conv2d(8, 8, 3, padding=1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(8, 4),
    }
    return nn.Sequential(OrderedDict(layers)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """int8.tflite (a LeakyReLU between two convolutions), waves.tflite (a sine there),
    volumes.tflite (several graphs), float.tflite, compiled.tflite.
    """
    torch.manual_seed(0)
    made, data = tmp_path_factory.mktemp("files"), torch.randn(16, 3, 8, 8)
    for name, net in (
        ("int8", network(nn.LeakyReLU())),
        ("waves", network(Waves())),
        ("volumes", Volumes().eval()),
    ):
        calibration = calibrate(
            net, [(data,)], FREE, Settings(observer="min-max", runtime="ethosu")
        )
        litert_conversion.convert(
            simulate(net, FREE, calibration, fold=False),
            (data[:1],),
            made / f"{name}.tflite",
            channel_last_inputs=(0,),
            quantized=True,
        )
    litert_conversion.convert(
        network(nn.ReLU()), (data[:1],), made / "float.tflite", channel_last_inputs=(0,)
    )
    vela.compiled(made / "int8.tflite", setting(), made / "compiled.tflite")
    return made


def setting(sram_bytes: int | None = None) -> vela.Setting:
    return vela.Setting(
        accelerator=DEVICE.accelerator,
        system_config=DEVICE.system_config,
        memory_mode=DEVICE.memory_mode,
        sram_bytes=sram_bytes,
    )


def measured(audit: Audit) -> dict[str, Measurement]:
    return {row.name: row for row in audit.measurements}


def artifact(folder: pathlib.Path, *names: str) -> Artifact:
    """Parts as the step leaves them; the float file has no log."""
    parts = []
    for name in names:
        files = {"model": File(path=f"{name}.tflite")}
        if name != "float":
            log = vela.compiled(
                folder / f"{name}.tflite", setting(), folder / f"{name}_vela.tflite"
            )
            (folder / f"{name}.log.json").write_text(log.model_dump_json())
            files |= {
                "compiled": File(path=f"{name}_vela.tflite"),
                "log": File(path=f"{name}.log.json"),
            }
        parts.append(Part(name=name, signature=FREE, files=files))
    return Artifact(format="ethosu", parts=tuple(parts), folder=folder)


def test_a_convolutional_network_is_the_npus_alone(folder: pathlib.Path) -> None:
    """No operator on the CPU, all MACs int8, a time and memory that are told as estimates
    at the clock of the configuration, and nothing to warn of.
    """
    audit = audit_ethosu.audit_file(folder / "int8.tflite", DEVICE)
    found = measured(audit)
    assert (found["cpu_ops"].value, found["int8_mac_share"].value) == (0, 1)
    time = found["npu_time_ms"]
    assert time.where == f"Vela {vela.version()}'s estimate for ethos-u55-256"
    assert (
        time.how
        == "estimate by Vela at 500 MHz (Ethos_U55_High_End_Embedded, Shared_Sram), not measured"
    )
    assert time.value == pytest.approx(1000 * time.detail["int8"]["cycles"] / 500e6)
    assert 0 < (found["sram_bytes"].value or 0) < 20_000
    assert (
        found["flash_bytes"].value
        == found["flash_bytes"].detail["off_chip_flash_bytes"]
        > 0
    )
    assert list(audit.warnings) == []


def test_every_operator_has_its_cost_and_its_module(folder: pathlib.Path) -> None:
    """The rows are those of the file; their cycles add up to Vela's total, and Vela's MACs
    to the use of the NPU.
    """
    audit = audit_ethosu.audit_file(folder / "int8.tflite", DEVICE)
    rows = {(row["op"], row["module"]): row for row in audit.rows}
    assert [row["op"] for row in audit.rows] == [
        operator.op for operator in tflite_graph.read(folder / "int8.tflite").operators
    ]
    first, second, head = (
        rows["CONV_2D", "first"],
        rows["CONV_2D", "second"],
        rows["FULLY_CONNECTED", "head"],
    )
    assert (first["macs"], second["macs"], head["macs"]) == (FIRST, SECOND, HEAD)
    assert {row["runs_on"] for row in audit.rows} <= {audit_ethosu.NPU, audit_ethosu.JOINED}
    assert (
        sum(row["cycles"] or 0 for row in audit.rows)
        == measured(audit)["npu_time_ms"].detail["int8"]["cycles"]
    )
    assert second["utilisation"] == pytest.approx(SECOND / (second["cycles"] * 256))


def test_what_falls_back_is_told_with_its_module_and_reason(folder: pathlib.Path) -> None:
    """A sine is float: it and the conversions around it are the CPU's, and the NPU's time
    says that it lacks them.
    """
    audit = audit_ethosu.audit_file(folder / "waves.tflite", DEVICE)
    found = measured(audit)
    left = [
        (row["op"], row["module"], row["reason"])
        for row in audit.rows
        if row["runs_on"] == audit_ethosu.CPU
    ]
    assert ("SIN", "middle", "Unsupported opType") in left
    assert {op for op, _, _ in left} == {"DEQUANTIZE", "SIN", "QUANTIZE"}
    assert any(
        reason == "Operation has tensor with unsupported DataType Float32"
        for _, _, reason in left
    )
    assert found["cpu_ops"].value == len(left) == len(found["cpu_ops"].detail["operators"])
    assert "waves: 1 SIN left to the CPU at middle: Unsupported opType" in audit.warnings
    assert "the time of operators on the CPU is not in the NPU time" in audit.warnings
    assert f"the {len(left)} operators on the CPU are not in it" in found["npu_time_ms"].how
    assert found["int8_mac_share"].value == 1  # of the products: both convolutions are int8


def test_with_several_graphs_the_compiled_file_tells_what_is_left(
    folder: pathlib.Path,
) -> None:
    """Vela's own rows are one graph's, not the main one's; no cycles are told for an
    operator then.
    """
    graph = tflite_graph.read(folder / "volumes.tflite")
    assert graph.extra_graphs
    log = vela.compiled(
        folder / "volumes.tflite", setting(), folder / "volumes_vela.tflite"
    )
    left = [
        operator.op
        for operator in tflite_graph.read(folder / "volumes_vela.tflite").operators
        if operator.op != tflite_graph.ETHOS_U
    ]
    audit = audit_ethosu.audit_file(folder / "volumes.tflite", DEVICE)
    assert sorted(
        row["op"] for row in audit.rows if row["runs_on"] == audit_ethosu.CPU
    ) == sorted(left)
    assert (
        measured(audit)["cpu_ops"].value
        == len(left)
        > sum(layer.target == "CPU" for layer in log.layers)
    )
    assert all(row["cycles"] is None for row in audit.rows)


def test_nothing_of_a_float_file_runs_on_the_npu(folder: pathlib.Path) -> None:
    """All operators are the CPU's and no time is claimed; as a reference it has the TFLite
    audit's numbers only.
    """
    found = measured(audit_ethosu.audit_file(folder / "float.tflite", DEVICE))
    assert found["npu_time_ms"].value is None
    assert found["cpu_ops"].value == len(
        tflite_graph.read(folder / "float.tflite").operators
    )
    assert found["int8_mac_share"].value == 0
    reference = measured(audit_ethosu.audit(artifact(folder, "float"), DEVICE))
    assert set(reference) == set(
        measured(audit_tflite.audit_file(folder / "float.tflite", DEVICE))
    )


def test_parts_run_one_after_the_other(folder: pathlib.Path) -> None:
    """Times and flash add up, SRAM is the larger one, and each row names its part."""
    one, two = (
        measured(audit_ethosu.audit(artifact(folder, name), DEVICE))
        for name in ("int8", "waves")
    )
    both = audit_ethosu.audit(artifact(folder, "int8", "waves"), DEVICE)
    found = measured(both)
    assert found["npu_time_ms"].value == pytest.approx(
        (one["npu_time_ms"].value or 0) + (two["npu_time_ms"].value or 0)
    )
    assert found["flash_bytes"].value == (one["flash_bytes"].value or 0) + (
        two["flash_bytes"].value or 0
    )
    assert found["sram_bytes"].value == max(
        one["sram_bytes"].value or 0, two["sram_bytes"].value or 0
    )
    assert {row["part"] for row in both.rows} == {"int8", "waves"}


def test_too_little_memory_is_warned_of(folder: pathlib.Path) -> None:
    """SRAM and flash against the target's limits."""
    small = DEVICE.model_copy(update={"sram_bytes": 512, "memory_bytes": 100})
    warnings = audit_ethosu.audit_file(folder / "int8.tflite", small).warnings
    assert any("bytes of SRAM, the device has 512" in text for text in warnings)
    assert any("bytes of flash, the device has 100" in text for text in warnings)


def test_a_compiled_file_is_told_from_the_one_it_was_made_of(folder: pathlib.Path) -> None:
    """For a target it is refused; without one the audit says that its operator hides what
    it does.
    """
    with pytest.raises(
        ModelError,
        match=r"compiled for an Ethos-U already.*\n  Fix: name the int8 .tflite file",
    ):
        audit_ethosu.audit_file(folder / "compiled.tflite", DEVICE)
    assert any(
        "compiled for an Ethos-U: what its operator CUSTOM:ethos-u does" in text
        for text in audit_tflite.audit_file(folder / "compiled.tflite", DEVICE).warnings
    )


def test_wrong_limits_and_a_lost_log_are_told(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The names that Vela knows, and the step that makes the log again."""
    with pytest.raises(
        EdgekitError, match="no system_config 'Ethos_U65_High_End' for ethos-u55-256"
    ):
        audit_ethosu.audit_file(
            folder / "int8.tflite",
            DEVICE.model_copy(update={"system_config": "Ethos_U65_High_End"}),
        )
    shutil.copyfile(folder / "int8.tflite", tmp_path / "int8.tflite")
    given = artifact(tmp_path, "int8")
    (tmp_path / "int8.log.json").write_text("{")
    with pytest.raises(ModelError, match="log of 'int8' cannot be read"):
        audit_ethosu.audit(given, DEVICE)
