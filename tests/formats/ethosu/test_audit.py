"""What an Ethos-U runs of a file, with the real Vela: where every operator runs, what it
costs, and why the rest stays on the CPU.
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
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 3, 8, 8)),
    ),
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
    """A sine, which no NPU supports."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


class Volumes(nn.Module):
    """A window that is a separate graph in TFLite: Vela's rows are then those of that graph."""

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
    files_folder, data = (
        tmp_path_factory.mktemp("files"),
        torch.randn(16, 3, 8, 8),
    )
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
            files_folder / f"{name}.tflite",
            channel_last_inputs=(0,),
            quantized=True,
        )
    litert_conversion.convert(
        network(nn.ReLU()),
        (data[:1],),
        files_folder / "float.tflite",
        channel_last_inputs=(0,),
    )
    vela.compile_file(
        files_folder / "int8.tflite",
        setting(),
        files_folder / "compiled.tflite",
    )
    return files_folder


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
    """Parts as the step writes them; the float file has no log."""
    parts = []
    for name in names:
        files = {"model": File(path=f"{name}.tflite")}
        if name != "float":
            log = vela.compile_file(
                folder / f"{name}.tflite",
                setting(),
                folder / f"{name}_vela.tflite",
            )
            (folder / f"{name}.log.json").write_text(log.model_dump_json())
            files |= {
                "compiled": File(path=f"{name}_vela.tflite"),
                "log": File(path=f"{name}.log.json"),
            }
        parts.append(Part(name=name, signature=FREE, files=files))
    return Artifact(format="ethosu", parts=tuple(parts), folder=folder)


def test_a_convolutional_network_runs_on_the_npu_only(
    folder: pathlib.Path,
) -> None:
    """No operator on the CPU, all MACs int8, a time and memory that are marked as estimates
    at the clock of the configuration, and no warnings.
    """
    audit = audit_ethosu.audit_file(folder / "int8.tflite", DEVICE)
    by_name = measured(audit)
    assert (by_name["cpu_ops"].value, by_name["int8_mac_share"].value) == (0, 1)
    time = by_name["npu_time_ms"]
    assert time.where == f"Vela {vela.version()}'s estimate for ethos-u55-256"
    assert (
        time.how
        == "estimate by Vela at 500 MHz (Ethos_U55_High_End_Embedded, Shared_Sram), not measured"
    )
    assert time.value == pytest.approx(
        1000 * time.detail["int8"]["cycles"] / 500e6
    )
    assert 0 < (by_name["sram_bytes"].value or 0) < 20_000
    assert (
        by_name["flash_bytes"].value
        == by_name["flash_bytes"].detail["off_chip_flash_bytes"]
        > 0
    )
    assert list(audit.warnings) == []


def test_every_operator_has_its_cost_and_its_module(
    folder: pathlib.Path,
) -> None:
    """The rows are those of the file; their cycles add up to Vela's total, and Vela's MACs
    to the utilisation of the NPU.
    """
    audit = audit_ethosu.audit_file(folder / "int8.tflite", DEVICE)
    rows = {(row["op"], row["module"]): row for row in audit.rows}
    assert [row["op"] for row in audit.rows] == [
        operator.op
        for operator in tflite_graph.read(folder / "int8.tflite").operators
    ]
    first, second, head = (
        rows["CONV_2D", "first"],
        rows["CONV_2D", "second"],
        rows["FULLY_CONNECTED", "head"],
    )
    assert (first["macs"], second["macs"], head["macs"]) == (
        FIRST,
        SECOND,
        HEAD,
    )
    assert {row["runs_on"] for row in audit.rows} <= {
        audit_ethosu.NPU,
        audit_ethosu.JOINED,
    }
    assert (
        sum(row["cycles"] or 0 for row in audit.rows)
        == measured(audit)["npu_time_ms"].detail["int8"]["cycles"]
    )
    assert second["utilisation"] == pytest.approx(
        SECOND / (second["cycles"] * 256)
    )


