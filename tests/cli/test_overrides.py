"""What the command line puts in place of a recipe's words."""

import pathlib

import pytest

from edgekit.errors import EdgekitError, PlanError, RecipeError, TargetError
from edgekit.pipeline.request import RunRequest, find_target


def wanted(
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


def test_nothing_given_leaves_the_recipe_as_it_is() -> None:
    """Without options the recipe's own words count."""
    plan = wanted().plan()
    assert plan.recipe.model == "zoo:resnet8"
    assert [row.target.name for row in plan.targets] == [
        "cpu-onnx",
        "mobile-tflite",
        "coral-edgetpu",
        "rtx-tensorrt",
    ]


def test_a_target_on_the_command_line_replaces_the_recipes() -> None:
    """Only the named targets are planned, each once, in the order given."""
    plan = wanted(targets=("rtx-tensorrt", "cpu-onnx", "rtx-tensorrt")).plan()
    assert [row.target.name for row in plan.targets] == ["rtx-tensorrt", "cpu-onnx"]


def test_model_and_settings_replace_the_recipes() -> None:
    """--model and --set change what they name and nothing else."""
    plan = wanted(model="zoo:cnn", assignments=("train.epochs=3", "gates.speedup=2")).plan()
    assert plan.shared[0].parameters["model"] == "zoo:cnn"
    assert plan.shared[1].parameters["epochs"] == 3
    assert all(row.gates.speedup == 2 for row in plan.targets)
    assert plan.recipe.task == "digits"


def test_a_recipe_and_a_target_may_be_paths(tmp_path: pathlib.Path) -> None:
    """A YAML file of the user's own works wherever a name does."""
    (tmp_path / "mine.yaml").write_text(
        "model: zoo:cnn\ntask: digits\ncompress: [train, quantize]\n"
    )
    (tmp_path / "board.yaml").write_text(
        "title: A board\nform: onnx\nruntime: onnxruntime\nschemes: [float]\n"
    )
    plan = wanted(
        str(tmp_path / "mine.yaml"), targets=(str(tmp_path / "board.yaml"),)
    ).plan()
    assert (plan.recipe.name, plan.targets[0].target.name) == ("mine", "board")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (wanted("digts"), RecipeError, ["'digts'", "Did you mean 'digits'?"]),
        (wanted("no/such.yaml"), RecipeError, ["no/such.yaml"]),
        (
            wanted(targets=("cpu-onx", "mobil-tflite")),
            PlanError,
            ["Did you mean 'cpu-onnx'?", "Did you mean 'mobile-tflite'?"],
        ),
        (
            wanted(assignments=("train.epoch=3",)),
            RecipeError,
            ["train.epoch", "Did you mean 'epochs'?"],
        ),
        (wanted(assignments=("train.epochs",)), RecipeError, ["key=value"]),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    given: RunRequest, error: type[EdgekitError], words: list[str]
) -> None:
    """A wrong recipe, target or setting is an error that names the nearest; all wrong
    targets are told at once.
    """
    with pytest.raises(error) as caught:
        given.plan()
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_target_alone_is_a_target_error() -> None:
    """One target by itself is looked up with the same hint."""
    with pytest.raises(TargetError, match="Did you mean 'cpu-onnx'"):
        find_target("cpu-onx")
