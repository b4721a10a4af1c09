"""The shelf: a name or a path finds a recipe or a target, from any folder."""

import pathlib

import pytest

from edgekit import catalog as shelf
from edgekit.errors import HostError, RecipeError, TargetError


def test_a_name_finds_what_is_shipped_from_any_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder does not matter for a shipped name."""
    monkeypatch.chdir(tmp_path)
    assert shelf.find("recipes", "digits").is_file()
    assert shelf.find("targets", "cpu-onnx").name == "cpu-onnx.yaml"
    assert {"digits", "int8", "compress"} <= set(shelf.names("recipes"))


def test_recipes_slash_digits_works_without_a_checkout(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recipes/digits.yaml`, as the documents write it, finds the shipped file where there
    is no such folder.
    """
    monkeypatch.chdir(tmp_path)
    assert shelf.find("recipes", "recipes/digits.yaml") == shelf.find("recipes", "digits")


def test_a_users_own_file_comes_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that exists is that file, also where a shipped one has its name."""
    (tmp_path / "recipes").mkdir()
    own = tmp_path / "recipes" / "digits.yaml"
    own.write_text("model: zoo:cnn\n")
    monkeypatch.chdir(tmp_path)
    assert shelf.find("recipes", "recipes/digits.yaml").resolve() == own
    assert shelf.find("recipes", str(own)) == own


@pytest.mark.parametrize(
    ("kind", "error"),
    [("recipes", RecipeError), ("targets", TargetError), ("hosts", HostError)],
)
def test_what_is_not_there_is_told_with_the_nearest_name(
    kind: shelf.Kind, error: type[Exception], tmp_path: pathlib.Path
) -> None:
    """A wrong name and a wrong path are errors of the right kind."""
    wrong = {
        "recipes": ("digit", "digits"),
        "targets": ("cpu-onx", "cpu-onnx"),
        "hosts": ("qemu-arm", "qemu-arm64"),
    }[kind]
    with pytest.raises(error, match=f"did you mean '{wrong[1]}'"):
        shelf.find(kind, wrong[0])
    with pytest.raises(error, match="There is no file"):
        shelf.find(kind, str(tmp_path / "none.yaml"))


def test_a_users_own_hosts_are_found_by_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the configuration folder is listed among the shipped ones, and takes the
    place of one of its name; recipes are not looked for there.
    """
    monkeypatch.setattr(shelf, "own_hosts", lambda: tmp_path / "hosts")
    assert shelf.find("hosts", "qemu-arm64").parent == shelf.folder("hosts")
    (tmp_path / "hosts").mkdir()
    for name in ("board", "qemu-arm64"):
        (tmp_path / "hosts" / f"{name}.yaml").write_text("title: mine\nkind: local\n")
        assert shelf.find("hosts", name) == tmp_path / "hosts" / f"{name}.yaml"
    assert {"board", "local", "qemu-arm64"} <= set(shelf.names("hosts"))
    assert shelf.names("hosts").count("qemu-arm64") == 1
    assert "board" not in shelf.names("recipes")


def test_the_folder_of_own_hosts_is_in_the_configuration_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the system's rules; on Linux under $XDG_CONFIG_HOME."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert shelf.own_hosts().parts[-2:] == ("edgekit", "hosts")
