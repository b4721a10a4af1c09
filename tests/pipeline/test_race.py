"""The race on real files of a small network, with faults put into the host: what is slow,
wrong or crashes is found and told.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import pytest

from edgekit.artifact import Artifact
from edgekit.cache import Cache
from edgekit.catalog import find
from edgekit.contracts import BenchProtocol, Runner, Samples
from edgekit.errors import RunnerError
from edgekit.hosts.local import LocalHost
from edgekit.pipeline.build import Build
from edgekit.pipeline.candidate import RaceContext
from edgekit.pipeline.race import RaceResult, race
from edgekit.planning.plan import plan
from edgekit.progress import Silent
from edgekit.recipe import Recipe
from edgekit.target import load
from edgekit.task import Task
from edgekit.testing import FakeRunner, tiny_images

NET = (
    "from edgekit.testing import tiny_convolution\n\n\ndef model():\n    return "
    "tiny_convolution()\n"
)
ROUNDS = 30
#: Milliseconds of a scheme that a test does not speak of.
OTHERS = 2.0


@dataclasses.dataclass
class FaultyHost:
    """The local host, with one fault; its times are made up, so that a test does not depend
    on the machine's load.
    """

    #: Milliseconds by scheme; the empty name is the reference.
    times: Mapping[str, float]
    fault: Callable[[Artifact, Runner], Runner] = lambda artifact, runner: (
        runner
    )
    races: int = 0
    #: The scheme whose file breaks every race that it is in.
    breaks_race: str = ""
    name: str = "faulty"

    def identity(self) -> Mapping[str, Any]:
        return {"host": self.name}

    def open(
        self, artifact: Artifact, options: Mapping[str, Any] | None = None
    ) -> Runner:
        return self.fault(artifact, LocalHost().open(artifact, options))

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        feeds: Any,
        protocol: BenchProtocol,
    ) -> dict[str, Samples]:
        if self.breaks_race in artifacts and self.breaks_race:
            raise RunnerError("the worker died")
        self.races += 1
        noise = numpy.random.default_rng(protocol.seed).uniform(
            0.99, 1.01, (len(artifacts), ROUNDS)
        )
        return {
            name: Samples(tuple(self.times.get(name, OTHERS) * 1e6 * row))
            for name, row in zip(artifacts, noise, strict=True)
        }


QUICK_INT8 = {"": 1.0, "w8a8-static": 0.3, "fp16": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A user's folder with a cache that the tests here share: the files are made once."""
    made = tmp_path_factory.mktemp("race")
    (made / "net.py").write_text(NET)
    return made


def run(
    folder: pathlib.Path,
    host: FaultyHost,
    task: Task | None = None,
    **gates: float,
) -> RaceResult:
    """One race on cpu-onnx."""
    target = load(find("targets", "cpu-onnx")).model_copy(
        update={"schemes": ("w8a8-static", "fp16", "float")}
    )
    recipe = Recipe.model_validate(
        {
            "model": f"{folder}/net.py:model",
            "task": "digits",
            "compress": ["quantize"],
            "gates": {"accuracy_drop": 0.05, **gates},
        }
    )
    planned = plan(recipe, [target])
    build = Build(task or tiny_images(), Cache(folder / "cache"), Silent(), 0)
    shared = build.follow(str(recipe.model), None, planned.shared)
    return race(
        RaceContext(
            build,
            str(recipe.model),
            planned.targets[0],
            shared[0],
            shared[0],
            host,
            fresh=True,
        )
    )


def status(result: RaceResult) -> dict[str, str]:
    return {row.scheme: row.outcome for row in result.report.candidates}


def test_the_fastest_file_that_holds_wins(folder: pathlib.Path) -> None:
    """Without any fault int8 wins, and its files are handed over."""
    result = run(folder, FaultyHost(QUICK_INT8), speedup=2)
    assert (result.report.winner, result.report.verdict) == (
        "w8a8-static",
        "pass",
    )
    assert result.winner is not None and result.winner.artifact is not None
    assert result.winner.artifact.format == "onnx"
    assert set(status(result).values()) == {"raced"}


def test_int8_that_is_slower_than_float_does_not_win(
    folder: pathlib.Path,
) -> None:
    """The race ships float where int8 is slower, and keeps int8's line with its numbers."""
    result = run(folder, FaultyHost({"": 1.0, "w8a8-static": 1.5, "fp16": 1.2}))
    assert result.report.winner == "float"
    slow = result.report.candidate("w8a8-static")
    assert slow is not None
    speedup = slow.measurement("speedup")
    assert speedup is not None and speedup.value is not None
    assert speedup.value < 1


