"""Find words that this project does not use, each with the term to write instead.

    python scripts/wording.py            # everything that the test covers
    python scripts/wording.py edgekit/plan.py docs
    python scripts/wording.py --count            # how often each word occurs

The words are in ``word_list.yaml`` next to this file. The script reads the comments, docstrings,
string literals and defined names of Python files, Markdown except for inline code, and YAML files.
The exit status is 1 if anything is found.
"""

import argparse
import ast
import collections
import dataclasses
import io
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORD_LIST = pathlib.Path(__file__).with_name("word_list.yaml")
#: What is read if no paths are passed.
PLACES = (
    "edgekit",
    "docs",
    "targets",
    "recipes",
    "hosts",
    "README.md",
    "CONTRIBUTING.md",
)
SUFFIXES = (".py", ".md", ".yaml", ".j2")
#: Characters on each side of a hit in which an exception of the word list may match.
CONTEXT = 60
_INLINE_CODE = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclasses.dataclass(frozen=True)
class Word:
    """One row of the word list."""

    pattern: re.Pattern[str]
    advice: str
    where: str
    exceptions: tuple[re.Pattern[str], ...]
    find: tuple[str, ...]
    allowed: tuple[str, ...]

    def search(self, text: str) -> Iterator[re.Match[str]]:
        """The hits in a text, without those that an exception allows."""
        for match in self.pattern.finditer(text):
            start = max(0, match.start() - CONTEXT)
            around = text[start : match.end() + CONTEXT]
            if not any(allowed.search(around) for allowed in self.exceptions):
                yield match


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text of a file and the line on which it starts; ``kind`` is "text" or "names"."""

    text: str
    line: int
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Hit:
    """One word in one place."""

    path: pathlib.Path
    line: int
    phrase: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r} -> {self.advice}"


def load_words(path: pathlib.Path = WORD_LIST) -> list[Word]:
    """The rows of the word list, compiled."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))["words"]
    return [_word(row) for row in rows]


def load_exceptions(path: pathlib.Path = WORD_LIST) -> list[dict[str, str]]:
    """Places where a word is right: ``path``, ``phrase`` and the reason."""
    rows: list[dict[str, str]] = yaml.safe_load(
        path.read_text(encoding="utf-8")
    )["exceptions"]
    return rows


def _word(row: dict[str, Any]) -> Word:
    pattern = row["pattern"]
    if row.get("bounded", True):
        pattern = rf"(?<![\w-])(?:{pattern})(?![\w])"
    return Word(
        pattern=_compile(pattern),
        advice=row["advice"],
        where=row.get("where", "text"),
        exceptions=tuple(_compile(text) for text in row.get("except", ())),
        find=tuple(row["find"]),
        allowed=tuple(row["pass"]),
    )


def _compile(pattern: str) -> re.Pattern[str]:
    """A space of the word list matches a line break too."""
    outside = re.sub(r" (?![^\[]*\])", r"\\s+", pattern)
    return re.compile(outside, re.IGNORECASE)


def search_text(
    words: Sequence[Word], text: str, kind: str = "text"
) -> list[tuple[int, str, str]]:
    """Offset, phrase and advice of each hit in a text or (kind "names") in an identifier."""
    hits = []
    searched = split_name(text) if kind == "names" else text
    for word in words:
        if word.where in (kind, "both"):
            matches = word.search(searched)
            hits += [
                (match.start(), match.group(), word.advice) for match in matches
            ]
    return hits


def split_name(name: str) -> str:
    """``foretoldMs`` and ``foretold_ms`` are "foretold ms"."""
    return _CAMEL.sub(" ", name.strip("_")).replace("_", " ")


def check_file(words: Sequence[Word], path: pathlib.Path) -> list[Hit]:
    """The hits of one file, in the order of its lines."""
    source = path.read_text(encoding="utf-8")
    hits = []
    for passage in passages(path.suffix, source):
        for offset, phrase, advice in search_text(
            words, passage.text, passage.kind
        ):
            line = passage.line
            if passage.kind == "text":
                line += passage.text.count("\n", 0, offset)
            hits.append(
                Hit(_shown(path), line, " ".join(phrase.split()), advice)
            )
    return sorted(set(hits), key=lambda hit: (hit.line, hit.phrase))


