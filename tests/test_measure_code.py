"""The script that measures the code counts what it says, and notices what exceeds a limit."""

import ast
import pathlib

import pytest

from scripts import measure_code
from scripts.measure_code import Limit

LONG = "x" * 90

SOURCE = f'''"""A docstring of a module,
over two lines."""

# A comment.
TABLE = {{
    "{LONG}": 1000000,
    "short": 2,
}}


def add(first, second):
    """Add."""
    total = first.value + abs(second)  # fmt: skip
    return total if "{LONG}" else None
'''


@pytest.fixture
def source(tmp_path: pathlib.Path) -> measure_code.Source:
    """The measurements of one file with a table, a long line and a skip."""
    path = tmp_path / "source.py"
    path.write_text(SOURCE, encoding="utf-8")
    return measure_code.read_source(path, "source.py")


def test_names_calls_and_operators_are_counted(
    source: measure_code.Source,
) -> None:
    """Two parameters, six names, an attribute, a call and an addition; comments are no code."""
    assert source.operations == 2 + 6 + 1 + 1 + 1
    assert source.code_lines == 4 + 3


def test_long_lines_of_literal_tables_do_not_count(
    source: measure_code.Source,
) -> None:
    """The line in the dict is longer than the limit and is left out; the return is counted."""
    lines = SOURCE.splitlines()
    assert len(lines[5]) > measure_code.WIDTH
    assert [lines[number - 1].split()[0] for number in source.long_lines] == [
        "return"
    ]


def test_skips_are_counted(source: measure_code.Source) -> None:
    """One comment of the formatter; a string with the same words is none."""
    assert source.skips == 1
    assert list(measure_code.comments('x = "# fmt: skip"\n')) == []


def test_bare_participles_are_listed() -> None:
    """As variables, parameters and functions, also private ones; not as a part of a name."""
    tree = ast.parse("def found(_given):\n    made, found_layers = 1, 2\n")
    assert list(measure_code.bare_names(tree)) == [
        "1: found",
        "1: _given",
        "2: made",
    ]


@pytest.mark.parametrize(
    ("values", "expected"), [([5], 5), (range(1, 11), 9), (range(1, 101), 90)]
)
def test_the_90th_percentile(values: list[int], expected: int) -> None:
    """90 % of the values are at most this one."""
    assert measure_code.percentile(list(values), 0.9) == expected


def test_an_exceeded_limit_is_noticed() -> None:
    """Above, at the limit, and without one."""
    values = [Limit("x", 3.1, 3.0), Limit("x", 3.0, 3.0), Limit("x", 9.0, None)]
    assert [limit.exceeded for limit in values] == [True, False, False]


def test_complex_functions_are_reported_despite_noqa(
    tmp_path: pathlib.Path,
) -> None:
    """Seven parameters, hidden from `ruff check` by a comment."""
    (tmp_path / "pyproject.toml").write_text(
        "[tool.ruff.lint.pylint]\nmax-args = 6\n"
    )
    text = "def f(a, b, c, d, e, g, h):  # noqa: PLR0913\n    return a\n"
    (tmp_path / "module.py").write_text(text)
    (row,) = measure_code.complex_functions(tmp_path, ["."])
    assert row.startswith("module.py:1: PLR0913")


def test_crowded_folders_are_reported(tmp_path: pathlib.Path) -> None:
    """21 modules in a folder, and the modules at the root."""
    folder = tmp_path / "edgekit" / "crowded"
    folder.mkdir(parents=True)
    for number in range(21):
        (folder / f"m{number}.py").touch()
    (tmp_path / "edgekit" / "root.py").touch()
    assert measure_code.crowded_folders(tmp_path) == (
        1,
        ["edgekit/crowded: 21"],
    )
