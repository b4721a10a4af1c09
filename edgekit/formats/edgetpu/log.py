"""Read what Google's edgetpu_compiler prints (versions 2 to 16, with -s): a table of
operators, some sizes, and why it failed.

The format is the compiler's own; seen in google-coral/edgetpu issues 60, 92, 211, 342, 444,
512, 601, 671, 686, 728, 829. With -d (search_delegate) it tries several times: the last try
counts.
"""

import re
from collections.abc import Sequence
from typing import Any

from edgekit.value import Value

_ROW = re.compile(r"^(?P<op>[A-Za-z][\w:.-]*)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$")
_SIZE = re.compile(
    r"^(?P<what>[A-Z][\w -]+):\s+(?P<number>[\d.]+)(?P<unit>B|KiB|MiB|GiB)\s*$"
)
_COUNT = re.compile(r"^(?P<what>[A-Z][\w ]+):\s+(?P<number>\d+)\s*$")
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
_SUCCEEDED = re.compile(
    r"^\s*(Model compiled successfully|Compilation succeeded|Model successfully compiled)"
)
_FAILED = re.compile(
    r"^\s*(Compilation failed|Internal compiler error|Invalid model|Model not quantized|Compilation timeout)"
)
#: What a new try begins with.
_TRY = re.compile(r"^\s*(Try to compile segment|Started a compilation timeout timer)")
#: The compiler's own word for an operator that the Edge TPU runs.
MAPPED = "Mapped to Edge TPU"
#: What the compiler says where it fails -> what it means, and the way out. The first that
#: is found is told.
FAILURES: Sequence[tuple[str, str, str]] = (
    (r"Model not quantized", "the file is not wholly int8", "take the scheme w8a8-static"),
    (
        r"dynamic-sized tensors",
        "the file has tensors whose size is not fixed",
        "export with fixed shapes, batch 1",
    ),
    (
        r"Didn't find op for builtin opcode '(?P<what>\w+)' version '(?P<version>\d+)'",
        "it does not know {what} in version {version}",
        "leave this operator out; the compiler is of 2021",
    ),
    (
        r"large activation tensors|Compilation timeout|Internal compiler error|out_of_range",
        "its activations are too large, or the compiler has a fault",
        "take smaller images; or its option -d (search_delegate), which leaves the last operators to the CPU",
    ),
    (
        r"Model failed in Tflite interpreter",
        "the compiler's TFLite, of 2021, cannot load the file",
        "leave newer operators out",
    ),
    (r"Invalid model", "it is no TFLite file that it can read", "export it again"),
)


class LogRow(Value):
    """Operators of one kind that share a fate, in the compiler's own words."""

    op: str
    count: int
    status: str


class CompilerLog(Value):
    """What the compiler reported. Sizes are in bytes; None where it did not say."""

    version: str = ""
    succeeded: bool
    #: Why it failed, and what to do; empty where it did not, or gave no word.
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
        """How many operators run on the Edge TPU: by the table, or by the compiler's sum
        where it printed no table (no -s).
        """
        return (
            sum(row.count for row in self.rows if row.status == MAPPED)
            if self.rows
            else self.operations_on_tpu or 0
        )

    @property
    def total(self) -> int:
        """How many operators the network has."""
        return sum(row.count for row in self.rows) if self.rows else (self.operations or 0)


def parse(text: str) -> CompilerLog:
    """Read a log. A text that is no log gives no rows and ``succeeded=False``."""
    version = re.search(r"^Edge TPU Compiler version (\S+)", text, re.MULTILINE)
    lines = _last_try([line.strip() for line in text.splitlines()])
    found: dict[str, Any] = {}
    rows: list[LogRow] = []
    table = succeeded = False
    for line in lines:
        if _SUCCEEDED.match(line) or _FAILED.match(line):
            succeeded = bool(_SUCCEEDED.match(line))  # the last word counts
        if line.split() == ["Operator", "Count", "Status"]:
            table = True
        elif table and (row := _ROW.match(line)):
            rows.append(LogRow(op=row["op"], count=int(row["count"]), status=row["status"]))
        elif (size := _SIZE.match(line)) and size["what"] in _SIZES:
            found[_SIZES[size["what"]]] = round(
                float(size["number"]) * _UNITS[size["unit"]]
            )
        elif (count := _COUNT.match(line)) and count["what"] in _COUNTS:
            found[_COUNTS[count["what"]]] = int(count["number"])
    failure = "" if succeeded else _failure("\n".join(lines))
    return CompilerLog(
        version=version[1] if version else "",
        succeeded=succeeded,
        failure=failure,
        rows=tuple(rows),
        **found,
    )


def _last_try(lines: list[str]) -> list[str]:
    """The lines of the last try.

    A timer right behind "Try to compile" begins no second one: it has the same outcome.
    """
    starts = [index for index, line in enumerate(lines) if _TRY.match(line)]
    return lines[starts[-1] :] if starts else lines


def _failure(text: str) -> str:
    for pattern, meaning, fix in FAILURES:
        met = re.search(pattern, text)
        if met:
            return f"{meaning.format(**met.groupdict())}. Fix: {fix}"
    return ""
