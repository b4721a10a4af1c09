"""The Python API does what the command line does, on objects."""

import pathlib
import subprocess
import sys
from typing import Any

import pytest
import torch

import edgekit
from edgekit.errors import (
    EdgekitError,
    ModelError,
    PlanError,
    ReportError,
    TaskError,
)
from edgekit.progress import Silent
from edgekit.sources.objects import ModelObject
from edgekit.testing import tiny_network, tiny_task

RECIPE = {
    "compress": [{"quantize": {"effort": "quick"}}],
    "gates": {"accuracy_drop": 1.0},
}


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """A small network that has learned the tiny task a little."""
    network, task = tiny_network(), tiny_task()
    train = task.need("train", "the fixture")
    inputs = torch.from_numpy(train.inputs["input"].copy())
    labels = torch.from_numpy(train.labels.copy())  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def finished(
    trained: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[edgekit.Report, pathlib.Path]:
    """One run on objects, and its folder."""
    out = tmp_path_factory.mktemp("api") / "out"
    report = edgekit.run(
        trained,
        tiny_task(),
        targets=["cpu-onnx"],
        recipe=RECIPE,
        out=out,
        overrides={"gates.speedup": 0.01},
        progress=Silent(),
    )
    return report, out


def test_a_network_and_a_task_are_run(
    finished: tuple[edgekit.Report, pathlib.Path],
) -> None:
    """The report names the winner, its files are in the folder, and the override holds."""
    report, out = finished
    target = report.target("cpu-onnx")
    shipped = target.shipped
    assert shipped is not None
    assert shipped.scheme == target.winner
    assert shipped.status == "raced"
    assert shipped.artifact is not None
    for file in shipped.artifact.files:
        assert file.path is not None
        assert (out / file.path).is_file()
    assert report.recipe["gates"]["speedup"] == 0.01
    speedup = shipped.measurement("speedup")
    assert speedup is not None
    assert speedup.value is not None


def test_the_network_itself_is_not_changed(
    trained: torch.nn.Module, finished: tuple[edgekit.Report, pathlib.Path]
) -> None:
    """The run works on copies: the same object has the same fingerprint afterwards."""
    report, _ = finished
    assert report.recipe["model"] == ModelObject(trained).name


def test_all_three_forms_of_the_report_are_written(
    finished: tuple[edgekit.Report, pathlib.Path],
) -> None:
    """JSON, Markdown and HTML; the JSON is read back as the same report."""
    report, out = finished
    assert {"report.json", "report.md", "report.html"} <= {
        path.name for path in out.iterdir()
    }
    assert edgekit.load_report(out) == report


def test_a_bundle_is_verified(
    finished: tuple[edgekit.Report, pathlib.Path],
) -> None:
    """The shipped folder is executed again on this machine and agrees."""
    _, out = finished
    (evidence,) = edgekit.verify(out / "cpu-onnx", samples=16, timed=False)
    assert evidence.error == ""
    parity = evidence.measurement("parity")
    assert parity is not None
    assert parity.verdict == "pass"


def test_a_shipped_file_is_inspected(
    finished: tuple[edgekit.Report, pathlib.Path],
) -> None:
    """By path, and against a target's limits."""
    _, out = finished
    file = next((out / "cpu-onnx").glob("*.onnx"))
    assert edgekit.inspect(file).rows
    assert edgekit.inspect(file, target="cpu-onnx").measurements
    with pytest.raises(
        EdgekitError, match="executes files of the format tflite"
    ):
        edgekit.inspect(file, target="mobile-tflite")
    with pytest.raises(FileNotFoundError):
        edgekit.inspect(out / "nothing.onnx")


def test_a_second_run_is_cached(
    trained: torch.nn.Module,
    finished: tuple[edgekit.Report, pathlib.Path],
    tmp_path: pathlib.Path,
) -> None:
    """The same objects give the same report without any step being done again."""

    class Notes(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def finish(self, note: str = "") -> None:
            self.notes.append(note)

    notes = Notes()
    report = edgekit.run(
        trained,
        tiny_task,
        targets=["cpu-onnx"],
        recipe=RECIPE,
        out=tmp_path / "again",
        overrides={"gates.speedup": 0.01},
        progress=notes,
    )
    before, _ = finished
    assert notes.notes.count("cached") >= 5
    assert report.target("cpu-onnx").winner == before.target("cpu-onnx").winner


def test_other_weights_are_another_network(trained: torch.nn.Module) -> None:
    """The name in the recipe, and with it every cache key, follows weights and code."""
    same = ModelObject(trained)
    other = ModelObject(tiny_network(seed=7))
    assert same.name == ModelObject(lambda: trained).name.replace(
        "<lambda>", "Sequential"
    )
    assert same.fingerprint != other.fingerprint
    first, second = same.networks(), same.networks()
    assert first["main"] is not second["main"]
    assert first["main"] is not trained


@pytest.mark.parametrize("model", [3, torch.nn.Linear, lambda: 3])
def test_what_is_no_network_is_refused(model: Any) -> None:
    """With what could be given instead."""
    with pytest.raises(ModelError) as problem:
        edgekit.run(model, tiny_task(), targets=["cpu-onnx"], recipe=RECIPE)
    assert problem.value.fix


def test_what_is_no_task_is_refused(trained: torch.nn.Module) -> None:
    """A function must return a task."""
    with pytest.raises(TaskError, match="Expected a task, got int"):
        edgekit.run(trained, lambda: 3, recipe=RECIPE)  # type: ignore[arg-type, return-value]


def test_an_unknown_option_is_reported_with_the_nearest() -> None:
    """As a TypeError, like any wrong keyword in Python."""
    with pytest.raises(
        TypeError, match="Unknown option 'efort'. Did you mean 'effort'"
    ):
        edgekit.plan("int8", efort="quick")  # type: ignore[call-arg]


def test_a_plan_lists_what_is_missing() -> None:
    """Problems are values; ``require_possible`` raises them as one error."""
    plan = edgekit.plan("int8")
    assert {problem.where for problem in plan.problems} >= {"model", "task"}
    assert all(problem.fix for problem in plan.problems)
    with pytest.raises(PlanError, match="names no network"):
        plan.require_possible()


def test_a_recipe_value_takes_overrides() -> None:
    """A ``Recipe`` is changed like a recipe file, and the original stays."""
    recipe = edgekit.Recipe.model_validate(
        {"compress": [{"train": {"epochs": 2}}, "quantize"]}
    )
    plan = edgekit.plan(
        recipe, overrides={"train.epochs": 5}, targets=["cpu-onnx"]
    )
    assert plan.recipe.find("train").epochs == 5
    assert recipe.find("train").epochs == 2


def test_planning_imports_no_framework() -> None:
    """``edgekit.plan`` is as quick as ``edgekit plan``."""
    code = (
        "import sys, edgekit; edgekit.plan('int8', model='zoo:cnn', task='digits');"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_folder_without_a_report_is_an_error(tmp_path: pathlib.Path) -> None:
    """It names the folder."""
    with pytest.raises(ReportError, match="report.json"):
        edgekit.load_report(tmp_path)


def test_a_report_names_its_targets(
    finished: tuple[edgekit.Report, pathlib.Path],
) -> None:
    """An unknown target is an error with the nearest name."""
    report, _ = finished
    with pytest.raises(ReportError, match="Did you mean 'cpu-onnx'"):
        report.target("cpu-onx")
