"""The cache keys cover all code that could change a result, found from the import graph."""

import ast
import pathlib
import shutil
from collections.abc import Iterator

import pytest

from edgekit import registry
from edgekit.pipeline.candidate import MEASURING
from edgekit.pipeline.code_identity import (
    PACKAGE,
    ImportGraph,
    code_digest,
    own_graph,
)


@pytest.fixture(scope="module")
def copy(
    root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A copy of the package that tests may modify."""
    folder = tmp_path_factory.mktemp("copy") / PACKAGE
    shutil.copytree(
        root / PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def package(folder: pathlib.Path, **sources: str) -> ImportGraph:
    """A small package; ``a__b`` stands for the file a/b.py."""
    for name, source in sources.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for parent in path.relative_to(folder).parents:
            init = folder / parent / "__init__.py"
            if not init.exists():
                init.write_text('"""A package."""\n')
    return ImportGraph(folder)


def parsed_imports(path: pathlib.Path) -> Iterator[str]:
    """Every module that a file imports when it runs, by Python's own parser."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for block in ast.walk(tree):
        if (
            isinstance(block, ast.If)
            and ast.unparse(block.test) == "TYPE_CHECKING"
        ):
            block.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots() -> list[str]:
    """The modules of all steps and checks, from which the keys are made."""
    steps = [registry.STEPS.module(name) for name in registry.STEPS]
    return sorted({*steps, *MEASURING, registry.DIAGNOSES.module("torch")})


def test_every_module_of_a_key_changes_the_key(copy: pathlib.Path) -> None:
    """A line appended to any module that a step or a check imports gives every key that
    reaches it another digest.
    """
    before = ImportGraph(copy)
    digests = {name: before.digest([name]) for name in roots()}
    reached = {name: before.reachable([name]) for name in roots()}
    for module in sorted(before.reachable(roots())):
        path = copy.joinpath(*module.split(".")[1:])
        file = (
            path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        )
        source = file.read_text(encoding="utf-8")
        file.write_text(f"{source}\nCHANGED = True\n", encoding="utf-8")
        after = ImportGraph(copy)
        changed = {
            name for name in roots() if after.digest([name]) != digests[name]
        }
        file.write_text(source, encoding="utf-8")
        assert changed == {name for name in roots() if module in reached[name]}


def test_rules_of_verification_are_part_of_the_measurement_keys() -> None:
    """The modules whose change once left old verdicts in the cache are covered."""
    measured = own_graph().reachable(MEASURING)
    for module in MEASURING:
        assert module in measured
    assert {
        registry.AUDITS.module(format) for format in registry.AUDITS
    } <= measured
    assert {registry.HOSTS.module(kind) for kind in registry.HOSTS} <= measured


def test_search_finds_what_the_parser_finds(root: pathlib.Path) -> None:
    """No import statement of edgekit escapes the regular expressions."""
    graph = own_graph()
    for module in sorted(graph.modules):
        path = (root / PACKAGE).joinpath(*module.split(".")[1:])
        file = (
            path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        )
        expected = {
            name
            for name in parsed_imports(file)
            if name in graph.modules and name != module
        }
        assert expected <= graph.imports[module], module


@pytest.mark.parametrize(
    "source",
    [
        "import edgekit.deep.inner.leaf\n",
        "from edgekit.deep.inner import leaf\n",
        "from edgekit.deep.inner.leaf import thing\n",
        "from edgekit.deep.inner import (\n    # a reason\n    leaf,  # another (reason)\n)\n",
        "def work():\n    from edgekit.deep.inner import leaf\n",
        "def work():\n    import edgekit.deep.inner.leaf as other\n",
        "from .deep.inner import leaf\n",
        "TABLE = {'leaf': 'edgekit.deep.inner.leaf:Leaf'}\n",
        'TABLE = ("edgekit.deep.inner.leaf",)\n',
        "from edgekit import deep\n",
    ],
)
def test_kinds_of_imports_are_found(
    tmp_path: pathlib.Path, source: str
) -> None:
    """Nested packages, imports inside functions, relative imports, and modules loaded by
    name from a table.
    """
    graph = package(tmp_path, top=source, deep__inner__leaf="x = 1\n")
    assert "edgekit.deep.inner.leaf" in graph.reachable(["edgekit.top"])
    assert "edgekit.deep.inner" in graph.reachable(["edgekit.top"])


def test_a_script_started_by_its_file_name_is_found(
    tmp_path: pathlib.Path,
) -> None:
    """A neighbouring script that is named by its file counts as imported."""
    graph = package(
        tmp_path,
        deep__top='SCRIPT = Path(__file__).with_name("script.py")\n',
        deep__script="import edgekit.low\n",
        low="",
    )
    assert {"edgekit.deep.script", "edgekit.low"} <= graph.reachable(
        ["edgekit.deep.top"]
    )


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edgekit import "
        "other\n\nx = 1\n",
        "# from edgekit import other\n",
        "x = 1\n",
    ],
)
def test_what_never_runs_is_not_part_of_a_key(
    tmp_path: pathlib.Path, source: str
) -> None:
    """Imports for annotations, and comments, do not count."""
    graph = package(tmp_path, top=source, other="x = 1\n")
    assert "edgekit.other" not in graph.reachable(["edgekit.top"])


def test_keys_do_not_depend_on_what_is_not_imported() -> None:
    """Rewording the terminal's table does not invalidate a trained network."""
    trained = own_graph().reachable([registry.STEPS.module("train")])
    elsewhere = (
        "edgekit.cli",
        "edgekit.rendering",
        "edgekit.formats.onnx.export",
    )
    assert not [name for name in trained if name.startswith(elsewhere)]
    assert "edgekit.formats.tflite.audit" not in trained


def test_an_unknown_module_is_an_error() -> None:
    """A digest of nothing would hide a typo in a name."""
    with pytest.raises(
        ValueError, match=r"not a module of edgekit: edgekit\.nothing"
    ):
        code_digest("edgekit.nothing")


def test_a_step_from_elsewhere_adds_nothing() -> None:
    """Another package's step brings its own version."""
    assert code_digest("some.package") == code_digest()
