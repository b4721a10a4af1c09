"""The same files on every host that can be had here: this machine, tflite-runtime 2.14, an
emulated ARM, and OpenSSH.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pytest

from edgekit import report
from edgekit.bundles import bundle
from edgekit.hosts.local import LocalHost
from edgekit.report import EvidenceReport
from tests.whole.conftest import Make
from tests.whole.reached import set_up, verified

pytestmark = pytest.mark.slow
ARM, OLD = "qemu-arm64", "tflite-runtime"


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """Both hosts that edgekit makes are made, by the command that a user gives."""
    set_up(OLD, ARM)


def value(found: EvidenceReport, name: Any) -> float:
    """One measured number."""
    row = found.find(name)
    assert row is not None and row.value is not None
    return row.value


def test_the_digits_winners_hold_on_every_host(
    shipped: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """int8 for ONNX Runtime and LiteRT: within two steps in the old runtime and on ARM,
    where it is not timed; the report shows what is bit-equal.
    """
    results = pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))
    lite = verified(results / "mobile-tflite", "--on", "local", "--on", OLD, "--on", ARM)[
        "mobile-tflite"
    ]
    onnx = verified(results / "cpu-onnx", "--on", "local", "--on", ARM)["cpu-onnx"]
    for found in (*lite.values(), *onnx.values()):
        assert found.verdict == "pass" and value(found, "parity") <= 2, found
    runtimes = {
        found.where.split(": ")[1].split(" ")[0]
        for found in (*lite.values(), *onnx.values())
    }
    assert runtimes == {"ai-edge-litert", "tflite-runtime", "onnxruntime"}
    arm = [
        found for found in (*lite.values(), *onnx.values()) if found.host.startswith(ARM)
    ]
    assert {found.machine for found in arm} == {"aarch64"} and len(arm) >= 3
    assert all(
        found.find("latency_ms") is None and "emulated" in found.where for found in arm
    )
    assert lite["local"].find("latency_ms") is not None
    told = report.load(results)
    assert sum(len(row.evidence) for row in told.targets) == len(lite) + len(onnx)
    assert "bit-equal" in (results / "report.md").read_text()


@pytest.mark.parametrize("family", ["depthwise", "attention", "recurrent"])
def test_int8_of_every_family_is_within_its_steps_on_arm(make: Make, family: str) -> None:
    """Parity with x86 in steps, for ONNX Runtime and LiteRT; what is more than two steps is
    less than quantization itself moves.
    """
    for scheme, device in (("w8a8-static", "cpu-onnx"), ("w8a8-static", "mobile-tflite")):
        bundled = make(family, "task", scheme, device)
        for found in verified(bundled, "--on", ARM)[device].values():
            row = found.find("parity")
            assert row is not None and row.value is not None and found.verdict == "pass", (
                found
            )
            assert row.value <= max(2, row.detail["own_error"])


@pytest.mark.filterwarnings("ignore:typing.(io|re) is deprecated")
@pytest.mark.parametrize(
    ("scheme", "device", "right", "wrong"),
    [
        # Winners of the race (docs/explanation/benchmarks.md); for tflite-runtime 2.14 the
        # first of its target's order that holds there.
        ("w8-dynamic", "cpu-onnx", ("local", "loopback", "board"), ()),
        ("w8-dynamic", "mobile-tflite", ("local", "loopback", f"{ARM}/main"), (OLD,)),
        (
            "w8-weight",
            "raspberry-pi-tflite-runtime",
            ("local", OLD, f"{ARM}/tflite-runtime"),
            (),
        ),
    ],
)
def test_the_encoders_winners_hold_where_they_are_for(
    make: Make,
    over_ssh: Mapping[str, str],
    scheme: str,
    device: str,
    right: Sequence[str],
    wrong: Sequence[str],
) -> None:
    """The published sentence encoder in int8 gives on ARM, in the old runtime and over
    OpenSSH what it gives here; where it does not, that is told.
    """
    bundled = make("bench.minilm:model", "sentences", scheme, device)
    words = [
        word for host in (*right, *wrong) for word in ("--on", over_ssh.get(host, host))
    ]
    (found,) = verified(
        bundled, *words, "--samples", "2", "--no-times", code=1 if wrong else 0
    ).values()
    verdicts = {name: found[over_ssh.get(name, name)].verdict for name in (*right, *wrong)}
    assert verdicts == {**dict.fromkeys(right, "pass"), **dict.fromkeys(wrong, "fail")}, (
        found
    )


def broken(folder: pathlib.Path) -> None:
    """Put the dynamic int8 file of ai-edge-quantizer's plain recipe in the winner's place:
    right in LiteRT, chance in tflite-runtime 2.14.
    """
    from ai_edge_quantizer import quantizer

    told = json.loads((folder / bundle.MANIFEST).read_text())
    made = quantizer.Quantizer(str(folder / bundle.REFERENCE / "main.tflite"))
    made.add_dynamic_config(".*", quantizer.qtyping.TFLOperationName.ALL_SUPPORTED, 8)
    (folder / "main.tflite").unlink()
    made.quantize().export_model(str(folder / "main.tflite"))
    facts = told["bundle"]
    told.update(
        signatures=facts["reference"]["signatures"], scheme="w8-dynamic", key="broken"
    )
    with numpy.load(folder / bundle.SAMPLES) as stored:
        arrays = {name: stored[name] for name in stored.files}
    (folder / bundle.MANIFEST).write_text(json.dumps(told))
    from edgekit.cache import file_digest
    from edgekit.report import ShippedFile

    files = [
        ShippedFile.model_validate(
            {**row, "sha256": file_digest(folder / "main.tflite")}
        ).model_dump()
        for row in told["files"]
        if row["role"] == "model"
    ]
    told["files"] = files
    facts["sha256"]["main.tflite"] = files[0]["sha256"]
    facts["one_by_one"] = True
    (folder / bundle.MANIFEST).write_text(json.dumps(told))
    found = bundle.artifact(bundle.Manifest.model_validate(told), folder)
    with LocalHost().open(found, {"samples": 1}) as runner:
        outputs = runner.infer(
            {
                name.partition(":")[2]: array
                for name, array in arrays.items()
                if name.startswith("input:")
            }
        )
    arrays.update({f"expected:{name}": array for name, array in outputs.items()})
    numpy.savez(folder / bundle.SAMPLES, **arrays)  # type: ignore[arg-type]
    facts["sha256"][bundle.SAMPLES] = file_digest(folder / bundle.SAMPLES)
    (folder / bundle.MANIFEST).write_text(json.dumps(told))


def test_a_file_that_is_wrong_in_an_older_runtime_is_caught_there(
    shipped: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The dynamic int8 trap: the same file passes in LiteRT and fails in tflite-runtime
    2.14, without any error of that runtime.
    """
    folder = pathlib.Path(
        shutil.copytree(shipped / "mobile-tflite", tmp_path / "mobile-tflite")
    )
    broken(folder)
    found = verified(folder, "--on", "local", "--on", OLD, "--no-times", code=1)[
        "mobile-tflite"
    ]
    assert (found["local"].verdict, found[OLD].verdict, found[OLD].error) == (
        "pass",
        "fail",
        "",
    )
    assert value(found["local"], "accuracy") > 0.9
    assert value(found[OLD], "accuracy") < 0.3
