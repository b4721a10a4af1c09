"""Overrides of a recipe's keys on the command line."""

import pathlib

import pytest

from edgekit.errors import EdgekitError, PlanError, RecipeError, TargetError
from edgekit.pipeline.request import RunRequest, find_target


def request(
    recipe: str = "digits",
    targets: tuple[str, ...] = (),
    assignments: tuple[str, ...] = (),
    model: str | None = None,
) -> RunRequest:
    return RunRequest(
        recipe=recipe,
        model=model,
        weights=None,
        task=None,
        targets=targets,
        effort=None,
        assignments=assignments,
    )


def test_without_options_the_recipe_is_unchanged() -> None:
    """Model and targets are those of the recipe."""
    plan = request().plan()
    assert plan.recipe.model == "zoo:resnet8"
    assert [row.target.name for row in plan.targets] == [
        "cpu-onnx",
        "mobile-tflite",
        "coral-edgetpu",
        "rtx-tensorrt",
    ]


def test_a_target_on_the_command_line_replaces_the_recipes() -> None:
    """Only the named targets are planned, each once, in the order of the options."""
    plan = request(targets=("rtx-tensorrt", "cpu-onnx", "rtx-tensorrt")).plan()
    assert [row.target.name for row in plan.targets] == [
        "rtx-tensorrt",
        "cpu-onnx",
    ]


def test_model_and_settings_replace_the_recipes() -> None:
    """--model and --set change their keys and nothing else."""
    plan = request(
        model="zoo:cnn", assignments=("train.epochs=3", "gates.speedup=2")
    ).plan()
    assert plan.shared[0].parameters["model"] == "zoo:cnn"
    assert plan.shared[1].parameters["epochs"] == 3
    assert all(row.gates.speedup == 2 for row in plan.targets)
    assert plan.recipe.task == "digits"


def test_a_recipe_and_a_target_may_be_paths(tmp_path: pathlib.Path) -> None:
    """A user's YAML file works wherever a name does."""
    (tmp_path / "mine.yaml").write_text(
        "model: zoo:cnn\ntask: digits\ncompress: [train, quantize]\n"
    )
    (tmp_path / "board.yaml").write_text(
        "title: A board\nformat: onnx\nruntime: onnxruntime\nschemes: [float]\n"
    )
    plan = request(
        str(tmp_path / "mine.yaml"), targets=(str(tmp_path / "board.yaml"),)
    ).plan()
    assert (plan.recipe.name, plan.targets[0].target.name) == ("mine", "board")


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (request("digts"), RecipeError, ["'digts'", "Did you mean 'digits'?"]),
        (request("no/such.yaml"), RecipeError, ["no/such.yaml"]),
        (
            request(targets=("cpu-onx", "mobil-tflite")),
            PlanError,
            ["Did you mean 'cpu-onnx'?", "Did you mean 'mobile-tflite'?"],
        ),
        (
            request(assignments=("train.epoch=3",)),
            RecipeError,
            ["train.epoch", "Did you mean 'epochs'?"],
        ),
        (request(assignments=("train.epochs",)), RecipeError, ["key=value"]),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    command: RunRequest, error: type[EdgekitError], words: list[str]
) -> None:
    """For recipes, targets and settings; all unknown targets are reported at once."""
    with pytest.raises(error) as caught:
        command.plan()
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_target_alone_is_a_target_error() -> None:
    """A single target has the same suggestion."""
    with pytest.raises(TargetError, match="Did you mean 'cpu-onnx'"):
        find_target("cpu-onx")
