"""Audits of TFLite files: what computes in int8, what does not, and what the Edge TPU would
execute.
"""

import json
import pathlib
import shutil

import litert_torch
import pytest
import torch
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from torch import nn

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Audit
from edgekit.errors import ModelError
from edgekit.formats.edgetpu import audit as audit_edgetpu
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import export as torch_to_tflite
from edgekit.measurement import Measurement
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Limits

FREE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 3, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 4)),),
)
DEVICE = Limits(arithmetic="integer", io="int8", shapes="static")


class Island(nn.Module):
    """Two convolutions with a sine between them, which no int8 kernel has, and a
    channel-first end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 4, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.two(torch.sin(self.one(x).clamp(-1, 1)))
        return result


class Curve(nn.Module):
    """A convolution and a sine."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.conv(x).clamp(-1, 1))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def artifact(path: pathlib.Path, **more: str) -> Artifact:
    files = {
        "model": File(path=path.name),
        **{role: File(path=name) for role, name in more.items()},
    }
    return Artifact(
        format="tflite",
        parts=(Part(name="main", signature=FREE, files=files),),
        folder=path.parent,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """float.tflite and int8.tflite of one network, island.tflite (int8 with a float
    island).
    """
    torch.manual_seed(0)
    files_folder, data = (
        tmp_path_factory.mktemp("files"),
        torch.randn(16, 3, 8, 8),
    )
    litert_conversion.convert(
        plain().eval(),
        (data[:1],),
        files_folder / "float.tflite",
        channel_last_inputs=(0,),
    )
    for name, network, outputs in (
        ("int8", plain().eval(), ()),
        ("island", Island().eval(), ()),
    ):
        dims = ("batch", 4) if name == "int8" else ("batch", 4, 8, 8)
        signature = FREE.model_copy(
            update={
                "outputs": (FREE.outputs[0].model_copy(update={"dims": dims}),)
            }
        )
        graph = simulate(
            network,
            signature,
            calibrate(
                network,
                [(data,)],
                signature,
                Settings(symmetric=False, observer="min-max"),
            ),
            fold=False,
        )
        litert_conversion.convert(
            graph,
            (data[:1],),
            files_folder / f"{name}.tflite",
            channel_last_inputs=(0,),
            channel_last_outputs=outputs,
            quantized=True,
        )
    return files_folder


def measured(audit: Audit) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in audit.measurements}


def values(audit: Audit) -> dict[str, float | None]:
    return {
        measurement.name: measurement.value
        for measurement in audit.measurements
    }


def test_an_int8_file(folder: pathlib.Path) -> None:
    """All multiply-accumulates are in int8, and there are no warnings."""
    audit = audit_tflite.audit(artifact(folder / "int8.tflite"), DEVICE)
    assert values(audit) == {
        "int8_mac_share": 1,
        "float_ops": 0,
        "transposes": 0,
        "qdq_pairs": 0,
    }
    assert not audit.warnings
    assert [(row["op"], row["dtype"]) for row in audit.rows if row["macs"]] == [
        ("CONV_2D", "int8"),
        ("CONV_2D", "int8"),
        ("FULLY_CONNECTED", "int8"),
    ]
    assert (
        sum(row["macs"] for row in audit.rows)
        == 36 * 8 * 27 + 16 * 8 * 72 + 8 * 4
    )


def test_a_float_file(folder: pathlib.Path) -> None:
    """All in float; a warning only if the device is for integers."""
    audit = audit_tflite.audit_file(folder / "float.tflite", Limits())
    assert values(audit)["int8_mac_share"] == 0
    assert values(audit)["float_ops"] == len(audit.rows)
    assert not audit.warnings
    texts = audit_tflite.audit_file(folder / "float.tflite", DEVICE).warnings
    assert any(
        "compute in float; the device supports integer arithmetic only" in text
        for text in texts
    )
    assert any("float32; the device requires int8" in text for text in texts)


def test_a_float_island(folder: pathlib.Path) -> None:
    """An operator without an int8 kernel is reported, and so are the conversions around it
    and the transpose at the end.
    """
    audit = audit_tflite.audit_file(folder / "island.tflite", DEVICE)
    by_name = measured(audit)
    assert by_name["float_ops"].detail.get("SIN") == 1
    assert by_name["transposes"].value == 1
    assert (by_name["qdq_pairs"].value or 0) >= 2
    assert any(
        "inside an int8 graph" in text and "SIN" in text
        for text in audit.warnings
    )
    assert any("in the middle of the graph" in text for text in audit.warnings)
    assert any("TRANSPOSE" in text for text in audit.warnings)


