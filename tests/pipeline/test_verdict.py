"""Who wins and whether the gates hold, from measurements alone."""

import pytest

from edgekit.measurement import Measurement, Verdict, unmeasured
from edgekit.pipeline.verdict import choose, gates_of, judge_drop, verdict_of
from edgekit.recipe import Gates
from edgekit.report import ArtifactReport, CandidateReport
from edgekit.target import Target

CPU = Target(
    name="cpu",
    title="cpu",
    format="onnx",
    runtime="onnxruntime",
    schemes=("w8a8-static", "fp16", "float"),
)
GPU = CPU.model_copy(
    update={
        "name": "gpu",
        "format": "tensorrt",
        "runtime": "tensorrt",
        "latency": "unmeasured",
        "latency_note": "no GPU",
    }
)


def measured(
    name: str, value: float, width: float = 0.0, verdict: Verdict | None = None
) -> Measurement:
    return Measurement(
        name=name,
        value=value,
        low=value - width,
        high=value + width,
        unit="x",
        where="here",
        how="test",
        verdict=verdict,
    )  # type: ignore[arg-type]


def candidate(
    scheme: str,
    ms: float,
    size: int = 100,
    drop: Verdict = "pass",
    status: str = "raced",
) -> CandidateReport:
    artifact = ArtifactReport(key=scheme, bytes=size, files=(), signatures={})
    rows = (
        measured("latency_ms", ms),
        measured("speedup", 1 / ms, 0.01),
        measured("accuracy_drop", 0.001, verdict=drop),
    )
    word, _, reason = status.partition(": ")
    return CandidateReport.model_validate(
        {
            "scheme": scheme,
            "status": word,
            "reason": reason,
            "artifact": artifact,
            "measurements": rows,
        }
    )


def never(a: str, b: str) -> bool:
    return False


def test_int8_that_is_slower_than_float_does_not_win() -> None:
    """The fastest file wins, whatever its scheme."""
    rows = [candidate("w8a8-static", 1.2), candidate("float", 1.0, 400)]
    assert choose(rows, CPU, Gates(), never).winner == "float"


def test_the_paired_ratio_decides_who_is_fast() -> None:
    """A median time that was taken in a quiet moment does not beat a better ratio."""
    slow, quick = (
        candidate("w8-dynamic", 1 / 0.96),
        candidate("float", 1.0, 400),
    )
    calm = [
        measured("latency_ms", 0.0131) if row.name == "latency_ms" else row
        for row in slow.measurements
    ]
    assert (
        choose(
            [slow.model_copy(update={"measurements": tuple(calm)}), quick],
            CPU,
            Gates(),
            never,
        ).winner
        == "float"
    )


def test_the_fastest_that_holds_wins() -> None:
    """A faster candidate that was dropped for its accuracy does not win."""
    rows = [
        candidate(
            "w8a8-static", 0.3, drop="fail", status="dropped: it loses 0.1"
        ),
        candidate("fp16", 0.9),
        candidate("float", 1.0),
    ]
    assert choose(rows, CPU, Gates(), never).winner == "fp16"


def test_a_slower_file_that_holds_all_gates_wins() -> None:
    """The fastest file that misses another gate loses against a slower one that holds it;
    where none does, accuracy decides.
    """
    rows = [candidate("float", 0.3, 400), candidate("w8a8-static", 0.5, 100)]
    rows = [
        row.model_copy(
            update={
                "measurements": (
                    *row.measurements,
                    measured("size_bytes", row.artifact.bytes),
                )
            }
        )
        for row in rows
        if row.artifact
    ]
    assert (
        choose(rows, CPU, Gates(size_bytes=200), never).winner == "w8a8-static"
    )
    missed = choose(rows, CPU, Gates(size_bytes=50), never)
    assert missed.winner == "float"
    assert "does not hold every gate" in missed.why


def test_a_tie_goes_to_the_smaller_file() -> None:
    """Two that the race cannot tell apart are decided by size, and the reason says so."""
    rows = [candidate("fp16", 1.01, 200), candidate("float", 1.0, 400)]
    chosen = choose(rows, CPU, Gates(), lambda a, b: True)
    assert chosen.winner == "fp16"
    assert "as fast as float" in chosen.why


