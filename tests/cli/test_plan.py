"""``edgekit plan``: the steps, what is left out, and the problems."""

import json
import pathlib
import subprocess
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from edgekit import registry
from edgekit.cli.main import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def plan(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here, no package is missing."""
    monkeypatch.setattr(
        "edgekit.planning.plan.plan.__defaults__", (lambda module: True,)
    )


def test_all_steps_are_shown(edgekit: Run) -> None:
    """Teacher, shared steps, every target with its candidates and gates are on stdout."""
    done = plan("digits")
    assert done.exit_code == 0, done.output
    for word in (
        "train teacher",
        "prune",
        "compared with",
        "cpu-onnx",
        "rtx-tensorrt",
        "quantize_torch > torch_to_onnx > lower_onnx",
        "accuracy_drop 0.02",
        "unmeasured",
    ):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert done.stderr == ""


def test_json_holds_the_same_plan() -> None:
    """--json has the same steps in the same order."""
    data = json.loads(
        plan("digits", "--target", "coral-edgetpu", "--json").stdout
    )
    assert [step["intent"] for step in data["shared"]] == [
        "load",
        "train",
        "distill",
        "prune",
        "finetune",
    ]
    assert data["baseline"] == 3
    assert data["problems"] == []
    target = data["targets"][0]
    assert target["target"]["name"] == "coral-edgetpu"
    assert [row["scheme"] for row in target["candidates"]] == ["w8a8-static"]
    assert [step["step"] for step in target["candidates"][0]["steps"]] == [
        "quantize_torch",
        "torch_to_tflite",
        "tflite_to_edgetpu",
    ]
    assert target["gates"] == {"accuracy_drop": 0.02, "speedup": 1.0}


def test_everything_that_is_missing_is_reported_at_once() -> None:
    """A recipe without model, task and target has three problems, each with its fix."""
    done = plan("int8")
    assert done.exit_code == 1
    assert "Problems: 3" in done.stdout
    assert done.stdout.count("Fix: give --") == 3
    assert [
        row["where"]
        for row in json.loads(plan("int8", "--json").stdout)["problems"]
    ] == ["model", "task", "targets"]


def test_a_scheme_that_is_left_out_has_a_reason() -> None:
    """Schemes that a target cannot run are left out; a requested one is a problem."""
    done = plan(
        "digits",
        "--target",
        "cpu-onnx",
        "--set",
        "quantize.scheme=w8a16-static",
    )
    assert done.exit_code == 1
    assert "left out: " in done.stdout


def test_all_errors_of_a_recipe_are_reported(
    tmp_path: pathlib.Path,
) -> None:
    """Each with its place and the nearest name; nothing is on stdout."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "modle: zoo:cnn\ncompress:\n  - prune: {ratoi: 0.5}\n"
        "  - quantize: {scheme: w8a8-statik}\ngates: {speedup: fast}\n"
    )
    done = plan(str(wrong))
    assert done.exit_code == 1
    assert done.stdout == ""
    for word in (
        "4 errors",
        "Did you mean 'model'?",
        "compress.0.prune.ratoi",
        "Did you mean 'ratio'?",
        "Did you mean 'w8a8-static'?",
        "gates.speedup",
    ):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_a_problem_with_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without torch there is still a plan, with the command that installs it."""
    monkeypatch.setattr(
        "edgekit.planning.plan.plan.__defaults__",
        (lambda module: module != "torch",),
    )
    done = plan("digits", "--target", "cpu-onnx")
    assert done.exit_code == 1
    assert "missing package: torch" in done.stdout
    assert registry.install("torch") in done.stdout


def test_brackets_in_a_title_are_not_markup(tmp_path: pathlib.Path) -> None:
    """A title is shown as it was written."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        'title: "[red]a[/red] [/nothing]"\nmodel: zoo:cnn\ntask: digits\n'
        "compress: [train]\ntargets: [cpu-onnx]\n"
    )
    assert "[red]a[/red] [/nothing]" in plan(str(recipe)).stdout
