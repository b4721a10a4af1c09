"""Measure how readable the code is, and compare it with the project's limits.

    python scripts/measure_code.py            # a table for edgekit/ and tests/
    python scripts/measure_code.py --check    # exit status 1 if a limit is exceeded
    python scripts/measure_code.py --json     # the same numbers and every place, for other programs

The density is the number of names (with parameters and attributes), calls and operators, divided
by the number of lines with code. It was 4.95 for edgekit/ at the start of this measure.
Long lines in literal tables (a module's or class's constant lists, dicts and sets) do not count.
The complexity of functions is ruff's: C901, PLR0912, PLR0913 and PLR0915, limits in pyproject.toml.
"""

import argparse
import ast
import dataclasses
import io
import json
import pathlib
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH = 100
COMPLEXITY = ("C901", "PLR0912", "PLR0913", "PLR0915")
#: Participles that say nothing of the value that they name.
PARTICIPLES = {"found", "told", "made", "wanted", "given", "known"}
NAMES = (ast.Name, ast.arg, ast.Attribute)
OPERATIONS = (*NAMES, ast.Call, ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp)
TABLES = (ast.Dict, ast.List, ast.Set, ast.Tuple)
_SKIP = re.compile(r"#\s*fmt:\s*(skip|off)")


@dataclasses.dataclass(frozen=True)
class Source:
    """What one file contributes."""

    path: str
    lengths: tuple[int, ...]
    long_lines: tuple[int, ...]
    code_lines: int
    operations: int
    skips: int
    bare_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Limit:
    """A number and what it may be; None is not limited."""

    name: str
    value: float
    most: float | None
    places: tuple[str, ...] = ()

    @property
    def exceeded(self) -> bool:
        """Whether the number is larger than it may be."""
        return self.most is not None and self.value > self.most


