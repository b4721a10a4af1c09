"""Values: frozen, strict, and all errors in a file reported at once with the nearest name."""

import pathlib
from typing import Literal

import pydantic
import pytest

from edgekit.errors import RecipeError
from edgekit.value import UserConfig, Value, check_folder_name, parse, read_yaml


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


def error_message(data: object) -> str:
    """Return the message of the error that ``data`` causes."""
    with pytest.raises(RecipeError) as caught:
        parse(Cart, data, "cart.yaml", RecipeError)
    return caught.value.message


def test_all_errors_are_reported_at_once_with_their_places() -> None:
    """Six errors in one file are one message with six lines."""
    message = error_message(
        {
            "colur": "blue",
            "wheels": [{"radius": 1}, {"radius": -1, "material": "woood"}],
            "spare": {"radus": 3},
        }
    )
    assert message.startswith("cart.yaml has 6 errors:")
    for line in (
        "colur: unknown key. Did you mean 'colour'?",
        "name: required key is missing",
        "wheels.1.radius: input should be greater than 0 (got: -1)",
        "wheels.1.material: expected one of wood, rubber; got 'woood'. Did you mean 'wood'?",
        "spare.radius: required key is missing",
        "spare.radus: unknown key. Did you mean 'radius'?",
    ):
        assert line in message


def test_one_error_is_counted_in_the_singular() -> None:
    """The heading agrees with the number of lines."""
    assert error_message({"name": 3}).startswith(
        "cart.yaml has 1 error:\n  name: input should be a valid string (got: 3)"
    )


def test_data_of_the_wrong_type_are_reported() -> None:
    """A list where a mapping is expected is one clear line."""
    assert "(top): " in error_message([1, 2])


def test_a_word_without_a_similar_one_lists_the_valid_ones() -> None:
    """There is no suggestion if nothing is similar."""
    message = error_message(
        {"name": "x", "wheels": [{"radius": 1, "material": "iron"}]}
    )
    assert message.endswith(
        "wheels.0.material: expected one of wood, rubber; got 'iron'."
    )


def test_a_value_cannot_be_changed() -> None:
    """Values are frozen."""
    wheel = Wheel(radius=1)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        wheel.radius = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1, 2\nb: 3\n", "line 2, column 2: invalid YAML"),
        (b"- a\n- b\n", "expected a mapping of keys to values, got list"),
        (b"", "expected a mapping of keys to values, got NoneType"),
        (b"\xff\xfe\x00", "not a text file (UTF-8)"),
        (b"a: !!python/object/apply:os.system ['true']\n", "invalid YAML"),
        (
            b"a: 1\nb: {c: 2, c: 3}\n",
            "line 2, column 11: invalid YAML: duplicate key 'c'",
        ),
        (b"a: 2020-13-45\n", "invalid YAML: month must be in 1..12"),
        (b"a: !!bool x\n", "invalid YAML"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_reported_with_its_line(
    tmp_path: pathlib.Path, content: bytes, expected: str
) -> None:
    """Invalid syntax, other types of data, binary files and YAML that would run code."""
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_yaml(path, RecipeError)
    assert expected in caught.value.message
    assert caught.value.fix


def test_a_missing_file_is_reported(tmp_path: pathlib.Path) -> None:
    """A path to nothing, or to a folder, raises the caller's error type."""
    with pytest.raises(RecipeError, match="No such file"):
        read_yaml(tmp_path / "none.yaml", RecipeError)
    with pytest.raises(RecipeError, match="directory"):
        read_yaml(tmp_path, RecipeError)


class Setting(UserConfig):
    """Something that a person writes."""

    limit: float = 1.0
    steps: int = 1
    names: tuple[str, ...] = ()
    wheel: Wheel | None = None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"limit": float("inf")},
            "limit: input should be a finite number (got: inf)",
        ),
        (
            {"limit": float("nan")},
            "limit: input should be a finite number (got: nan)",
        ),
        (
            {"limit": True},
            "limit: expected a string or a number, got a boolean",
        ),
        (
            {"steps": False},
            "steps: expected a string or a number, got a boolean",
        ),
        (
            {"names": "cpu-onnx"},
            "names: input should be a list (got: 'cpu-onnx')",
        ),
        (
            {"wheel": 3},
            "wheel: input should be a mapping of keys to values (got: 3)",
        ),
    ],
)
def test_a_user_config_is_read_strictly(data: object, expected: str) -> None:
    """No infinity, no NaN, no boolean for a number; types have the names of YAML."""
    with pytest.raises(RecipeError) as caught:
        parse(Setting, data, "setting.yaml", RecipeError)
    assert expected in caught.value.message


@pytest.mark.parametrize(
    "name", ["digits", "my board", "Gerät-2", "a.b", "..."]
)
def test_a_usual_name_is_a_valid_folder_name(name: str) -> None:
    """Spaces, periods and letters of any language are valid."""
    assert check_folder_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", "..\\x", "a\nb", "\x1b[2J", "x" * 200]
)
def test_a_name_that_leaves_the_folder_is_refused(name: str) -> None:
    """So is a name that no folder can have: folders of that name are removed and replaced."""
    with pytest.raises(ValueError, match="is not a valid folder name"):
        check_folder_name(name)
