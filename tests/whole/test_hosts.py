"""The same files on every host that is available here: this machine, tflite-runtime 2.14, an
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
from tests.processors import saturates
from tests.whole.conftest import Make
from tests.whole.reached import set_up, verified

pytestmark = pytest.mark.slow
ARM, OLD = "qemu-arm64", "tflite-runtime"


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """Both hosts that edgekit installs are set up, with the command that a user runs."""
    set_up(OLD, ARM)


def value(evidence: EvidenceReport, name: Any) -> float:
    """One measured number."""
    row = evidence.measurement(name)
    assert row is not None and row.value is not None
    return row.value


def test_the_digits_winners_hold_on_every_host(
    shipped: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """int8 for ONNX Runtime and LiteRT: within two steps in the old runtime and on ARM,
    which is never timed; the report shows which are bit-equal.
    """
    results = pathlib.Path(shutil.copytree(shipped, tmp_path / "results"))
    lite = verified(
        results / "mobile-tflite", "--on", "local", "--on", OLD, "--on", ARM
    )["mobile-tflite"]
    onnx = verified(results / "cpu-onnx", "--on", "local", "--on", ARM)[
        "cpu-onnx"
    ]
    for evidence in (*lite.values(), *onnx.values()):
        assert evidence.verdict == "pass" and value(evidence, "parity") <= 2, (
            evidence
        )
    runtimes = {
        evidence.where.split(": ")[1].split(" ")[0]
        for evidence in (*lite.values(), *onnx.values())
    }
    assert runtimes == {"ai-edge-litert", "tflite-runtime", "onnxruntime"}
    arm = [
        evidence
        for evidence in (*lite.values(), *onnx.values())
        if evidence.host.startswith(ARM)
    ]
    assert {evidence.machine for evidence in arm} == {"aarch64"} and len(
        arm
    ) >= 3
    assert all(
        evidence.measurement("latency_ms") is None
        and "emulated" in evidence.where
        for evidence in arm
    )
    assert lite["local"].measurement("latency_ms") is not None
    data = report.load(results)
    assert sum(len(row.evidence) for row in data.targets) == len(lite) + len(
        onnx
    )
    assert "bit-equal" in (results / "report.md").read_text()


@pytest.mark.parametrize("device", ["cpu-onnx", "mobile-tflite"])
@pytest.mark.parametrize("family", ["depthwise", "attention", "recurrent"])
def test_int8_of_every_family_is_within_its_steps_on_arm(
    make: Make, family: str, device: str
) -> None:
    """Parity with x86 in steps, for ONNX Runtime and LiteRT; what is more than two steps is
    less than quantization itself moves.
    """
    if device == "cpu-onnx" and saturates():
        pytest.skip("ONNX Runtime's int8 saturates on this processor")
    bundled = make(family, "task", "w8a8-static", device)
    for evidence in verified(bundled, "--on", ARM)[device].values():
        row = evidence.measurement("parity")
        assert (
            row is not None
            and row.value is not None
            and evidence.verdict == "pass"
        ), evidence
        assert row.value <= max(2, row.detail["quantization_error"])


@pytest.mark.filterwarnings("ignore:typing.(io|re) is deprecated")
@pytest.mark.parametrize(
    ("scheme", "device", "right", "wrong"),
    [
        # Winners of the race (docs/explanation/benchmarks.md); for tflite-runtime 2.14 the
        # first of its target's order that holds there.
        ("w8-dynamic", "cpu-onnx", ("local", "loopback", "board"), ()),
        (
            "w8-dynamic",
            "mobile-tflite",
            ("local", "loopback", f"{ARM}/main"),
            (OLD,),
        ),
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
    """The published sentence encoder in int8 computes on ARM, in the old runtime and over
    OpenSSH what it computes here; if it does not, that is reported.
    """
    bundled = make("bench.minilm:model", "sentences", scheme, device)
    words = [
        word
        for host in (*right, *wrong)
        for word in ("--on", over_ssh.get(host, host))
    ]
    (evidence,) = verified(
        bundled, *words, "--samples", "2", "--no-times", code=1 if wrong else 0
    ).values()
    verdicts = {
        name: evidence[over_ssh.get(name, name)].verdict
        for name in (*right, *wrong)
    }
    assert verdicts == {
        **dict.fromkeys(right, "pass"),
        **dict.fromkeys(wrong, "fail"),
    }, evidence


def broken(folder: pathlib.Path) -> None:
    """Put the dynamic int8 file of ai-edge-quantizer's plain recipe in the winner's place:
    right in LiteRT, chance in tflite-runtime 2.14.
    """
    from ai_edge_quantizer import quantizer

    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    converter = quantizer.Quantizer(
        str(folder / bundle.REFERENCE / "main.tflite")
    )
    converter.add_dynamic_config(
        ".*", quantizer.qtyping.TFLOperationName.ALL_SUPPORTED, 8
    )
    (folder / "main.tflite").unlink()
    converter.quantize().export_model(str(folder / "main.tflite"))
    facts = manifest["bundle"]
    manifest.update(
        signatures=facts["reference"]["signatures"],
        scheme="w8-dynamic",
        key="broken",
    )
    with numpy.load(folder / bundle.SAMPLES) as stored:
        arrays = {name: stored[name] for name in stored.files}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    from edgekit.cache import file_digest
    from edgekit.report import ShippedFile

    files = [
        ShippedFile.model_validate(
            {**row, "sha256": file_digest(folder / "main.tflite")}
        ).model_dump()
        for row in manifest["files"]
        if row["role"] == "model"
    ]
    manifest["files"] = files
    facts["sha256"]["main.tflite"] = files[0]["sha256"]
    facts["one_by_one"] = True
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    artifact = bundle.artifact(bundle.Manifest.model_validate(manifest), folder)
    with LocalHost().open(artifact, {"samples": 1}) as runner:
        outputs = runner.infer(
            {
                name.partition(":")[2]: array
                for name, array in arrays.items()
                if name.startswith("input:")
            }
        )
    arrays.update(
        {f"expected:{name}": array for name, array in outputs.items()}
    )
    numpy.savez(folder / bundle.SAMPLES, **arrays)  # type: ignore[arg-type]
    facts["sha256"][bundle.SAMPLES] = file_digest(folder / bundle.SAMPLES)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


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
    evidence = verified(
        folder, "--on", "local", "--on", OLD, "--no-times", code=1
    )["mobile-tflite"]
    assert (
        evidence["local"].verdict,
        evidence[OLD].verdict,
        evidence[OLD].error,
    ) == (
        "pass",
        "fail",
        "",
    )
    assert value(evidence["local"], "accuracy") > 0.9
    assert value(evidence[OLD], "accuracy") < 0.3
