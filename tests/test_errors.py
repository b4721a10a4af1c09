"""The error tree: one root, each with a message and a fix; messages for unknown names."""

import inspect

import pytest

from edgekit import errors
from edgekit.errors import EdgekitError, RecipeError, suggest, unknown


def test_a_message_contains_its_fix() -> None:
    """The text of an error is what is wrong, then what to do."""
    error = RecipeError("x.yaml is wrong.", fix="correct it")
    assert str(error) == "x.yaml is wrong.\n  Fix: correct it"
    assert (error.message, error.fix) == ("x.yaml is wrong.", "correct it")


def test_an_error_without_a_fix_is_its_message() -> None:
    """Nothing is added if there is no fix."""
    assert str(EdgekitError("no")) == "no"


def test_every_error_is_an_edgekit_error_and_in_the_drawn_tree() -> None:
    """One ``except`` catches all of them, and the tree at the top of errors.py is complete."""
    classes = [
        value for _, value in inspect.getmembers(errors, inspect.isclass)
    ]
    own = [value for value in classes if value.__module__ == errors.__name__]
    assert len(own) > 8
    for error in own:
        assert issubclass(error, EdgekitError)
        assert error.__name__ in (errors.__doc__ or ""), (
            f"{error.__name__} is missing in the tree"
        )


@pytest.mark.parametrize(
    "name",
    [
        "RecipeError",
        "TargetError",
        "TaskError",
        "ModelError",
        "PlanError",
        "StepError",
        "RunnerError",
        "CacheError",
    ],
)
def test_an_error_can_be_raised_with_a_fix(name: str) -> None:
    """Every class accepts the same two arguments."""
    with pytest.raises(EdgekitError, match="Fix: this"):
        raise getattr(errors, name)("wrong", fix="this")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """Two sentences: what is wrong, and the nearest known name."""
    message = unknown("step", "exprt_onnx", ["export_tflite", "export_onnx"])
    assert message == "Unknown step 'exprt_onnx'. Did you mean 'export_onnx'?"


def test_an_unknown_name_without_a_similar_one_lists_all() -> None:
    """All known names in order; nothing if there are none."""
    assert suggest("zzz", ("beta", "alpha")) == "Expected one of: alpha, beta."
    assert unknown("host", "board", []) == "Unknown host 'board'."
