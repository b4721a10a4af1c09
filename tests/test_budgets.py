"""Limits of size: lines in a file, expressions and parameters in a function.

Statements, branches and complexity are limited by ruff (pyproject.toml). Expressions are
counted, because long lines cannot hide them. Each rule is also shown to fail.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

LINES_A_FILE, EXPRESSIONS, PARAMETERS = 400, 180, 6
#: What a function's size is counted in: names, attributes, calls and operators.
COUNTED = (
    ast.Name,
    ast.arg,
    ast.Attribute,
    ast.Call,
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.UnaryOp,
)
#: This file is copied to devices, where it must work alone.
SELF_CONTAINED = {"edgekit/formats/tensorrt/build.py": 480}
KEPT_OUT = (
    "manager",
    "handler",
    "session",
    "modifier",
    "lifecycle",
    "factory",
    "utils",
)


def over_budget(path: pathlib.Path) -> Iterator[str]:
    """One line for each budget that a file breaks."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    most = next(
        (
            limit
            for name, limit in SELF_CONTAINED.items()
            if path.as_posix().endswith(name)
        ),
        LINES_A_FILE,
    )
    if lines > most:
        yield f"{path}: {lines} lines, at most {most}"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        size = sum(isinstance(inner, COUNTED) for inner in ast.walk(node))
        if size > EXPRESSIONS:
            yield (
                f"{path}:{node.lineno}: {node.name} has {size} expressions, at most "
                f"{EXPRESSIONS}"
            )
        arguments = [
            a.arg
            for a in (
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
            )
            if a.arg not in ("self", "cls")
        ]
        if len(arguments) > PARAMETERS:
            yield (
                f"{path}:{node.lineno}: {node.name} has {len(arguments)} parameters, "
                f"at most {PARAMETERS}"
            )


def wrong_names(path: pathlib.Path) -> Iterator[str]:
    """One line for each word that the design keeps out of the names of files, classes and
    functions.
    """
    named = [(1, path.stem)]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            named.append((node.lineno, node.name))
    for line, name in named:
        for word in KEPT_OUT:
            if word in name.lower():
                yield f"{path}:{line}: {name!r} holds the word {word!r}"


def test_every_file_and_function_keeps_its_budget(root: pathlib.Path) -> None:
    """No file of edgekit is longer, and no function larger or wider, than allowed."""
    paths = list(root.glob("edgekit/**/*.py"))
    assert len(paths) > 20
    assert [line for path in sorted(paths) for line in over_budget(path)] == []


def test_the_words_that_say_nothing_are_kept_out(root: pathlib.Path) -> None:
    """No module, class or function of edgekit is called a manager, a handler, a factory or
    the like.
    """
    assert [
        line
        for path in sorted(root.glob("edgekit/**/*.py"))
        for line in wrong_names(path)
    ] == []


def test_there_is_no_drawer_for_everything(root: pathlib.Path) -> None:
    """No file is called utils.py, base.py, common.py or helpers.py."""
    assert [
        path
        for path in root.glob("edgekit/**/*.py")
        if path.stem in ("utils", "base", "common", "helpers", "misc")
    ] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n" * (LINES_A_FILE + 1), "401 lines, at most 400"),
        (
            "def work():\n    return "
            + " + ".join("a" * (EXPRESSIONS // 2 + 1)),
            "work has 181 expressions, at most 180",
        ),
        (
            "def work(a, b, c, *, d, e, f, g): ...\n",
            "work has 7 parameters, at most 6",
        ),
    ],
)
def test_a_broken_budget_is_told(
    tmp_path: pathlib.Path, source: str, said: str
) -> None:
    """The budget test fails on a file that is one line, or one parameter, too long."""
    path = tmp_path / "long.py"
    path.write_text(source)
    (line,) = over_budget(path)
    assert said in line


def test_a_wrong_word_is_told(tmp_path: pathlib.Path) -> None:
    """The test of names fails on a class that is called a manager."""
    path = tmp_path / "ok.py"
    path.write_text("class CacheManager: ...\n")
    assert list(wrong_names(path)) == [
        f"{path}:1: 'CacheManager' holds the word 'manager'"
    ]