def _shown(path: pathlib.Path) -> pathlib.Path:
    """The path relative to the working directory if it is below it."""
    here = pathlib.Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def passages(suffix: str, source: str) -> Iterator[Passage]:
    """What is read of a file with this suffix."""
    if suffix == ".py":
        yield from _comments(source)
        yield from _strings(source)
        yield from _names(source)
    elif suffix == ".md":
        yield Passage(_INLINE_CODE.sub("``", source), 1)
    else:
        yield Passage(source, 1)


def _comments(source: str) -> Iterator[Passage]:
    """Comments; those on consecutive lines are one text."""
    lines: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if line != last + 1 and lines:
            yield Passage("\n".join(lines), first)
            lines = []
        first = line if not lines else first
        lines.append(token.string.lstrip("#: "))
        last = line
    if lines:
        yield Passage("\n".join(lines), first)


def _strings(source: str) -> Iterator[Passage]:
    """Docstrings and string literals; an f-string is one text with ``{}`` for its values.

    Adjacent literals are one text as well, all of it on the line of the first.
    """
    tree = ast.parse(source)
    formatted = [
        node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    ]
    pieces = {id(value) for node in formatted for value in node.values}
    for node in formatted:
        text = "".join(_piece(value) for value in node.values)
        yield Passage(text, node.lineno)
    constants = (
        node for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    for constant in constants:
        if isinstance(constant.value, str) and id(constant) not in pieces:
            yield Passage(constant.value, constant.lineno)


def _piece(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    return "{}"


def _names(source: str) -> Iterator[Passage]:
    """The names that a file defines: functions, classes, parameters, variables and attributes."""
    for node in ast.walk(ast.parse(source)):
        name, line = _defined(node)
        if name:
            yield Passage(name, line, "names")


def _defined(node: ast.AST) -> tuple[str, int]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name, node.lineno
    if isinstance(node, ast.arg):
        return node.arg, node.lineno
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id, node.lineno
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr, node.lineno
    if isinstance(node, ast.alias) and node.asname:
        return node.asname, node.lineno
    return "", 0


def files(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The files to read below the paths."""
    chosen: list[pathlib.Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(path.rglob("*"))
            chosen += [
                file
                for file in below
                if file.suffix in SUFFIXES and file.is_file()
            ]
        else:
            chosen.append(path)
    return chosen


def check(paths: Sequence[pathlib.Path]) -> list[Hit]:
    """All hits below the paths, without the exceptions of the word list."""
    words, exceptions = load_words(), load_exceptions()
    allowed = {(row["path"], row["phrase"].lower()) for row in exceptions}
    hits = []
    for path in files(paths):
        absolute = path.resolve()
        place = str(path)
        if absolute.is_relative_to(ROOT):
            place = absolute.relative_to(ROOT).as_posix()
        candidates = check_file(words, path)
        hits += [
            hit
            for hit in candidates
            if (place, hit.phrase.lower()) not in allowed
        ]
    return hits


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the hits and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Find words that this project does not use."
    )
    parser.add_argument(
        "paths", nargs="*", type=pathlib.Path, help="files and folders"
    )
    parser.add_argument(
        "--count", action="store_true", help="print how often each word occurs"
    )
    options = parser.parse_args(arguments)
    paths = options.paths or [ROOT / place for place in PLACES]
    hits = check([path for path in paths if path.exists()])
    if options.count:
        counts = collections.Counter(hit.phrase.lower() for hit in hits)
        for phrase, number in counts.most_common():
            print(f"{number:5}  {phrase}")
    else:
        for hit in hits:
            print(hit)
    print(
        f"{len(hits)} hits in {len({hit.path for hit in hits})} files",
        file=sys.stderr,
    )
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
