"""What a runtime executes in one model file: ``edgekit inspect`` and ``edgekit.inspect``."""

import pathlib
from collections.abc import Callable

from edgekit.artifact import FormatName
from edgekit.contracts import Audit
from edgekit.errors import EdgekitError
from edgekit.formats import FORMATS
from edgekit.registry import READERS
from edgekit.target import Limits, Target


def suffixes() -> tuple[str, ...]:
    """The suffixes of the files that can be inspected."""
    return tuple(dict.fromkeys(FORMATS[name].suffix for name in READERS))


def format_of(file: pathlib.Path, target: Target | None = None) -> FormatName:
    """The format of a file by its suffix; among several, the target's.

    Raises:
        EdgekitError: the suffix is unknown, or the target executes files of another format.
    """
    _require_utf8(file)
    names = [
        name for name in READERS if FORMATS[name].suffix == file.suffix.lower()
    ]
    if not names:
        raise EdgekitError(
            f"{file} has an unknown suffix: expected one of {', '.join(suffixes())}.",
            fix="name a model file that ends in one of these",
        )
    if target is None:
        return names[0]
    if target.format not in names:
        raise EdgekitError(
            f"{target.name} executes files of the format {target.format}; {file} is {names[0]}.",
            fix="name another --target; 'edgekit targets' lists them",
        )
    return target.format


def inspect_file(file: pathlib.Path, target: Target | None = None) -> Audit:
    """Read what a runtime executes in a file, held against a target's limits if one is given.

    Raises:
        EdgekitError: the format is unknown or does not fit the target.
        MissingBackend: the format's runtime is not installed.
        RunnerError: the file cannot be read.
    """
    limits = Limits() if target is None else target.limits
    read: Callable[[pathlib.Path, Limits], Audit] = READERS.load(
        format_of(file, target)
    )
    return read(file, limits)


def loaded_bytes(file: pathlib.Path, format: FormatName) -> int:
    """The bytes of a file and of the file of weights that is loaded together with it."""
    files = [file]
    if FORMATS[format].weights_suffix:
        files.append(file.with_suffix(FORMATS[format].weights_suffix))
    return sum(path.stat().st_size for path in files)


def _require_utf8(file: pathlib.Path) -> None:
    # Python keeps bytes that are not UTF-8 as lone surrogates.
    if any("\udc80" <= letter <= "\udcff" for letter in str(file)):
        raise EdgekitError(
            f"The name {str(file)!r} is not UTF-8, and the runtimes cannot open it.",
            fix="rename the file",
        )