def test_rows_name_modules(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """In edgekit's own exports a row names the PyTorch module, also for the output layer, and
    the warning names the modules of the island.
    """

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = (
                nn.ModuleList([Curve(), Curve()]),
                nn.Linear(4, 4),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network, data = Nested().eval(), torch.randn(8, 4, 8, 8)
    spec = FREE.inputs[0].model_copy(update={"dims": ("batch", 4, 8, 8)})
    signature = FREE.model_copy(update={"inputs": (spec,)})
    graph = simulate(
        network,
        signature,
        calibrate(network, [(data,)], signature, Settings()),
        fold=False,
    )
    static, samples = torch_to_tflite.with_static_shapes(
        graph, torch_to_tflite.with_batch(signature, 1)
    )
    litert_conversion.convert(
        static,
        samples,
        tmp_path / "nested.tflite",
        channel_last_inputs=(0,),
        quantized=True,
    )
    audit = audit_tflite.audit_file(tmp_path / "nested.tflite", DEVICE)
    assert [row["module"] for row in audit.rows if row["macs"]] == [
        "blocks.0.conv",
        "blocks.1.conv",
        "head",
    ]
    assert {row["module"] for row in audit.rows if row["op"] == "SIN"} == {
        "blocks.0",
        "blocks.1",
    }
    assert any(
        "inside an int8 graph" in text and "at blocks.0, blocks.1" in text
        for text in audit.warnings
    )


def test_files_of_other_tools(tmp_path: pathlib.Path) -> None:
    """A file of litert-torch and ai-edge-quantizer alone: dynamic int8 counts as int8,
    dequantized weights as float, and modules are named.
    """
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
    ]
    network = nn.Sequential(
        nn.Sequential(*layers), nn.Linear(256, 32), nn.Tanh()
    ).eval()
    with litert_conversion.quiet():
        litert_torch.convert(network, (torch.randn(1, 3, 8, 8),)).export(
            str(tmp_path / "float.tflite")
        )
    audits = {}
    for name in ("dynamic", "weight_only"):
        quantizer = Quantizer(str(tmp_path / "float.tflite"))
        getattr(quantizer, f"add_{name}_config")(
            ".*", TFLOperationName.ALL_SUPPORTED, 8
        )
        result = quantizer.quantize(
            enable_progress_bar=False, enable_progress_report=False
        )
        (tmp_path / f"{name}.tflite").write_bytes(result.quantized_model)
        audits[name] = audit_tflite.audit_file(
            tmp_path / f"{name}.tflite", Limits()
        )
    shares = {
        name: measured(audit)["int8_mac_share"]
        for name, audit in audits.items()
    }
    assert (
        shares["dynamic"].value == 1
        and "LiteRT quantizes the activations at run time"
        in shares["dynamic"].how
    )
    assert (
        shares["weight_only"].value == 0
        and "3 layers with dequantized weights are counted as float"
        in shares["weight_only"].how
    )
    assert any(
        "3 layers store integer weights but multiply in float" in text
        for text in audits["weight_only"].warnings
    )
    assert [row["module"] for row in audits["dynamic"].rows if row["macs"]] == [
        "0.0",
        "0.2",
        "1",
    ]


def test_memory_limit(folder: pathlib.Path) -> None:
    """Weights that the device cannot hold are reported."""
    assert any(
        "the device has 100" in text
        for text in audit_tflite.audit_file(
            folder / "int8.tflite", Limits(memory_bytes=100)
        ).warnings
    )


def test_damaged_files_are_reported(tmp_path: pathlib.Path) -> None:
    """A file that is not a TFLite file is an error with its name."""
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"nothing")
    with pytest.raises(
        ModelError, match=r"broken\.tflite is not a TFLite file"
    ):
        audit_tflite.audit_file(path, Limits())


def test_the_edge_tpu_maps_an_int8_file(folder: pathlib.Path) -> None:
    """The entire network is predicted to map, and the number is marked as a prediction."""
    audit = audit_edgetpu.audit(artifact(folder / "int8.tflite"), DEVICE)
    share = measured(audit)["tpu_mapped_share"]
    assert share.value == 1
    assert (
        "static prediction, upper bound; edgetpu_compiler not run" in share.how
    )
    weights = measured(audit)["tpu_weight_bytes"]
    assert weights.detail["fits_on_chip"] and weights.how.startswith("estimate")
    # Weights of int8, biases of int32, the MEAN's two axes.
    assert (
        8 * 27 + 8 * 72 + 4 * 8 + 4 * (8 + 8 + 4)
        <= (weights.value or 0)
        <= 8 * 27 + 8 * 72 + 4 * 8 + 4 * (8 + 8 + 4) + 8
    )
    assert (
        share.low,
        share.high,
        share.detail["subgraphs"],
        share.detail["share_of_all_subgraphs"],
    ) == (0, 1, 1, 1)
    assert {row["status"] for row in audit.rows} == {"Mapped to Edge TPU"}
    assert values(audit)["int8_mac_share"] == 1


