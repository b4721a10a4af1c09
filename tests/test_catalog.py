"""The catalog: a name or a path finds a recipe, target or host, from any folder."""

import pathlib

import pytest

from edgekit import catalog
from edgekit.errors import HostError, RecipeError, TargetError


def test_a_name_finds_what_is_shipped_from_any_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder does not matter for a shipped name."""
    monkeypatch.chdir(tmp_path)
    assert catalog.find("recipes", "digits").is_file()
    assert catalog.find("targets", "cpu-onnx").name == "cpu-onnx.yaml"
    assert {"digits", "int8", "compress"} <= set(catalog.names("recipes"))


def test_recipes_slash_digits_works_without_a_checkout(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recipes/digits.yaml`, as the documents write it, finds the shipped file where there
    is no such folder.
    """
    monkeypatch.chdir(tmp_path)
    assert catalog.find("recipes", "recipes/digits.yaml") == catalog.find(
        "recipes", "digits"
    )


def test_a_users_own_file_comes_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing path is that file, even if a shipped one has its name."""
    (tmp_path / "recipes").mkdir()
    own = tmp_path / "recipes" / "digits.yaml"
    own.write_text("model: zoo:cnn\n")
    monkeypatch.chdir(tmp_path)
    assert catalog.find("recipes", "recipes/digits.yaml").resolve() == own
    assert catalog.find("recipes", str(own)) == own


@pytest.mark.parametrize(
    ("kind", "error"),
    [("recipes", RecipeError), ("targets", TargetError), ("hosts", HostError)],
)
def test_an_unknown_name_is_reported_with_the_nearest(
    kind: catalog.Kind, error: type[Exception], tmp_path: pathlib.Path
) -> None:
    """A wrong name and a wrong path raise the error of their kind."""
    wrong = {
        "recipes": ("digit", "digits"),
        "targets": ("cpu-onx", "cpu-onnx"),
        "hosts": ("qemu-arm", "qemu-arm64"),
    }[kind]
    with pytest.raises(error, match=f"Did you mean '{wrong[1]}'"):
        catalog.find(kind, wrong[0])
    with pytest.raises(error, match="No such file"):
        catalog.find(kind, str(tmp_path / "none.yaml"))


def test_a_users_own_hosts_are_found_by_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the configuration folder is listed with the shipped ones, and takes
    precedence over one with its name; recipes are not looked up there.
    """
    monkeypatch.setattr(catalog, "user_hosts", lambda: tmp_path / "hosts")
    assert catalog.find("hosts", "qemu-arm64").parent == catalog.folder("hosts")
    (tmp_path / "hosts").mkdir()
    for name in ("board", "qemu-arm64"):
        (tmp_path / "hosts" / f"{name}.yaml").write_text(
            "title: mine\nkind: local\n"
        )
        assert (
            catalog.find("hosts", name) == tmp_path / "hosts" / f"{name}.yaml"
        )
    assert {"board", "local", "qemu-arm64"} <= set(catalog.names("hosts"))
    assert catalog.names("hosts").count("qemu-arm64") == 1
    assert "board" not in catalog.names("recipes")


def test_the_folder_of_user_hosts_is_in_the_configuration_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the operating system defines it; on Linux in $XDG_CONFIG_HOME."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert catalog.user_hosts().parts[-2:] == ("edgekit", "hosts")
