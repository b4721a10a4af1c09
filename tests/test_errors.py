"""The error tree: one root, each with a message and a way out."""

import inspect

import pytest

from edgekit import errors
from edgekit.errors import EdgekitError, RecipeError


def test_a_message_carries_its_way_out() -> None:
    """The text of an error is what is wrong, then what to do."""
    error = RecipeError("x.yaml is wrong.", fix="correct it")
    assert str(error) == "x.yaml is wrong.\n  Fix: correct it"
    assert (error.message, error.fix) == ("x.yaml is wrong.", "correct it")


def test_an_error_without_a_way_out_is_its_message() -> None:
    """Nothing is invented where no fix is known."""
    assert str(EdgekitError("no")) == "no"


def test_every_error_is_an_edgekit_error_and_in_the_drawn_tree() -> None:
    """Whatever a user can mend can be caught by one name, and the tree at the top of
    errors.py is complete.
    """
    found = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    assert len(found) > 8
    for error in found:
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
    """Every kind takes the same two things."""
    with pytest.raises(EdgekitError, match="Fix: this"):
        raise getattr(errors, name)("wrong", fix="this")
