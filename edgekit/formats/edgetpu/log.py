"""Parse the output of Google's edgetpu_compiler (versions 2 to 16, with -s): a table of
operators, some sizes, and the reason of a failure.

The format is the compiler's own; seen in google-coral/edgetpu issues 60, 92, 211, 342, 444,
512, 601, 671, 686, 728, 829. With -d (search_delegate) the compiler tries several times: the
last try counts.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from edgekit.value import Value

_ROW = re.compile(
    r"^(?P<op>[A-Za-z][\w:.-]*)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$"
)
_SIZE = re.compile(
    r"^(?P<label>[A-Z][\w -]+):\s+(?P<number>[\d.]+)(?P<unit>B|KiB|MiB|GiB)\s*$"
)
_COUNT = re.compile(r"^(?P<label>[A-Z][\w ]+):\s+(?P<number>\d+)\s*$")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZES = {
    "On-chip memory used for caching model parameters": "on_chip_bytes",
    "On-chip memory remaining for caching model parameters": "on_chip_free_bytes",
    "Off-chip memory used for streaming uncached model parameters": "off_chip_bytes",
}
_COUNTS = {
    "Number of Edge TPU subgraphs": "subgraphs",
    "Total number of operations": "operations",
    "Number of operations that will run on Edge TPU": "operations_on_tpu",
    "Number of operations that will run on CPU": "operations_on_cpu",
}
_TABLE_HEADER = ["Operator", "Count", "Status"]
_SUCCEEDED = re.compile(
    r"^\s*(Model compiled successfully|Compilation succeeded|Model successfully compiled)"
)
_FAILED = re.compile(
    r"^\s*(Compilation failed|Internal compiler error|Invalid model|Model not quantized|"
    r"Compilation timeout)"
)
#: The first line of a new try.
_TRY = re.compile(
    r"^\s*(Try to compile segment|Started a compilation timeout timer)"
)
#: The compiler's own status of an operator that the Edge TPU runs.
MAPPED = "Mapped to Edge TPU"


class KnownFailure(NamedTuple):
    """A pattern in the compiler's output, what it means, and a fix."""

    pattern: str
    meaning: str
    fix: str


#: The first pattern that matches is reported.
KNOWN_FAILURES: Sequence[KnownFailure] = (
    KnownFailure(
        r"Model not quantized",
        "the file is not fully int8",
        "use the scheme w8a8-static",
    ),
    KnownFailure(
        r"dynamic-sized tensors",
        "the file has tensors without a fixed size",
        "export with fixed shapes, batch 1",
    ),
    KnownFailure(
        r"Didn't find op for builtin opcode '(?P<op>\w+)' version '(?P<version>\d+)'",
        "it does not support {op} in version {version}",
        "remove this operator; the compiler is from 2021",
    ),
    KnownFailure(
        r"large activation tensors|Compilation timeout|Internal compiler error|out_of_range",
        "its activations are too large, or the compiler has a bug",
        "use smaller images; or its option -d (search_delegate), which leaves the last "
        "operators to the CPU",
    ),
    KnownFailure(
        r"Model failed in Tflite interpreter",
        "the compiler's TFLite, from 2021, cannot load the file",
        "remove newer operators",
    ),
    KnownFailure(
        r"Invalid model", "it cannot read the file", "export it again"
    ),
)


class LogRow(Value):
    """Operators of one kind with the same status, in the compiler's own words."""

    op: str
    count: int
    status: str


class CompilerLog(Value):
    """What the compiler reported. Sizes are in bytes; None if it did not report them."""

    version: str = ""
    succeeded: bool
    #: Why it failed, and a fix; empty if it succeeded, or failed without a message.
    failure: str = ""
    rows: tuple[LogRow, ...] = ()
    operations: int | None = None
    operations_on_tpu: int | None = None
    operations_on_cpu: int | None = None
    subgraphs: int | None = None
    on_chip_bytes: int | None = None
    on_chip_free_bytes: int | None = None
    off_chip_bytes: int | None = None

    @property
    def mapped(self) -> int:
        """How many operators run on the Edge TPU.

        Counted from the table, or the compiler's total if it printed no table (no -s).
        """
        if self.rows:
            return sum(row.count for row in self.rows if row.status == MAPPED)
        return self.operations_on_tpu or 0

    @property
    def total(self) -> int:
        """How many operators the network has."""
        if self.rows:
            return sum(row.count for row in self.rows)
        return self.operations or 0


def parse(text: str) -> CompilerLog:
    """Parse a log. Other texts have no rows and ``succeeded=False``."""
    version = re.search(r"^Edge TPU Compiler version (\S+)", text, re.MULTILINE)
    lines = _last_try([line.strip() for line in text.splitlines()])
    # The last message counts.
    succeeded = False
    for line in lines:
        if _SUCCEEDED.match(line) or _FAILED.match(line):
            succeeded = bool(_SUCCEEDED.match(line))
    return CompilerLog(
        version=version[1] if version else "",
        succeeded=succeeded,
        failure="" if succeeded else _explain_failure("\n".join(lines)),
        rows=tuple(_parse_table(lines)),
        **_parse_numbers(lines),
    )


def _parse_table(lines: Sequence[str]) -> list[LogRow]:
    words = [line.split() for line in lines]
    if _TABLE_HEADER not in words:
        return []
    matches = map(_ROW.match, lines[words.index(_TABLE_HEADER) + 1 :])
    return [
        LogRow(
            op=match["op"], count=int(match["count"]), status=match["status"]
        )
        for match in matches
        if match and match[0].split() != _TABLE_HEADER
    ]


def _parse_numbers(lines: Sequence[str]) -> dict[str, int]:
    numbers = {}
    for line in lines:
        size = _SIZE.match(line)
        count = _COUNT.match(line)
        if size and size["label"] in _SIZES:
            value = float(size["number"]) * _UNITS[size["unit"]]
            numbers[_SIZES[size["label"]]] = round(value)
        elif count and count["label"] in _COUNTS:
            numbers[_COUNTS[count["label"]]] = int(count["number"])
    return numbers


def _last_try(lines: list[str]) -> list[str]:
    """The lines of the last try.

    A timer directly after "Try to compile" starts no other try: both have the same outcome.
    """
    starts = [index for index, line in enumerate(lines) if _TRY.match(line)]
    return lines[starts[-1] :] if starts else lines


def _explain_failure(text: str) -> str:
    for failure in KNOWN_FAILURES:
        match = re.search(failure.pattern, text)
        if match:
            meaning = failure.meaning.format(**match.groupdict())
            return f"{meaning}. Fix: {failure.fix}"
    return ""
