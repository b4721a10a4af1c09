"""Values: frozen, strict, and every mistake of a file told at once with the nearest right word."""

import pathlib
from typing import Literal

import pydantic
import pytest

from edgekit.errors import RecipeError
from edgekit.value import Value, nearest, parse, read_yaml


class Wheel(Value):
    """A part of a cart."""

    radius: float = pydantic.Field(gt=0)
    material: Literal["wood", "rubber"] = "wood"


class Cart(Value):
    """Something with nested values."""

    name: str
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    colour: str = "red"


def mistakes(data: object) -> str:
    """The text of the error that ``data`` is answered with."""
    with pytest.raises(RecipeError) as caught:
        parse(Cart, data, "cart.yaml", RecipeError)
    return caught.value.message


def test_all_mistakes_are_told_at_once_with_their_places() -> None:
    """Four mistakes in one file give one error with four lines."""
    said = mistakes({"colur": "blue", "wheels": [{"radius": 1}, {"radius": -1, "material": "woood"}], "spare": {"radus": 3}})
    assert said.startswith("cart.yaml has 6 mistakes:")
    for line in (
        "colur: no such key; did you mean 'colour'?",
        "name: this key is missing",
        "wheels.1.radius: input should be greater than 0 (given: -1)",
        "wheels.1.material: 'woood' is not one of wood, rubber; did you mean 'wood'?",
        "spare.radius: this key is missing",
        "spare.radus: no such key; did you mean 'radius'?",
    ):
        assert line in said


def test_one_mistake_is_called_one() -> None:
    """The count is in words that fit."""
    assert mistakes({"name": 3}).startswith("cart.yaml has one mistake:\n  name: input should be a valid string (given: 3)")


def test_a_word_with_no_near_one_gets_the_whole_list() -> None:
    """Where nothing is near, all known words are told."""
    assert nearest("zzz", ("beta", "alpha")) == "known: alpha, beta"
    assert nearest("alfa", ("beta", "alpha")) == "did you mean 'alpha'?"


def test_data_of_the_wrong_kind_are_told() -> None:
    """A list where a mapping is expected is one clear line."""
    assert "(top): " in mistakes([1, 2])


def test_a_value_cannot_be_changed() -> None:
    """Values are frozen."""
    wheel = Wheel(radius=1)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        wheel.radius = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1, 2\nb: 3\n", "line 2, column 2: not valid YAML"),
        (b"- a\n- b\n", "holds list, not a mapping"),
        (b"", "holds NoneType, not a mapping"),
        (b"\xff\xfe\x00", "not a text file (UTF-8)"),
        (b"a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_told_with_its_line(tmp_path: pathlib.Path, content: bytes, said: str) -> None:
    """Broken syntax, other kinds of data, binary files and YAML that would run code are one clear error."""
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_yaml(path, RecipeError)
    assert said in caught.value.message
    assert caught.value.fix


def test_a_missing_file_is_told(tmp_path: pathlib.Path) -> None:
    """A path that leads nowhere, or to a folder, is an error of the caller's kind."""
    with pytest.raises(RecipeError, match="No such file"):
        read_yaml(tmp_path / "none.yaml", RecipeError)
    with pytest.raises(RecipeError, match="directory"):
        read_yaml(tmp_path, RecipeError)