def test_a_gate_that_the_winner_misses_fails_the_target(
    folder: pathlib.Path,
) -> None:
    """The fastest file is not fast enough: it is still named, and the verdict is fail."""
    result = run(folder, FaultyHost(QUICK_INT8), speedup=10)
    assert (result.report.winner, result.report.verdict) == (
        "w8a8-static",
        "fail",
    )


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (lambda outputs: outputs[:, ::-1], "output steps"),
        (lambda outputs: outputs * numpy.nan, "not finite"),
        (lambda outputs: outputs[:, :2], "shape"),
    ],
)
def test_a_file_that_computes_something_else_is_dropped(
    folder: pathlib.Path, broken: Callable[[Any], Any], word: str
) -> None:
    """Swapped classes, NaN or another shape from the int8 file: dropped with the reason;
    another candidate wins.
    """

    def fault(artifact: Artifact, runner: Runner) -> Runner:
        if artifact.step != "lower_onnx":
            return runner
        return FakeRunner(
            lambda feeds: {
                name: broken(array)
                for name, array in runner.infer(feeds).items()
            },
            runner.where,
        )

    result = run(folder, FaultyHost(QUICK_INT8, fault))
    assert status(result)["w8a8-static"].startswith(
        "dropped: it does not compute what torch computes"
    )
    assert word in status(result)["w8a8-static"]
    assert result.report.winner == "fp16"


def test_a_file_that_the_device_cannot_run_is_dropped(
    folder: pathlib.Path,
) -> None:
    """On a device that runs integers only, a file with float operators is out before it is
    verified, and float stays the reference.
    """
    target = load(find("targets", "cpu-onnx"))
    integer = target.model_copy(
        update={
            "limits": target.limits.model_copy(update={"arithmetic": "integer"})
        }
    )
    recipe = Recipe.model_validate(
        {
            "model": f"{folder}/net.py:model",
            "task": "digits",
            "compress": ["quantize"],
        }
    )
    planned = plan(recipe, [target]).targets[0]
    build = Build(tiny_images(), Cache(folder / "cache"), Silent(), 0)
    shared = build.follow(
        str(recipe.model), None, plan(recipe, [target]).shared
    )
    ground = RaceContext(
        build,
        str(recipe.model),
        dataclasses.replace(planned, target=integer),
        shared[0],
        shared[0],
        FaultyHost(QUICK_INT8),
        fresh=True,
    )
    assert (
        "of its operators compute in float, and the device executes integers only"
        in status(race(ground))["fp16"]
    )


def test_a_runtime_that_crashes_fails_its_candidate_only(
    folder: pathlib.Path,
) -> None:
    """A crash becomes an error in the report; the others go on."""

    def fault(artifact: Artifact, runner: Runner) -> Runner:
        if artifact.step == "quantize_onnx":
            raise RunnerError("The runtime crashed (signal 11) while loading.")
        return runner

    result = run(folder, FaultyHost(QUICK_INT8, fault))
    assert (
        status(result)["fp16"]
        == "failed: The runtime crashed (signal 11) while loading."
    )
    assert (result.report.winner, result.report.verdict) == (
        "w8a8-static",
        "pass",
    )


def test_a_reference_that_cannot_be_run_ends_the_race(
    folder: pathlib.Path,
) -> None:
    """Without a float reference nothing can be compared: no winner, fail, and the reason."""

    def fault(artifact: Artifact, runner: Runner) -> Runner:
        raise RunnerError("no such runtime")

    result = run(folder, FaultyHost(QUICK_INT8, fault))
    assert (result.report.winner, result.report.verdict, result.winner) == (
        None,
        "fail",
        None,
    )
    assert "no such runtime" in result.report.chosen


def test_a_file_that_breaks_the_race_is_found(folder: pathlib.Path) -> None:
    """The file that cannot be timed fails; the others are timed without it."""
    result = run(folder, FaultyHost(QUICK_INT8, breaks_race="fp16"))
    assert (
        status(result)["fp16"]
        == "failed: it could not be timed: the worker died"
    )
    assert (result.report.winner, result.report.verdict) == (
        "w8a8-static",
        "pass",
    )


def test_a_race_that_cannot_be_held_is_told(folder: pathlib.Path) -> None:
    """When nothing can be timed every candidate says so, and none is called fast."""

    class Dead(FaultyHost):
        def race(
            self,
            artifacts: Mapping[str, Artifact],
            feeds: Any,
            protocol: BenchProtocol,
        ) -> dict[str, Samples]:
            raise RunnerError("the worker died")

    result = run(folder, Dead(QUICK_INT8))
    assert all("the worker died" in text for text in status(result).values())
    assert result.report.verdict == "fail"


