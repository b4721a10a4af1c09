"""Int8 TFLite files compiled by the real Vela: what is written, for every accelerator that
has a target, and what is rejected.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit import catalog, target
from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import MissingBackend, StepError
from edgekit.formats.ethosu import vela
from edgekit.formats.ethosu.export import TfliteToEthosu
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.sources.resnet import resnet8
from edgekit.task import Task

pytest.importorskip("ethosu.vela", reason="needs edgekit[ethosu]")

TASK = Task(
    name="none", test=(numpy.zeros((1, 1), "float32"), numpy.zeros(1, "int64"))
)
TARGETS = [
    name for name in catalog.names("targets") if name.startswith("ethos-u")
]


class Depthwise(nn.Module):
    """The layers of MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.point, self.head = (
            nn.Conv2d(1, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, 2, 1, groups=16),
            nn.Conv2d(16, 32, 1),
            nn.Linear(32, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.point(F.hardswish(self.deep(F.relu(self.stem(x))))))
        result: torch.Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return result


class Attention(nn.Module):
    """A convolution and an attention over its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.head = (
            nn.Conv2d(1, 16, 2, 2),
            nn.Linear(16, 48),
            nn.Linear(16, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.mix(
            self.patches(x).flatten(2).transpose(1, 2)
        ).chunk(3, -1)
        result: torch.Tensor = self.head(
            F.scaled_dot_product_attention(query, key, value).mean(1)
        )
        return result


NETWORKS = {
    "resnet8": lambda: resnet8(1, 10, 16),
    "depthwise": Depthwise,
    "attention": Attention,
}


def signature(
    batch: int | str, *dims: int, **more: tuple[int, ...]
) -> Signature:
    output = TensorSpec(name="output", dtype="float32", dims=(batch, 10))
    return Signature(
        inputs=(
            TensorSpec(
                name="input", dtype="float32", dims=(batch, *dims), **more
            ),
        ),
        outputs=(output,),
    )


def artifact(
    folder: pathlib.Path, network: nn.Module, *, quantized: bool, size: int = 8
) -> Artifact:
    data, free = (
        torch.rand(16, 1, size, size),
        signature("batch", 1, size, size),
    )
    network.eval()
    if quantized:
        settings = Settings(observer="min-max", runtime="ethosu")
        network = simulate(
            network,
            free,
            calibrate(network, [(data,)], free, settings),
            fold=False,
        )
    litert_conversion.convert(
        network,
        (data[:1],),
        folder / "main.tflite",
        channel_last_inputs=(0,),
        quantized=quantized,
    )
    part = Part(
        name="main",
        signature=litert.read_signature(
            folder / "main.tflite",
            signature(1, size, size, 1, axes=(0, 2, 3, 1)),
        ),
        files={"model": File(path="main.tflite")},
    )
    return Artifact(format="tflite", parts=(part,), folder=folder)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Each network as an int8 file."""
    torch.manual_seed(0)
    return {
        name: artifact(tmp_path_factory.mktemp(name), make(), quantized=True)
        for name, make in NETWORKS.items()
    }


def step_of(name: str) -> TfliteToEthosu:
    limits = target.load(catalog.find("targets", name)).limits
    return TfliteToEthosu(
        limits.accelerator,
        limits.system_config,
        limits.memory_mode,
        limits.sram_bytes,
    )


def run_step(
    source: Artifact, folder: pathlib.Path, step: TfliteToEthosu
) -> Artifact:
    folder.mkdir(exist_ok=True)
    step.requires(source)
    result = step.run(source, Context(folder=folder, networks=dict, task=TASK))
    step.ensures(source, result)
    return result


def test_there_is_a_target_of_each_family() -> None:
    """U55, U65 and U85."""
    assert {name[:9] for name in TARGETS} == {
        "ethos-u55",
        "ethos-u65",
        "ethos-u85",
    }


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_network_of_edgekits_runs_on_the_npu_only(
    int8: dict[str, Artifact], network: str, name: str, tmp_path: pathlib.Path
) -> None:
    """On every target: the compiled file is one custom operator, the log has a time, and
    the names are the target's.
    """
    step = step_of(name)
    result = run_step(int8[network], tmp_path / "exported", step)
    part = result.parts[0]
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {
        "main.tflite",
        "main_vela.tflite",
        "main.log.json",
    }
    assert {role: file.path for role, file in part.files.items()} == {
        "model": "main.tflite",
        "compiled": "main_vela.tflite",
        "log": "main.log.json",
    }
    compiled = tflite_file.read(result.path(part, "compiled"))
    assert [
        compiled.operatorCodes[operator.opcodeIndex].customCode
        for operator in compiled.subgraphs[0].operators
    ] == [b"ethos-u"]
    log = _log(result)
    assert (log["setting"], log["refusals"]) == (step.setting.model_dump(), [])
    assert log["cycles"] > 0
    assert 0 < log["sram_bytes"] < log["setting"]["sram_bytes"]
    assert sum(layer["macs"] for layer in log["layers"]) > 0
    assert result.notes["parts"]["main"]["cpu_operators"] == 0
    assert (
        result.path(part).read_bytes()
        == int8[network].path(int8[network].parts[0]).read_bytes()
    )


def test_vela_plans_with_the_srams_size(tmp_path: pathlib.Path) -> None:
    """With less SRAM it uses less if it can, and never fewer cycles."""
    (tmp_path / "wide").mkdir()
    network = nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    source, step = (
        artifact(tmp_path / "wide", network, quantized=True, size=32),
        step_of("ethos-u55-256"),
    )
    wide, tight = (
        _log(
            run_step(
                source,
                tmp_path / str(sram),
                dataclasses.replace(step, sram_bytes=sram),
            )
        )
        for sram in (2 << 20, 150_000)
    )
    assert tight["sram_bytes"] <= 150_000 < wide["sram_bytes"]
    assert tight["cycles"] >= wide["cycles"]


def _log(compiled: Artifact) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(
        compiled.path(compiled.parts[0], "log").read_text()
    )
    return report


def test_a_float_file_is_passed_on(tmp_path: pathlib.Path) -> None:
    """The reference is unchanged and not compiled; the notes state that it runs on the CPU."""
    (tmp_path / "float").mkdir()
    source = artifact(tmp_path / "float", Depthwise(), quantized=False)
    result = run_step(source, tmp_path / "exported", step_of("ethos-u55-256"))
    assert set(result.parts[0].files) == {"model"}
    assert (
        result.path(result.parts[0]).read_bytes()
        == source.path(source.parts[0]).read_bytes()
    )
    assert "none of it runs on the Ethos-U" in result.notes["parts"]["main"]


def test_a_file_of_which_the_npu_runs_nothing_is_rejected(
    int8: dict[str, Artifact], tmp_path: pathlib.Path
) -> None:
    """A compiled file without Vela's custom operator, such as the file before compilation."""
    step = step_of("ethos-u55-256")
    result = run_step(int8["depthwise"], tmp_path / "exported", step)
    again = int8["depthwise"].model_copy(
        update={
            "folder": result.folder,
            "parts": (
                result.parts[0].model_copy(
                    update={"files": {"model": File(path="main.tflite")}}
                ),
            ),
        }
    )
    (result.folder / "main_vela.tflite").write_bytes(
        result.path(result.parts[0]).read_bytes()
    )
    with pytest.raises(StepError, match="Vela leaves all operators to the CPU"):
        step.ensures(again, result)
    (result.folder / "main.tflite").write_bytes(b"another file")
    with pytest.raises(StepError, match="is not the one that was compiled"):
        step.ensures(int8["depthwise"], result)


def test_a_wrong_target_and_a_missing_vela_are_reported_before_any_work(
    int8: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """StepError with the valid names, MissingBackend with the extra."""
    with pytest.raises(
        StepError,
        match="no system_config 'Ethos_U85_SYS_DRAM_Low' for ethos-u55-256",
    ):
        TfliteToEthosu(
            "ethos-u55-256", "Ethos_U85_SYS_DRAM_Low", "Shared_Sram"
        ).requires(int8["resnet8"])
    monkeypatch.setattr(vela, "MODULE", "no_such_package.vela")
    with pytest.raises(
        MissingBackend, match=r"pip install 'edgekit\[ethosu\]'"
    ):
        step_of("ethos-u55-256").requires(int8["resnet8"])


def test_a_failure_leaves_no_compiled_file(
    int8: dict[str, Artifact],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If Vela fails, the step fails, and none of Vela's files is in the folder."""
    monkeypatch.setattr(vela, "COMMAND", ("false",))
    with pytest.raises(StepError, match="Vela failed on main.tflite"):
        run_step(
            int8["resnet8"], tmp_path / "exported", step_of("ethos-u55-256")
        )
    assert not list((tmp_path / "exported").glob("*vela*"))
    assert not list((tmp_path / "exported").glob("*.json"))