def read_source(path: pathlib.Path, name: str) -> Source:
    """Measure one file."""
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    inside_tables = table_lines(tree)
    numbered = [
        (number, line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    long_lines = [
        number
        for number, line in numbered
        if len(line) > WIDTH and number not in inside_tables
    ]
    return Source(
        path=name,
        lengths=tuple(len(line) for _, line in numbered),
        long_lines=tuple(long_lines),
        code_lines=len(code_lines(text, tree)),
        operations=sum(isinstance(node, OPERATIONS) for node in ast.walk(tree)),
        skips=sum(bool(_SKIP.search(comment)) for comment in comments(text)),
        bare_names=tuple(bare_names(tree)),
    )


def table_lines(tree: ast.Module) -> set[int]:
    """The lines of constants of a module or a class that are lists, dicts, sets or tuples."""
    bodies = [tree.body]
    bodies += [
        node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    numbers: set[int] = set()
    for statement in (statement for body in bodies for statement in body):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and is_table(
            statement.value
        ):
            numbers.update(
                range(statement.lineno, (statement.end_lineno or 0) + 1)
            )
    return numbers


def is_table(value: ast.expr | None) -> bool:
    """A literal collection, or a call such as ``frozenset`` or ``Registry`` of one."""
    if isinstance(value, ast.Call):
        arguments = [
            *value.args,
            *(keyword.value for keyword in value.keywords),
        ]
        return any(isinstance(argument, TABLES) for argument in arguments)
    return isinstance(value, TABLES)


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """The lines that have more than a comment or a docstring on them."""
    ignored = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    numbers: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            numbers.update(range(token.start[0], token.end[0] + 1))
    return numbers - docstring_lines(tree)


def docstring_lines(tree: ast.Module) -> set[int]:
    """The lines of strings that stand alone as a statement."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and is_text(node.value):
            numbers.update(range(node.lineno, (node.end_lineno or 0) + 1))
    return numbers


def is_text(value: ast.expr) -> bool:
    """Whether an expression is a plain string."""
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def comments(text: str) -> Iterator[str]:
    """The comments of a file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def bare_names(tree: ast.Module) -> Iterator[str]:
    """``line: name`` for each variable, parameter or function that is a bare participle."""
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if name.strip("_") in PARTICIPLES:
            yield f"{node.lineno}: {name}"  # type: ignore[attr-defined]


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)]


def complex_functions(root: pathlib.Path, folders: Iterable[str]) -> list[str]:
    """What ruff reports for the complexity of functions, also if a comment suppresses it."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        ",".join(COMPLEXITY),
    ]
    options = [
        "--output-format",
        "json",
        "--exit-zero",
        "--ignore-noqa",
        *folders,
    ]
    done = subprocess.run(
        [*command, *options],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    return [
        f"{place(row, root)}: {row['code']} {row['message']}" for row in rows
    ]


def place(row: dict[str, object], root: pathlib.Path) -> str:
    """File and line of a row of ruff's output."""
    path = pathlib.Path(str(row["filename"])).relative_to(root)
    location = row["location"]
    assert isinstance(location, dict)
    return f"{path}:{location['row']}"


def crowded_folders(root: pathlib.Path) -> tuple[int, list[str]]:
    """The number of modules at the root of edgekit/, and each folder with its number of modules."""
    package = root / "edgekit"
    folders = [path for path in package.rglob("*") if path.is_dir()]
    sizes = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    rows = [
        f"{path.relative_to(root)}: {size}"
        for path, size in sizes.items()
        if size > 20
    ]
    modules = [
        path for path in package.glob("*.py") if not path.name.startswith("__")
    ]
    return len(modules), sorted(rows)


def measure(root: pathlib.Path, folder: str) -> list[Limit]:
    """The numbers of one folder; density and bare names have limits in edgekit/ only."""
    paths = sorted((root / folder).rglob("*.py"))
    sources = [read_source(path, str(path.relative_to(root))) for path in paths]
    lengths = [length for source in sources for length in source.lengths]
    long_lines = [
        f"{row.path}:{line}" for row in sources for line in row.long_lines
    ]
    bare = [f"{row.path}:{name}" for row in sources for name in row.bare_names]
    operations = sum(source.operations for source in sources)
    density = operations / sum(source.code_lines for source in sources)
    product = folder == "edgekit"
    share = 100 * len(long_lines) / len(lengths)
    return [
        Limit(
            f"lines over {WIDTH} columns, percent",
            share,
            1.0,
            tuple(long_lines),
        ),
        Limit("line length, 90th percentile", percentile(lengths, 0.9), 90),
        Limit(
            "names, calls, operators per code line",
            density,
            3.0 if product else None,
            densest(sources),
        ),
        Limit(
            "fmt: skip",
            sum(row.skips for row in sources),
            None,
            skip_places(sources),
        ),
        Limit(
            "bare participles as names",
            len(bare),
            0 if product else None,
            tuple(bare),
        ),
    ]


def densest(sources: Iterable[Source]) -> tuple[str, ...]:
    """The files with the most operations above three per line, those that add most first."""
    excess = {row: row.operations - 3 * row.code_lines for row in sources}
    rows = sorted(excess, key=lambda row: -excess[row])
    return tuple(
        f"{row.path}: {row.operations / max(1, row.code_lines):.2f}, {excess[row]} too many"
        for row in rows
        if excess[row] > 0
    )


def skip_places(sources: Iterable[Source]) -> tuple[str, ...]:
    """The files with ``fmt: skip``."""
    return tuple(f"{row.path}: {row.skips}" for row in sources if row.skips)


def measure_all(root: pathlib.Path = ROOT) -> dict[str, list[Limit]]:
    """All numbers, by folder and for the tree."""
    tables = {folder: measure(root, folder) for folder in ("edgekit", "tests")}
    skips = sum(
        row.value
        for table in tables.values()
        for row in table
        if row.name == "fmt: skip"
    )
    complex_rows = complex_functions(root, ["edgekit"])
    modules, crowded = crowded_folders(root)
    tables["tree"] = [
        Limit("fmt: skip in all", skips, 39),
        Limit(
            "functions over a complexity limit",
            len(complex_rows),
            0,
            tuple(complex_rows),
        ),
        Limit("modules at the root of edgekit/", modules, 24),
        Limit(
            "folders with more than 20 files", len(crowded), 0, tuple(crowded)
        ),
        Limit("words to replace", *_word_hits()),
    ]
    return tables


def _word_hits() -> tuple[int, int, tuple[str, ...]]:
    """The number of hits of the word list, its limit, and the places."""
    sys.path.insert(0, str(ROOT))
    from scripts import wording

    hits = wording.check([ROOT / place for place in wording.PLACES])
    return len(hits), 0, tuple(str(hit) for hit in hits)


def print_tables(tables: dict[str, list[Limit]], places: int) -> None:
    """A table, with the first places of each limit that is exceeded."""
    for folder, rows in tables.items():
        print(folder)
        for row in rows:
            limit = "" if row.most is None else f"at most {row.most:g}"
            mark = "EXCEEDED" if row.exceeded else ""
            print(f"  {row.name:40} {row.value:8.2f}  {limit:14} {mark}")
            if row.exceeded:
                for entry in row.places[:places]:
                    print(f"      {entry}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the numbers and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Measure how readable the code is."
    )
    parser.add_argument(
        "--check", action="store_true", help="fail if a limit is exceeded"
    )
    parser.add_argument(
        "--json", action="store_true", help="print every number and place"
    )
    parser.add_argument(
        "--places", type=int, default=0, help="places to print for each limit"
    )
    options = parser.parse_args(arguments)
    tables = measure_all()
    if options.json:
        listed = {
            key: [dataclasses.asdict(row) for row in rows]
            for key, rows in tables.items()
        }
        print(json.dumps(listed, indent=1))
    else:
        print_tables(tables, options.places or (5 if options.check else 0))
    exceeded = [row for rows in tables.values() for row in rows if row.exceeded]
    return 1 if options.check and exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