def test_a_metric_that_refuses_the_candidates_answers_fails_the_candidate(
    folder: pathlib.Path,
) -> None:
    """NaN late in the test data, past the samples of parity, is the candidate's failure and
    not the run's end.
    """

    def late(artifact: Artifact, runner: Runner) -> Runner:
        def call(feeds: Any) -> Any:
            outputs = dict(runner.infer(feeds))
            if len(next(iter(feeds.values()))) > 20:
                outputs = {
                    name: numpy.where(
                        numpy.arange(len(array))[:, None] == 20,
                        numpy.nan,
                        array,
                    )
                    for name, array in outputs.items()
                }
            return outputs

        return (
            FakeRunner(call, runner.where)
            if artifact.step == "lower_onnx"
            else runner
        )

    def own_metric(outputs: Any, labels: Any) -> Any:
        return outputs.max(axis=1) - labels * 0.0

    result = run(
        folder,
        FaultyHost(QUICK_INT8, late),
        dataclasses.replace(tiny_images(), metric=own_metric),
    )
    assert status(result)["w8a8-static"].startswith(
        "failed: its outputs cannot be scored"
    )
    assert result.report.winner == "fp16"


def test_the_references_own_file_is_not_raced_against_itself(
    folder: pathlib.Path,
) -> None:
    """Nothing was pruned, so float is the reference itself: its speedup is exactly 1, and a
    gate of 1 holds.
    """
    result = run(
        folder,
        FaultyHost({"": 1.0, "w8a8-static": 1.5, "fp16": 1.2}),
        speedup=1,
    )
    assert (result.report.winner, result.report.verdict) == ("float", "pass")
    gate = next(row for row in result.report.gates if row.name == "speedup")
    assert (gate.low, gate.value, gate.high) == (1, 1, 1)


def test_a_close_race_goes_on_and_a_tie_goes_to_the_smaller_file(
    folder: pathlib.Path,
) -> None:
    """Two that cannot be told apart are timed again; then size decides."""
    host = FaultyHost({"": 1.0, "w8a8-static": 0.5, "fp16": 0.5})
    result = run(folder, host)
    assert host.races > 1
    assert result.report.winner == "fp16"
    assert "as fast as w8a8-static" in result.report.chosen


def test_a_metric_with_another_body_is_measured_anew(
    folder: pathlib.Path,
) -> None:
    """A user's metric that keeps its name and changes what it does is not answered from the
    cache.
    """

    def own(score: float) -> Callable[[Any, Any], Any]:
        def metric(outputs: Any, labels: Any) -> Any:
            return numpy.full(len(labels), score)

        return metric

    target = load(find("targets", "cpu-onnx"))
    recipe = Recipe.model_validate(
        {
            "model": f"{folder}/net.py:model",
            "task": "digits",
            "compress": ["quantize"],
        }
    )
    planned, found = plan(recipe, [target]), []
    for score in (1.0, 0.0):
        build = Build(
            dataclasses.replace(tiny_images(), metric=own(score)),
            Cache(folder / "cache"),
            Silent(),
            0,
        )
        shared = build.follow(str(recipe.model), None, planned.shared)
        reference = race(
            RaceContext(
                build,
                str(recipe.model),
                planned.targets[0],
                shared[0],
                shared[0],
                FaultyHost(QUICK_INT8),
            )
        ).report.reference
        assert reference is not None
        found.append(
            next(
                row.value
                for row in reference.measurements
                if row.name == "accuracy"
            )
        )
    assert found == [1.0, 0.0]


def test_measurements_are_cached_for_each_host(folder: pathlib.Path) -> None:
    """A second race without `fresh` times nothing; another host, or the same with another
    runtime, is asked all the same.
    """
    host, other = FaultyHost(QUICK_INT8), FaultyHost(QUICK_INT8, name="other")
    refuses = FaultyHost(QUICK_INT8, refused, name="refuses")
    target = load(find("targets", "cpu-onnx"))
    recipe = Recipe.model_validate(
        {
            "model": f"{folder}/net.py:model",
            "task": "digits",
            "compress": ["quantize"],
        }
    )
    planned = plan(recipe, [target])
    for asked in (host, host, other, refuses):
        build = Build(tiny_images(), Cache(folder / "cache"), Silent(), 0)
        shared = build.follow(str(recipe.model), None, planned.shared)
        result = race(
            RaceContext(
                build,
                str(recipe.model),
                planned.targets[0],
                shared[0],
                shared[0],
                asked,
                protocol=BenchProtocol(rounds=7),
            )
        )
        assert (result.winner is None) == (asked is refuses)
    assert (host.races, other.races) == (1, 1)


def refused(artifact: Artifact, runner: Runner) -> Runner:
    """A runtime that loads no file."""
    raise RunnerError("an older runtime")
