"""README's first block and the quickstart work from a wheel, outside the checkout.

The virtual environment is empty but for the wheel: edgekit's dependencies are read from the
environment of the tests, so that nothing is downloaded.
"""

import os
import pathlib
import re
import shlex
import site
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    found = _FENCE.findall((ROOT / document).read_text(encoding="utf-8"))
    return [block for kind, block in found if kind == language]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A virtual environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("first")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run(
        [*build, "-o", str(folder), str(ROOT)], check=True, capture_output=True
    )
    subprocess.run(
        [sys.executable, "-m", "venv", str(folder / "venv")], check=True
    )
    paths = sysconfig.get_paths(
        vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    )
    # A .pth file inside of the other folder, such as that of an editable edgekit, is not read.
    packages = "\n".join(site.getsitepackages())
    (pathlib.Path(paths["purelib"]) / "dependencies.pth").write_text(
        packages + "\n"
    )
    (wheel,) = folder.glob("*.whl")
    pip = [
        str(folder / "venv/bin/python"),
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return folder


def run(folder: pathlib.Path, words: list[str]) -> str:
    """Run a program of the environment in ``folder``; return what it prints."""
    variables = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    program = str(folder / "venv/bin" / words[0])
    done = subprocess.run(
        [program, *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=variables,
    )
    assert done.returncode == 0, (
        f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    )
    return done.stdout


@pytest.mark.slow
def test_edgekit_is_the_wheel(environment: pathlib.Path) -> None:
    """The environment imports edgekit from the wheel, not from the checkout."""
    place = run(
        environment, ["python", "-c", "import edgekit; print(edgekit.__file__)"]
    )
    assert place.startswith(str(environment / "venv"))


@pytest.mark.slow
def test_first_block_and_python_of_readme(environment: pathlib.Path) -> None:
    """The command ships a file, the Python call returns the same result, and the quickstart's
    next commands work on it.
    """
    _, command = blocks("README.md", "console")[0].splitlines()
    table = run(environment, shlex.split(command.removeprefix("$ ")))
    winner = re.search(r"cpu-onnx  pass  ships ([\w-]+)", table)
    assert winner is not None, table
    printed = run(
        environment, ["python", "-c", blocks("README.md", "python")[0]]
    )
    first, second = printed.splitlines()
    assert first == f"pass {winner.group(1)} cpu-onnx/main.onnx"
    assert re.fullmatch(r"[\d.]+x, [\d.]+ to [\d.]+", second)
    for block in blocks("docs/quickstart.md", "console")[2:]:
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            assert run(environment, words).strip()
