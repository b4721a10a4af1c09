"""Recipes: strict, complete in what they tell, and open to --set."""

import pathlib

import pytest

from edgekit import catalog
from edgekit.errors import RecipeError
from edgekit.recipe import Distill, Gates, Recipe, load

WRONG = """\
modle: zoo:resnet8
task: digits
compress:
  - trian: {epochs: 3}
  - prune: {ratio: 1.5}
  - quantize: {scheme: w8a8-statik}
gates: {accuracy_dropp: 0.02, speedup: fast}
seed: -1
"""


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    """A recipe file."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def refusal(folder: pathlib.Path, text: str, *assignments: str) -> str:
    """What the user is told about a recipe."""
    with pytest.raises(RecipeError) as caught:
        load(write(folder, text), assignments)
    assert caught.value.fix
    return str(caught.value)


def test_every_mistake_of_a_recipe_is_told_at_once(
    tmp_path: pathlib.Path,
) -> None:
    """Seven mistakes give one error, each line with its place and, where there is one, the
    nearest right word.
    """
    said = refusal(tmp_path, WRONG)
    assert "mine.yaml has 7 errors" in said
    for line in (
        "modle: unknown key. Did you mean 'model'?",
        "compress.0.trian: unknown key. Did you mean 'train'?",
        "compress.1.prune.ratio: input should be less than 1 (got: 1.5)",
        "compress.2.quantize.scheme: Unknown scheme 'w8a8-statik'. Did you mean 'w8a8-static'?",
        "gates.accuracy_dropp: unknown key. Did you mean 'accuracy_drop'?",
        "gates.speedup: ",
        "seed: ",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "compress:\n  - quantize\n  - train\n",
            "quantize must be the last entry",
        ),
        (
            "compress:\n  - distill: {teacher: a}\n  - distill: {teacher: b}\n",
            "only one distill entry",
        ),
        (
            "compress:\n  - {train: {}, prune: {}}\n",
            "holds exactly one of train, distill",
        ),
        ("compress:\n  - {}\n", "holds exactly one of"),
        (
            "compress:\n  - distill: {}\n",
            "compress.0.distill.teacher: required key is missing",
        ),
        ("targets: [cpu-onnx, cpu-onnx]\n", "a target is named twice"),
        ("compress: {train: {}}\n", "compress: "),
        ("model: 3\n", "model: input should be a valid string (got: 3)"),
        ("compress:\n  - train: 3\n", "compress.0.train: "),
    ],
)
def test_a_contradiction_is_refused(
    tmp_path: pathlib.Path, text: str, said: str
) -> None:
    """What cannot be meant is an error when the recipe is read, not in the middle of a run."""
    assert said in refusal(tmp_path, text)


def test_short_forms_mean_the_defaults(tmp_path: pathlib.Path) -> None:
    """`- train`, `- train:` and `- train: {}` are the same."""
    short = load(
        write(tmp_path, "compress:\n  - train\n  - prune:\n  - finetune: {}\n")
    )
    assert [intent.kind for intent in short.compress] == [
        "train",
        "prune",
        "finetune",
    ]
    assert short.find("prune").ratio == 0.5
    assert short.find("distill") is None
    assert short.name == "mine"


def test_set_changes_a_recipe_from_the_command_line() -> None:
    """--set reaches intents by their name, gates by their path, and the top by its key."""
    recipe = load(
        catalog.find("recipes", "digits"),
        [
            "train.epochs=3",
            "distill.teacher=zoo:cnn",
            "gates.speedup=2",
            "targets=[cpu-onnx]",
            "seed=7",
        ],
    )
    assert recipe.find("train").epochs == 3
    assert recipe.find("distill").teacher == "zoo:cnn"
    assert (recipe.gates.speedup, recipe.targets, recipe.seed) == (
        2,
        ("cpu-onnx",),
        7,
    )


def test_set_reaches_an_entry_by_its_number(tmp_path: pathlib.Path) -> None:
    """Two entries of one kind are told apart by their place."""
    recipe = load(
        write(
            tmp_path,
            "compress:\n  - train: {epochs: 1}\n  - train: {epochs: 2}\n",
        ),
        ["compress.1.train.epochs=9"],
    )
    assert [intent.value.epochs for intent in recipe.compress] == [1, 9]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.epochs", "is not of the format key=value"),
        ("=3", "is not of the format key=value"),
        ("prune.ratio=0.5", "has no 'prune' entry"),
        (
            "train.epoch=3",
            "compress.0.train.epoch: unknown key. Did you mean 'epochs'?",
        ),
        ("model.name=3", "has no place called 'model.name'"),
        ("compress.7.train.epochs=3", "has no place called"),
        ("gates.speedup=[1", "--set 'gates.speedup=[1'"),
        ("train=3", "has no place called 'train'"),
    ],
)
def test_a_wrong_set_is_told(
    tmp_path: pathlib.Path, text: str, said: str
) -> None:
    """A wrong --set is answered like a wrong line of the file."""
    assert said in refusal(
        tmp_path, "model: zoo:cnn\ncompress:\n  - train\n", text
    )


def test_gates_of_a_target_are_laid_over_the_recipes() -> None:
    """What a target sets wins, even where it sets nothing (null); the rest is the recipe's."""
    merged = Gates(speedup=None, size_ratio=4).over(
        Gates(accuracy_drop=0.02, speedup=2)
    )
    assert (merged.accuracy_drop, merged.speedup, merged.size_ratio) == (
        0.02,
        None,
        4,
    )


def test_a_recipe_can_be_written_in_python() -> None:
    """The same values are made without a file."""
    recipe = Recipe.model_validate(
        {
            "model": "zoo:cnn",
            "compress": ["train", {"distill": {"teacher": "zoo:resnet8"}}],
        }
    )
    assert isinstance(recipe.find("distill"), Distill)
    assert (
        Recipe.model_validate(recipe.model_dump(exclude_unset=True)) == recipe
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "name: ../../elsewhere",
            "name: '../../elsewhere' is not a valid folder name",
        ),
        (
            "seed: 99999999999999999999",
            "seed: input should be less than 4294967296",
        ),
        (
            "gates: {speedup: .inf}",
            "gates.speedup: input should be a finite number",
        ),
        (
            "compress: [train: {epochs: yes}]",
            "compress.0.train.epochs: expected a string or a number, got a boolean",
        ),
        (
            "compress: [quantize, train]",
            "\n  compress: quantize must be the last entry",
        ),
    ],
)
def test_a_value_that_would_fail_later_is_refused(
    tmp_path: pathlib.Path, line: str, said: str
) -> None:
    """A name that leaves the results' folder, a seed of too many bits, an endless gate and
    a bare yes are told when the file is read.
    """
    assert said in refusal(tmp_path, f"model: zoo:cnn\n{line}\n")


def test_a_scheme_that_neural_compressor_cannot_make_is_told_with_its_reason(
    tmp_path: pathlib.Path,
) -> None:
    """The recipe is refused before anything is planned, with the reason and what to use."""
    said = refusal(tmp_path, "compress: [{quantize: {scheme: w4-weight-gptq}}]")
    assert (
        "w4-weight-gptq: neural-compressor 3.10 cannot: its GPTQ asks for the name of "
        "a model on a hub" in said
    )
    assert "use w4-weight" in said
