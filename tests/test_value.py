"""Values: frozen, strict, and every mistake of a file told at once with the nearest right
word.
"""

import pathlib
from typing import Literal

import pydantic
import pytest

from edgekit.errors import RecipeError
from edgekit.value import Value, Written, folder_name, nearest, parse, read_yaml


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
    said = mistakes(
        {
            "colur": "blue",
            "wheels": [{"radius": 1}, {"radius": -1, "material": "woood"}],
            "spare": {"radus": 3},
        }
    )
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
    assert mistakes({"name": 3}).startswith(
        "cart.yaml has one mistake:\n  name: input should be a valid string (given: 3)"
    )


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
        (
            b"a: 1\nb: {c: 2, c: 3}\n",
            "line 2, column 11: not valid YAML: the key 'c' is written twice",
        ),
        (b"a: 2020-13-45\n", "not valid YAML: month must be in 1..12"),
        (b"a: !!bool x\n", "not valid YAML"),
        (b"a: " + b"[" * 5000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_told_with_its_line(
    tmp_path: pathlib.Path, content: bytes, said: str
) -> None:
    """Broken syntax, other kinds of data, binary files and YAML that would run code are one
    clear error.
    """
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


class Setting(Written):
    """Something that a person writes."""

    limit: float = 1.0
    steps: int = 1
    names: tuple[str, ...] = ()
    wheel: Wheel | None = None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"limit": float("inf")}, "limit: input should be a finite number (given: inf)"),
        ({"limit": float("nan")}, "limit: input should be a finite number (given: nan)"),
        ({"limit": True}, "limit: there is no yes or no here"),
        ({"steps": False}, "steps: there is no yes or no here"),
        ({"names": "cpu-onnx"}, "names: input should be a list (given: 'cpu-onnx')"),
        ({"wheel": 3}, "wheel: input should be a mapping of keys to values (given: 3)"),
    ],
)
def test_what_a_person_writes_is_read_strictly(data: object, said: str) -> None:
    """Infinity is no limit, a bare yes is no number, and a list or a mapping is called by
    these names.
    """
    with pytest.raises(RecipeError) as caught:
        parse(Setting, data, "setting.yaml", RecipeError)
    assert said in caught.value.message


@pytest.mark.parametrize("name", ["digits", "my board", "Gerät-2", "a.b", "..."])
def test_a_usual_name_can_be_a_folder(name: str) -> None:
    """Blanks, points and letters of any language are fine."""
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", "..\\x", "a\nb", "\x1b[2J", "x" * 200]
)
def test_a_name_that_leads_elsewhere_is_no_folder(name: str) -> None:
    """A name that would leave the folder, or that no folder can have, is refused: folders
    of that name are removed and replaced.
    """
    with pytest.raises(ValueError, match="a folder cannot be called"):
        folder_name(name)
