"""The project writes the standard terms of its field, as ``scripts/word_list.yaml`` lists them."""

import pathlib

import pytest

from scripts import wording
from scripts.wording import Word

ROOT = wording.ROOT
WORDS = wording.load_words()


def kinds(word: Word) -> tuple[str, ...]:
    """Where a row of the word list applies."""
    where = word.where
    return ("text", "names") if where == "both" else (where,)


def row_id(word: Word) -> str:
    """The start of the advice, which names the row in the output of pytest."""
    return word.advice[:24]


def test_the_tree_uses_the_standard_terms() -> None:
    """Source, messages, names, documents and the shipped YAML files."""
    paths = [ROOT / place for place in wording.PLACES]
    hits = wording.check(paths)
    assert not hits, "\n".join(str(hit) for hit in hits[:40])


@pytest.mark.parametrize("word", WORDS, ids=row_id)
def test_every_row_finds_its_examples(word: Word) -> None:
    """Each example of a row is found by that row alone, in a text or in a name."""
    for example in word.find:
        hits = [
            wording.search_text([word], example, kind) for kind in kinds(word)
        ]
        assert any(hits), example


@pytest.mark.parametrize("word", WORDS, ids=row_id)
def test_no_row_finds_what_is_right(word: Word) -> None:
    """The examples of standard English are not found."""
    for example in word.allowed:
        for kind in kinds(word):
            assert not wording.search_text([word], example, kind), example


PYTHON = '''"""Reads a
whole file."""

LIMIT = 3  # it lies
# in the folder

def foretold(beside_it):
    """Return the answer."""
    raise ValueError(f"{LIMIT} is told")
'''


def test_comments_docstrings_messages_and_names_are_read(
    tmp_path: pathlib.Path,
) -> None:
    """Each hit is reported with its line, also if the phrase is broken over two lines."""
    path = tmp_path / "module.py"
    path.write_text(PYTHON, encoding="utf-8")
    hits = [(hit.line, hit.phrase) for hit in wording.check([path])]
    assert hits == [
        (2, "whole"),
        (4, "lies"),
        (7, "beside"),
        (7, "foretold"),
        (9, "told"),
    ]


def test_phrases_are_found_across_line_breaks(tmp_path: pathlib.Path) -> None:
    """In comments, docstrings and Markdown."""
    comment, document = tmp_path / "a.py", tmp_path / "b.md"
    comment.write_text(
        '# one scale\n# a channel\n"""The way\nout."""\n', encoding="utf-8"
    )
    document.write_text(
        "Timed in\nturns, with `told` as code.\n", encoding="utf-8"
    )
    hits = [
        (hit.line, hit.phrase) for hit in wording.check([comment, document])
    ]
    assert hits == [(1, "scale a channel"), (3, "way out"), (1, "in turns")]


def test_the_exit_status_says_whether_anything_was_found(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for a clean file, 1 otherwise, with one line per hit."""
    clean, other = tmp_path / "clean.md", tmp_path / "other.md"
    clean.write_text("Per-channel scales.\n", encoding="utf-8")
    other.write_text("One scale a channel.\n", encoding="utf-8")
    assert wording.main([str(clean)]) == 0
    capsys.readouterr()
    assert wording.main([str(other)]) == 1
    assert (
        "other.md:1: 'scale a channel' -> per-channel"
        in capsys.readouterr().out
    )


def test_exceptions_are_still_needed() -> None:
    """An exception names a file that exists, a phrase that occurs there, and a reason."""
    for row in wording.load_exceptions():
        assert row["reason"]
        phrases = {
            hit.phrase.lower()
            for hit in wording.check_file(WORDS, ROOT / row["path"])
        }
        assert row["phrase"].lower() in phrases, row