def test_an_inconclusive_candidate_wins_only_where_no_other_holds() -> None:
    """Doubt about accuracy loses against a slower file without doubt, and is told where it
    wins.
    """
    doubtful, sure = (
        candidate("w8a8-static", 0.3, drop="inconclusive"),
        candidate("float", 1.0),
    )
    assert choose([doubtful, sure], CPU, Gates(), never).winner == "float"
    alone = choose([doubtful], CPU, Gates(), never)
    assert alone.winner == "w8a8-static"
    assert "inconclusive" in alone.why


def test_without_a_device_the_targets_order_decides() -> None:
    """Where latency cannot be taken the first scheme that holds wins by rule, and the
    reason says so.
    """
    rows = [candidate("float", 1.0), candidate("w8a8-static", 9.0)]
    chosen = choose(rows, GPU, Gates(), never)
    assert chosen.winner == "w8a8-static"
    assert "by rule" in chosen.why


def test_no_candidate_left_is_told_with_every_reason() -> None:
    """Without a winner the verdict is fail and each candidate's reason is in the text."""
    chosen = choose(
        [
            candidate("float", 1.0, status="failed: it crashed"),
            candidate("fp16", 1.0, status="dropped: wrong"),
        ],
        CPU,
        Gates(),
        never,
    )
    assert chosen.winner is None
    assert "it crashed" in chosen.why
    assert "wrong" in chosen.why
    assert verdict_of(chosen.winner, ()) == "fail"


@pytest.mark.parametrize(
    ("limit", "expected"), [(1.0, "pass"), (2.0, "inconclusive"), (3.0, "fail")]
)
def test_a_lower_gate_is_judged_on_the_whole_interval(
    limit: float, expected: Verdict
) -> None:
    """speedup 2 +- 0.5 passes a gate of 1, leaves one of 2 open, fails one of 3."""
    row = CandidateReport(
        scheme="float",
        status="raced",
        measurements=(measured("speedup", 2, 0.5),),
    )
    gates = gates_of(row, Gates(speedup=limit), CPU)
    assert [gate.verdict for gate in gates] == [expected]
    assert verdict_of("float", gates) == expected


def test_an_upper_gate_is_judged_on_the_whole_interval() -> None:
    """A drop of 0.01 +- 0.015 is not conclusive against 0.02."""
    row = CandidateReport(
        scheme="float",
        status="raced",
        measurements=(measured("accuracy_drop", 0.01, 0.015),),
    )
    assert (
        gates_of(row, Gates(accuracy_drop=0.02), CPU)[0].verdict
        == "inconclusive"
    )


def test_a_time_that_only_the_device_can_tell_is_not_required_there() -> None:
    """On a target without its device the speed gate is shown as unmeasured, excused with
    the reason, and does not pass anything.
    """
    row = CandidateReport(
        scheme="fp16",
        status="raced",
        measurements=(
            unmeasured("speedup", "x", "gpu", "no GPU"),
            measured("accuracy_drop", 0.0),
        ),
    )
    gates = gates_of(row, Gates(accuracy_drop=0.02, speedup=1.0), GPU)
    speed = next(gate for gate in gates if gate.name == "speedup")
    assert (speed.verdict, speed.required, speed.why) == (
        "unmeasured",
        False,
        "no GPU",
    )
    assert verdict_of("fp16", gates) == "pass"


def test_a_required_gate_that_was_not_measured_is_not_green() -> None:
    """A gate whose number is missing makes the target unmeasured."""
    row = CandidateReport(scheme="float", status="raced")
    gates = gates_of(row, Gates(int8_mac_share=0.9), CPU)
    assert verdict_of("float", gates) == "unmeasured"


def test_a_drop_without_a_gate_passes() -> None:
    """Where no accuracy gate is asked the drop is reported and judged as pass."""
    assert judge_drop(measured("accuracy_drop", 0.5), None) == "pass"
    assert judge_drop(measured("accuracy_drop", 0.5), 0.1) == "fail"
