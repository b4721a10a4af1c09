"""Check what every text file must keep: line ends, no merge markers, valid YAML, TOML and JSON.

    python scripts/hygiene.py FILE...

The exit status is 1 if anything is found; nothing is changed.
"""

import json
import pathlib
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence

import yaml

#: Larger files belong into a package or a download, not into the repository.
LARGEST_BYTES = 1_000_000
MERGE_MARKERS = ("<<<<<<< ", ">>>>>>> ")
PARSERS: Mapping[str, Callable[[str], object]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
}


def faults(path: pathlib.Path) -> Iterator[str]:
    """What is wrong with a file, one line each; binary files are checked for their size only."""
    content = path.read_bytes()
    if len(content) > LARGEST_BYTES:
        yield f"{path}: {len(content):,} bytes, expected at most {LARGEST_BYTES:,}"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        yield from text_faults(path, text)


def text_faults(path: pathlib.Path, text: str) -> Iterator[str]:
    """The faults of a text file."""
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: white space at the end of the line"
        if line.startswith(MERGE_MARKERS):
            yield f"{path}:{number}: a merge marker"
    if text and not text.endswith("\n"):
        yield f"{path}: no line break at the end of the file"
    if text.endswith("\n\n"):
        yield f"{path}: empty lines at the end of the file"
    yield from syntax_faults(path, text)


def syntax_faults(path: pathlib.Path, text: str) -> Iterator[str]:
    """Why the file cannot be parsed; nothing for files of other types."""
    parse = PARSERS.get(path.suffix)
    if parse is None:
        return
    try:
        parse(text)
    except (ValueError, yaml.YAMLError) as error:
        yield f"{path}: not valid {path.suffix[1:]}: {' '.join(str(error).split())}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the faults and return the exit status."""
    names = sys.argv[1:] if arguments is None else arguments
    rows = [fault for name in names for fault in faults(pathlib.Path(name))]
    for row in rows:
        print(row)
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main())
