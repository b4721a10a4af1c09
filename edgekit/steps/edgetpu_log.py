"""Read what Google's edgetpu_compiler prints (version 16, with -s): a table of operators and some sizes."""

import re
from typing import Any

from edgekit.value import Value

_ROW = re.compile(r"^(?P<op>[A-Za-z][\w:.-]*)\s+(?P<count>\d+)\s+(?P<status>\S.*?)\s*$")
_SIZE = re.compile(r"^(?P<what>[A-Z][\w -]+):\s+(?P<number>[\d.]+)(?P<unit>B|KiB|MiB|GiB)\s*$")
_COUNT = re.compile(r"^(?P<what>[A-Z][\w ]+):\s+(?P<number>\d+)\s*$")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZES = {
    "On-chip memory used for caching model parameters": "on_chip_bytes",
    "On-chip memory remaining for caching model parameters": "on_chip_free_bytes",
    "Off-chip memory used for streaming uncached model parameters": "off_chip_bytes",
}
_COUNTS = {"Number of Edge TPU subgraphs": "subgraphs", "Total number of operations": "operations"}
#: The compiler's own word for an operator that the Edge TPU runs.
MAPPED = "Mapped to Edge TPU"


class LogRow(Value):
    """Operators of one kind that share a fate, in the compiler's own words."""

    op: str
    count: int
    status: str


class CompilerLog(Value):
    """What the compiler reported. Sizes are in bytes; None where it did not say."""

    version: str = ""
    succeeded: bool
    rows: tuple[LogRow, ...] = ()
    operations: int | None = None
    subgraphs: int | None = None
    on_chip_bytes: int | None = None
    on_chip_free_bytes: int | None = None
    off_chip_bytes: int | None = None

    @property
    def mapped(self) -> int:
        """How many operators run on the Edge TPU."""
        return sum(row.count for row in self.rows if row.status == MAPPED)

    @property
    def total(self) -> int:
        """How many operators the network has."""
        return sum(row.count for row in self.rows)


def parse(text: str) -> CompilerLog:
    """Read a log. A text that is no log gives no rows and ``succeeded=False``."""
    lines = [line.strip() for line in text.splitlines()]
    found: dict[str, Any] = {}
    rows: list[LogRow] = []
    table = False
    for line in lines:
        if line.split() == ["Operator", "Count", "Status"]:
            table = True
        elif table and (row := _ROW.match(line)):
            rows.append(LogRow(op=row["op"], count=int(row["count"]), status=row["status"]))
        elif (size := _SIZE.match(line)) and size["what"] in _SIZES:
            found[_SIZES[size["what"]]] = round(float(size["number"]) * _UNITS[size["unit"]])
        elif (count := _COUNT.match(line)) and count["what"] in _COUNTS:
            found[_COUNTS[count["what"]]] = int(count["number"])
    version = re.search(r"^Edge TPU Compiler version (\S+)", text, re.MULTILINE)
    succeeded = bool(re.search(r"^\s*(Model compiled successfully|Compilation succeeded)", text, re.MULTILINE)) or bool(
        re.search("Model successfully compiled", text)
    )
    return CompilerLog(version=version[1] if version else "", succeeded=succeeded, rows=tuple(rows), **found)
