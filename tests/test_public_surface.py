"""What edgekit shows to the outside: a few names, and a wheel that works away from its
checkout.
"""

import ast
import pathlib
import subprocess
import sys
import tomllib
import zipfile

import pytest

import edgekit


@pytest.fixture(scope="module")
def wheel(
    root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(root),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(
    wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A folder into which the wheel alone was installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(folder),
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def away(folder: pathlib.Path, code: str) -> str:
    """What ``code`` prints in a fresh Python that sees the installed wheel and not the
    checkout.
    """
    start = (
        f"import sys\nsys.path.insert(0, {str(folder)!r})\nimport edgekit\nassert "
        f"edgekit.__file__.startswith({str(folder)!r}), edgekit.__file__\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_few_and_there() -> None:
    """edgekit.__all__ has at most 20 names, sorted, and each can be had."""
    assert len(edgekit.__all__) <= 20
    assert edgekit.__all__ == sorted(edgekit.__all__)
    assert all(getattr(edgekit, name) is not None for name in edgekit.__all__)


def test_a_wrong_public_name_is_an_attribute_error() -> None:
    """A misspelt name is answered as Python answers it."""
    with pytest.raises(AttributeError, match="no attribute 'Taks'"):
        edgekit.Taks  # noqa: B018


def test_one_version_is_told_everywhere(root: pathlib.Path) -> None:
    """pyproject.toml, edgekit.__version__ and the CHANGELOG agree."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == edgekit.__version__
    assert f"## {edgekit.__version__}" in (root / "CHANGELOG.md").read_text()


def test_the_wheel_holds_all_that_is_used_and_nothing_else(
    wheel: pathlib.Path, root: pathlib.Path
) -> None:
    """Every file of the package, every recipe and every target are in the wheel; no test,
    no cache, no other folder.
    """
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [
        path.relative_to(root)
        for path in (root / "edgekit").rglob("*")
        if path.is_file()
    ]
    package = {
        str(path)
        for path in files
        if not any(
            part == "__pycache__" or part.startswith(".") for part in path.parts
        )
    }
    shelves = {
        f"edgekit/shipped/{kind}/{path.name}"
        for kind in ("recipes", "targets", "hosts")
        for path in (root / kind).glob("*.yaml")
    }
    assert len(shelves) >= 7
    assert package | shelves == {
        name for name in names if name.startswith("edgekit/")
    }
    assert {name.split("/")[0] for name in names} == {
        "edgekit",
        f"edgekit-{edgekit.__version__}.dist-info",
    }
    assert "edgekit/py.typed" in names
    assert any(
        name.startswith("edgekit/rendering/") and not name.endswith(".py")
        for name in names
    ), "the HTML template"


def test_the_wheel_starts_the_command(
    wheel: pathlib.Path, root: pathlib.Path
) -> None:
    """The wheel installs `edgekit`, and the function that it names exists."""
    points = (
        zipfile.ZipFile(wheel)
        .read(f"edgekit-{edgekit.__version__}.dist-info/entry_points.txt")
        .decode()
    )
    assert "edgekit = edgekit.cli.main:main" in points
    tree = ast.parse((root / "edgekit/cli/main.py").read_text())
    assert any(
        isinstance(node, ast.FunctionDef) and node.name == "main"
        for node in tree.body
    )


def test_an_installed_wheel_finds_its_recipes_and_targets(
    elsewhere: pathlib.Path,
) -> None:
    """Away from the checkout, from another folder, names and the documents' paths are found
    inside the wheel.
    """
    code = """
from edgekit import recipe, catalog, target
for kind, loader in (("recipes", recipe.load), ("targets", target.load)):
    for name in catalog.names(kind):
        path = catalog.find(kind, name)
        assert "shipped" in path.parts, path
        loader(path)
        print(name)
assert catalog.find("recipes", "recipes/digits.yaml") == catalog.find("recipes", "digits")
"""
    assert {"digits", "int8", "cpu-onnx", "rtx-tensorrt"} <= set(
        away(elsewhere, code).split()
    )


def test_an_installed_wheel_plans(elsewhere: pathlib.Path) -> None:
    """`edgekit plan digits` works in the wheel, and prints the targets of its recipe."""
    said = away(
        elsewhere, "from edgekit.cli.main import main\nmain(['plan', 'digits'])"
    )
    for name in ("cpu-onnx", "mobile-tflite", "coral-edgetpu", "rtx-tensorrt"):
        assert name in said