def test_the_edge_tpu_stops_at_the_island(folder: pathlib.Path) -> None:
    """Only what comes before the first operator without a rule is mapped."""
    audit = audit_edgetpu.audit_file(folder / "island.tflite", DEVICE)
    first, second = 64 * 8 * 27, 64 * 4 * 72
    assert measured(audit)["tpu_mapped_share"].value == pytest.approx(
        first / (first + second)
    )
    assert any(
        "runs on the CPU: Operation not supported" in text
        for text in audit.warnings
    )
    assert any("maps only one subgraph" in text for text in audit.warnings)


@pytest.mark.parametrize(
    ("cache_bytes", "text"),
    [
        ((10, 20), "does not fit on chip; weights are streamed over USB/PCIe"),
        ((10, 10_000), "may not fit on chip"),
        ((10_000, 20_000), ""),
    ],
)
def test_weights_that_do_not_fit(
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    cache_bytes: tuple[int, int],
    text: str,
) -> None:
    """A warning if the weights exceed what the chip stores, a weaker one between the limits
    that logs have shown.
    """
    monkeypatch.setattr(audit_edgetpu, "CACHE_BYTES", cache_bytes)
    by_name = [
        warning
        for warning in audit_edgetpu.audit_file(
            folder / "int8.tflite", DEVICE
        ).warnings
        if "fit on chip" in warning
    ]
    assert bool(by_name) == bool(text) and all(
        warning.startswith(text) for warning in by_name
    )


def test_nothing_of_a_float_file_is_mapped(folder: pathlib.Path) -> None:
    """The Edge TPU executes no float operator."""
    assert (
        values(audit_edgetpu.audit_file(folder / "float.tflite", DEVICE))[
            "tpu_mapped_share"
        ]
        == 0
    )


def test_the_compilers_own_result_wins(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """With a compiled file, the share follows from what the compiler left for the CPU, and
    its log contains the reasons.
    """
    for name in ("island", "int8"):
        shutil.copyfile(folder / f"{name}.tflite", tmp_path / f"{name}.tflite")
    rows = [
        {"op": "CONV_2D", "count": 1, "status": "Mapped to Edge TPU"},
        {"op": "SIN", "count": 1, "status": "Operation not supported"},
    ]
    (tmp_path / "log.json").write_text(
        json.dumps(
            {
                "version": "16.0",
                "rows": rows,
                "on_chip_bytes": 90,
                "off_chip_bytes": 10,
            }
        )
    )
    compiled_artifact = artifact(
        tmp_path / "island.tflite", compiled="int8.tflite", log="log.json"
    )  # any smaller graph stands for what is left
    audit = audit_edgetpu.audit(compiled_artifact, DEVICE)
    share = measured(audit)["tpu_mapped_share"]
    total, left = 64 * 8 * 27 + 64 * 4 * 72, 36 * 8 * 27 + 16 * 8 * 72 + 8 * 4
    assert share.value == pytest.approx(1 - left / total)
    assert share.where == "edgetpu_compiler 16.0"
    assert "main: 1 SIN on the CPU: Operation not supported" in audit.warnings
    assert any(
        "weights are streamed over USB/PCIe for each inference: 10 bytes, according to the "
        "compiler's log" in text
        for text in audit.warnings
    )
    weights = measured(audit)["tpu_weight_bytes"]
    assert (weights.value, weights.detail["fits_on_chip"], weights.how) == (
        100,
        False,
        "the compiler's log, on chip and off chip",
    )
    (tmp_path / "log.json").write_text(
        json.dumps({"version": "14.1", "rows": rows, "off_chip_bytes": None})
    )
    assert (
        measured(audit_edgetpu.audit(compiled_artifact, DEVICE))[
            "tpu_weight_bytes"
        ].verdict
        == "unmeasured"
    )
    (tmp_path / "log.json").write_text("{")
    with pytest.raises(ModelError, match="log of 'main' cannot be read"):
        audit_edgetpu.audit(compiled_artifact, DEVICE)
