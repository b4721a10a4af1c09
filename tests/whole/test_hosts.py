"""The same files on every host that can be had here: this machine, tflite-runtime 2.14, an emulated ARM, and OpenSSH."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from click.testing import CliRunner

from edgekit import bundle, plan, recipe, report, shelf, target
from edgekit.cli.main import main
from edgekit.hosts.local import LocalHost
from edgekit.report import EvidenceReport
from edgekit.run import Options, run

pytestmark = pytest.mark.slow
FAMILIES = pathlib.Path(__file__).with_name("families.py")
ARM, OLD = "qemu-arm64", "tflite-runtime"
Make = Callable[[str, str, str, str], pathlib.Path]


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """Both hosts that edgekit makes are made, by the command that a user gives."""
    done = CliRunner().invoke(main, ["hosts", "setup", OLD, ARM])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Runs a recipe of one scheme for one target, chosen by rule, and gives the bundle."""
    folder = tmp_path_factory.mktemp("families")

    def made(model: str, data: str, scheme: str, device: str) -> pathlib.Path:
        compress: list[Any] = [{"quantize": {"scheme": scheme, "samples": 64}}]
        if data == "task":
            compress.insert(0, {"train": {"epochs": 2}})
        wanted = recipe.Recipe.model_validate({
            "name": "family", "model": model if ":" in model else f"{FAMILIES}:{model}", "task": f"{FAMILIES}:{data}", "compress": compress,
            "targets": [device], "gates": {"accuracy_drop": 0.9},
        })  # fmt: skip
        untimed = {"latency": "unmeasured", "latency_note": "chosen by rule", "schemes": (scheme, "float"), "also_on": ()}
        out = folder / f"{model.rpartition(':')[2]}-{scheme}"
        run(plan.plan(wanted, [target.load(shelf.find("targets", device)).model_copy(update=untimed)]), Options(out, folder / "cache"))
        assert json.loads((out / device / "manifest.json").read_text())["scheme"] == scheme
        return out / device

    return made


def verified(folder: pathlib.Path, *words: str, code: int = 0) -> dict[str, EvidenceReport]:
    """What ``edgekit verify`` finds, by host and environment."""
    done = CliRunner().invoke(main, ["verify", str(folder), "--json", *words])
    assert done.exit_code == code, done.output
    rows = json.loads(done.stdout)[folder.name]
    return {row["host"]: EvidenceReport.model_validate(row) for row in rows}


def value(found: EvidenceReport, name: Any) -> float:
    """One measured number."""
    row = found.find(name)
    assert row is not None and row.value is not None
    return row.value


def test_the_digits_winners_hold_on_every_host(shipped: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """int8 for ONNX Runtime and LiteRT: within two steps in the old runtime and on ARM, where it is not timed; the report shows what is bit-equal."""
    results = pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))
    lite = verified(results / "mobile-tflite", "--on", "local", "--on", OLD, "--on", ARM)
    onnx = verified(results / "cpu-onnx", "--on", "local", "--on", ARM)
    for found in (*lite.values(), *onnx.values()):
        assert found.verdict == "pass" and value(found, "parity") <= 2, found
    runtimes = {found.where.split(": ")[1].split(" ")[0] for found in (*lite.values(), *onnx.values())}
    assert runtimes == {"ai-edge-litert", "tflite-runtime", "onnxruntime"}
    arm = [found for found in (*lite.values(), *onnx.values()) if found.host.startswith(ARM)]
    assert {found.machine for found in arm} == {"aarch64"} and len(arm) >= 3
    assert all(found.find("latency_ms") is None and "emulated" in found.where for found in arm)
    assert lite["local"].find("latency_ms") is not None
    told = report.load(results)
    assert sum(len(row.evidence) for row in told.targets) == len(lite) + len(onnx)
    assert "bit-equal" in (results / "report.md").read_text()


@pytest.mark.parametrize("family", ["depthwise", "attention", "recurrent"])
def test_int8_of_every_family_is_within_its_steps_on_arm(make: Make, family: str) -> None:
    """Parity with x86 in steps, for ONNX Runtime and LiteRT; what is more than two steps is less than quantization itself moves."""
    for scheme, device in (("w8a8-static", "cpu-onnx"), ("w8a8-static", "mobile-tflite")):
        bundled = make(family, "task", scheme, device)
        for found in verified(bundled, "--on", ARM).values():
            row = found.find("parity")
            assert row is not None and row.value is not None and found.verdict == "pass", found
            assert row.value <= max(2, row.detail["own_error"])


@pytest.mark.filterwarnings("ignore:typing.(io|re) is deprecated")
def test_the_encoders_winner_holds_on_arm(make: Make) -> None:
    """The published sentence encoder with int8 scaled row by row gives on ARM what it gives here."""
    bundled = make("bench.minilm:model", "sentences", "w8-dynamic", "cpu-onnx")
    found = verified(bundled, "--on", "local", "--on", ARM, "--samples", "4", "--no-times")
    assert {row.verdict for row in found.values()} == {"pass"} and len(found) >= 2, found


def broken(folder: pathlib.Path) -> None:
    """Put the dynamic int8 file of ai-edge-quantizer's plain recipe in the winner's place: right in LiteRT, chance in tflite-runtime 2.14."""
    from ai_edge_quantizer import quantizer

    told = json.loads((folder / bundle.MANIFEST).read_text())
    made = quantizer.Quantizer(str(folder / bundle.REFERENCE / "main.tflite"))
    made.add_dynamic_config(".*", quantizer.qtyping.TFLOperationName.ALL_SUPPORTED, 8)
    (folder / "main.tflite").unlink()
    made.quantize().export_model(str(folder / "main.tflite"))
    facts = told["bundle"]
    told.update(signatures=facts["reference"]["signatures"], scheme="w8-dynamic", key="broken")
    with numpy.load(folder / bundle.SAMPLES) as stored:
        arrays = {name: stored[name] for name in stored.files}
    (folder / bundle.MANIFEST).write_text(json.dumps(told))
    from edgekit.cache import file_digest
    from edgekit.report import ShippedFile

    files = [ShippedFile.model_validate({**row, "sha256": file_digest(folder / "main.tflite")}).model_dump() for row in told["files"] if row["role"] == "model"]
    told["files"] = files
    facts["sha256"]["main.tflite"] = files[0]["sha256"]
    facts["one_by_one"] = True
    (folder / bundle.MANIFEST).write_text(json.dumps(told))
    found = bundle.artifact(bundle.Manifest.model_validate(told), folder)
    with LocalHost().open(found, {"samples": 1}) as runner:
        outputs = runner.infer({name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("input:")})
    arrays.update({f"expected:{name}": array for name, array in outputs.items()})
    numpy.savez(folder / bundle.SAMPLES, **arrays)  # type: ignore[arg-type]
    facts["sha256"][bundle.SAMPLES] = file_digest(folder / bundle.SAMPLES)
    (folder / bundle.MANIFEST).write_text(json.dumps(told))


def test_a_file_that_is_wrong_in_an_older_runtime_is_caught_there(shipped: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The dynamic int8 trap: the same file passes in LiteRT and fails in tflite-runtime 2.14, without any error of that runtime."""
    folder = pathlib.Path(shutil.copytree(shipped / "mobile-tflite", tmp_path / "mobile-tflite"))
    broken(folder)
    found = verified(folder, "--on", "local", "--on", OLD, "--no-times", code=1)
    assert (found["local"].verdict, found[OLD].verdict, found[OLD].error) == ("pass", "fail", "")
    assert value(found["local"], "accuracy") > 0.9
    assert value(found[OLD], "accuracy") < 0.3