def test_operators_on_the_cpu_are_reported_with_module_and_reason(
    folder: pathlib.Path,
) -> None:
    """A sine is float: it and the conversions around it run on the CPU, and the NPU's time is
    marked as without them.
    """
    audit = audit_ethosu.audit_file(folder / "waves.tflite", DEVICE)
    by_name = measured(audit)
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
    assert (
        by_name["cpu_ops"].value
        == len(left)
        == len(by_name["cpu_ops"].detail["operators"])
    )
    assert (
        "waves: 1 SIN left to the CPU at middle: Unsupported opType"
        in audit.warnings
    )
    assert (
        "the NPU time does not include operators on the CPU" in audit.warnings
    )
    assert (
        f"without the {len(left)} operators on the CPU"
        in by_name["npu_time_ms"].how
    )
    assert (
        by_name["int8_mac_share"].value == 1
    )  # of the products: both convolutions are int8


def test_with_several_graphs_the_compiled_file_counts(
    folder: pathlib.Path,
) -> None:
    """Vela's own rows are those of another graph than the main one; no operator has cycles
    then.
    """
    graph = tflite_graph.read(folder / "volumes.tflite")
    assert graph.extra_graphs
    log = vela.compile_file(
        folder / "volumes.tflite", setting(), folder / "volumes_vela.tflite"
    )
    left = [
        operator.op
        for operator in tflite_graph.read(
            folder / "volumes_vela.tflite"
        ).operators
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
    """All operators run on the CPU and there is no time; as a reference it has the TFLite
    audit's numbers only.
    """
    by_name = measured(audit_ethosu.audit_file(folder / "float.tflite", DEVICE))
    assert by_name["npu_time_ms"].value is None
    assert by_name["cpu_ops"].value == len(
        tflite_graph.read(folder / "float.tflite").operators
    )
    assert by_name["int8_mac_share"].value == 0
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
    by_name = measured(both)
    assert by_name["npu_time_ms"].value == pytest.approx(
        (one["npu_time_ms"].value or 0) + (two["npu_time_ms"].value or 0)
    )
    assert by_name["flash_bytes"].value == (one["flash_bytes"].value or 0) + (
        two["flash_bytes"].value or 0
    )
    assert by_name["sram_bytes"].value == max(
        one["sram_bytes"].value or 0, two["sram_bytes"].value or 0
    )
    assert {row["part"] for row in both.rows} == {"int8", "waves"}


def test_too_little_memory_is_warned_of(folder: pathlib.Path) -> None:
    """SRAM and flash against the target's limits."""
    small = DEVICE.model_copy(update={"sram_bytes": 512, "memory_bytes": 100})
    warnings = audit_ethosu.audit_file(folder / "int8.tflite", small).warnings
    assert any("bytes of SRAM, the device has 512" in text for text in warnings)
    assert any(
        "bytes of flash, the device has 100" in text for text in warnings
    )


def test_a_compiled_file_is_recognized(folder: pathlib.Path) -> None:
    """For a target it is rejected; without one the audit warns that its operator hides what
    it executes.
    """
    with pytest.raises(
        ModelError,
        match=r"already compiled for an Ethos-U.*\n  Fix: pass the int8 .tflite file",
    ):
        audit_ethosu.audit_file(folder / "compiled.tflite", DEVICE)
    assert any(
        "compiled for an Ethos-U, and does not show what its operator CUSTOM:ethos-u"
        in text
        for text in audit_tflite.audit_file(
            folder / "compiled.tflite", DEVICE
        ).warnings
    )


def test_wrong_limits_and_a_broken_log_are_reported(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """With the names that Vela supports, and the step that writes the log again."""
    with pytest.raises(
        EdgekitError,
        match="no system_config 'Ethos_U65_High_End' for ethos-u55-256",
    ):
        audit_ethosu.audit_file(
            folder / "int8.tflite",
            DEVICE.model_copy(update={"system_config": "Ethos_U65_High_End"}),
        )
    shutil.copyfile(folder / "int8.tflite", tmp_path / "int8.tflite")
    broken = artifact(tmp_path, "int8")
    (tmp_path / "int8.log.json").write_text("{")
    with pytest.raises(ModelError, match="log of 'int8' cannot be read"):
        audit_ethosu.audit(broken, DEVICE)
