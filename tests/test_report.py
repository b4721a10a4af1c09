"""The report: one value, written and read back whole, and every damaged file told."""

import json
import math
import pathlib

import pytest

from edgekit import report
from edgekit.artifact import Artifact, File, Part
from edgekit.errors import ReportError
from edgekit.measurement import Measurement
from edgekit.report import (
    CandidateReport,
    GateReport,
    Report,
    StageReport,
    TargetReport,
)
from edgekit.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 4)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 2)),),
)
ACCURACY = Measurement(
    name="accuracy",
    value=0.98,
    low=0.97,
    high=0.99,
    unit="top1",
    n=719,
    where="local",
    how="all test samples",
    verdict="pass",
)


def example() -> Report:
    """A small whole report."""
    part = Part(
        name="main",
        signature=SIGNATURE,
        files={"model": File(path="main.onnx", sha256="ab", bytes=7)},
    )
    artifact = report.describe(
        Artifact(format="onnx", parts=(part,), key="k", notes={"opset": 20})
    )
    candidate = CandidateReport(
        scheme="float",
        status="raced",
        artifact=artifact,
        measurements=(ACCURACY,),
    )
    gate = GateReport(
        name="accuracy_drop",
        limit=0.02,
        value=0.0,
        unit="score",
        where="local",
        verdict="pass",
    )
    target = TargetReport(
        name="cpu-onnx",
        title="t",
        format="onnx",
        runtime="onnxruntime",
        verdict="pass",
        winner="float",
        chosen="the fastest",
        candidates=(candidate,),
        gates=(gate,),
    )
    return Report(
        edgekit="0.1.0",
        recipe={"model": "zoo:cnn"},
        verdict="pass",
        targets=(target,),
        stages=(StageReport(name="train", step="train", key="a"),),
    )


def test_a_report_is_read_back_as_it_was_written(
    tmp_path: pathlib.Path,
) -> None:
    """From a folder or a file, the same value; its top keys are those of the design."""
    written = example()
    (tmp_path / "report.json").write_text(written.to_json())
    assert (
        report.load(tmp_path)
        == report.load(tmp_path / "report.json")
        == written
    )
    assert {
        "schema",
        "edgekit",
        "recipe",
        "verdict",
        "targets",
        "stages",
    } <= set(json.loads(written.to_json()))
    assert json.loads(written.to_json())["schema"] == 2


def test_what_a_user_asks_for_is_found() -> None:
    """A candidate by its scheme, a measurement by its name; None where there is none."""
    target = example().targets[0]
    candidate = target.candidate("float")
    assert candidate is not None
    assert candidate.measurement("accuracy") == ACCURACY
    assert candidate.measurement("speedup") is None
    assert target.candidate("fp16") is None


def test_a_report_holds_no_number_that_json_lacks() -> None:
    """NaN is refused rather than written as something other tools cannot read."""
    wrong = example().model_copy(update={"seconds": math.nan})
    with pytest.raises(ValueError, match="not JSON compliant"):
        wrong.to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "has no report.json"),
        ("{", "cannot be read"),
        ("[]", "has schema 'list'"),
        ('{"schema": 1}', "has schema 1; this edgekit reads schema 2"),
        (
            '{"schema": 2, "edgekit": "0", "recipe": {}, "verdict": "passed", "targets": [{}]}',
            "expected one of pass, fail",
        ),
    ],
)
def test_a_damaged_report_is_told(
    tmp_path: pathlib.Path, text: str | None, said: str
) -> None:
    """A missing, cut off, foreign or edited report is a clear error with a way out."""
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(ReportError) as caught:
        report.load(tmp_path)
    assert said in str(caught.value)
    assert caught.value.fix
