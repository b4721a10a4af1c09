"""The promise of the first release, on the demo's own report: `make demo`, and the numbers
that it must show.

The demo's work is shared through the user's cache: after `make demo` this takes seconds, on
a fresh machine minutes.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from edgekit import report
from edgekit.measurement import MeasurementName
from edgekit.report import CandidateReport, Report, TargetReport

pytestmark = pytest.mark.slow


def run(
    root: pathlib.Path, out: pathlib.Path
) -> subprocess.CompletedProcess[str]:
    """`edgekit run recipes/digits.yaml`, with the cache that `make demo` uses: the tests'
    own is put away.
    """
    ours = (
        "EDGEKIT_CACHE",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ours
    }
    if "EDGEKIT_DEMO_CACHE" in os.environ:
        environment["EDGEKIT_CACHE"] = os.environ["EDGEKIT_DEMO_CACHE"]
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "run",
        "recipes/digits.yaml",
        "--out",
        str(out),
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=environment,
    )


@pytest.fixture(scope="module")
def out(
    root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The folder of a finished demo."""
    folder = tmp_path_factory.mktemp("demo")
    done = run(root, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def demo(out: pathlib.Path) -> Report:
    """The demo's report."""
    return report.load(out)


def winner(target: TargetReport) -> CandidateReport:
    """The candidate that a target ships."""
    found = target.candidate(target.winner)
    assert found is not None, target.chosen
    return found


def number(candidate: CandidateReport, name: MeasurementName) -> float:
    """A number that was taken."""
    row = candidate.measurement(name)
    assert row is not None, f"{candidate.scheme} has no {name}"
    assert row.value is not None, (
        f"{candidate.scheme}: {name} is unmeasured: {row.how}"
    )
    return row.value


def named(demo: Report, name: str) -> TargetReport:
    """One target of the report."""
    return next(target for target in demo.targets if target.name == name)


def test_the_demo_has_four_targets_and_passes(demo: Report) -> None:
    """ONNX Runtime, LiteRT, the Edge TPU and TensorRT: every one has a winner and passes."""
    assert [target.name for target in demo.targets] == [
        "cpu-onnx",
        "mobile-tflite",
        "coral-edgetpu",
        "rtx-tensorrt",
    ]
    assert {target.format for target in demo.targets} >= {
        "onnx",
        "tflite",
        "tensorrt",
    }
    assert {
        target.name: target.verdict for target in demo.targets
    } == dict.fromkeys([target.name for target in demo.targets], "pass")
    assert demo.verdict == "pass"


def test_every_winner_is_within_two_points(demo: Report) -> None:
    """The accuracy drop against the float network before pruning is at most 2 points, by
    its whole interval.
    """
    for target in demo.targets:
        drop = winner(target).measurement("accuracy_drop")
        assert drop is not None, target.name
        assert drop.high is not None, target.name
        assert drop.high <= 0.02, f"{target.name}: {drop}"
        assert drop.verdict == "pass"


@pytest.mark.parametrize("name", ["cpu-onnx", "mobile-tflite"])
def test_int8_wins_by_two_and_is_eight_times_smaller(
    demo: Report, name: str
) -> None:
    """On the processor, int8 is at least 2x faster than the float file of the network
    before pruning, in the same runtime, and 8x smaller.
    """
    target = named(demo, name)
    best = winner(target)
    # Which of them is the fastest depends on the processor.
    assert best.scheme in ("w8a8-static", "w8-dynamic", "w8-dynamic-tensor")
    assert number(best, "speedup") >= 2
    assert target.reference is not None
    assert target.reference.artifact is not None
    assert best.artifact is not None
    assert target.reference.artifact.bytes / best.artifact.bytes >= 8


def test_the_arithmetic_is_really_int8(demo: Report) -> None:
    """At least 95 % of the multiplications are int8 where int8 won, by audit of what the
    runtime executes.
    """
    for target in demo.targets:
        if winner(target).scheme.startswith("w8"):
            assert number(winner(target), "int8_mac_share") >= 0.95, target.name


def test_nothing_is_transposed_inside_the_tflite_graph(demo: Report) -> None:
    """The TFLite graph is channel-last from end to end."""
    assert number(winner(named(demo, "mobile-tflite")), "transposes") == 0


def test_the_engines_convolutions_are_int8_by_its_own_log(demo: Report) -> None:
    """TensorRT's build log shows Int8 convolutions; its latency is unmeasured, not
    invented, and does not pass a gate.
    """
    target = named(demo, "rtx-tensorrt")
    best = winner(target)
    assert best.scheme == "w8a8-static"
    assert number(best, "int8_mac_share") >= 0.95
    assert best.artifact is not None
    assert {file.role for file in best.artifact.files} >= {"engine", "model"}
    latency = best.measurement("latency_ms")
    assert latency is None or latency.value is None
    assert all(
        gate.verdict != "pass"
        for gate in target.gates
        if gate.name in ("speedup", "latency_ms")
    )


def test_what_is_not_known_is_labelled_so(demo: Report) -> None:
    """The Edge TPU's mapping is called a prediction, and a stand-in for a device says that
    it is one.
    """
    share = winner(named(demo, "coral-edgetpu")).measurement("tpu_mapped_share")
    assert share is not None
    assert "predict" in f"{share.how} {share.where}".lower()
    for name in ("coral-edgetpu", "rtx-tensorrt"):
        assert named(demo, name).notes


def test_the_report_is_drawn_and_the_files_are_shipped(
    demo: Report, out: pathlib.Path
) -> None:
    """report.json, report.md and a folder a target are there, and each shipped file has the
    hash that the report tells.
    """
    from edgekit.cache import file_digest

    assert (out / "report.md").read_text().strip()
    for target in demo.targets:
        best = winner(target)
        assert best.artifact is not None
        shipped = [
            file for file in best.artifact.files if file.path is not None
        ]
        assert shipped, target.name
        for file in shipped:
            assert file_digest(out / str(file.path)) == file.sha256


def test_the_same_command_again_gives_the_same_report(
    root: pathlib.Path, demo: Report, out: pathlib.Path
) -> None:
    """Where all is cached, the report is the same but for when it was made."""
    again = run(root, out)
    assert again.returncode == 0, again.stderr[-4000:]
    same = {"started": "", "seconds": 0.0}
    assert report.load(out).model_copy(update=same) == demo.model_copy(
        update=same
    )
