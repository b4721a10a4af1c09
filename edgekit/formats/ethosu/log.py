"""What Vela, Arm's compiler for the Ethos-U, reports of a file: its estimates, per operator.

Vela estimates; it runs nothing. Its numbers hold for the clock and the memories of one
system configuration.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Literal

from edgekit.errors import condense
from edgekit.value import Value

#: Reasons and lines of output are truncated to this many characters.
MAX_REASON = 240
_TABLE = re.compile(
    r'<table name="(\w+)">\s*<!\[CDATA\[\n(.*?)\]\]>', re.DOTALL
)
_WARNING = re.compile(
    r"^Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<name>.*)'\n"
    r"Reason: (?P<reason>.+(?:\n.+)*)",
    re.MULTILINE,
)
#: A tensor with its dtype; its name may be a long path.
_TENSOR = re.compile(r"(DataType \w+) \(.*\)")


class Setting(Value):
    """The device that a file is compiled for. The names are Vela's own."""

    accelerator: str
    system_config: str
    memory_mode: str
    #: The SRAM that Vela may use, in bytes; None: as much as the memory mode has.
    sram_bytes: int | None = None

    @property
    def macs_per_cycle(self) -> int:
        """The peak number of multiply-accumulates per cycle."""
        return int(self.accelerator.rpartition("-")[2])


class Layer(Value):
    """One row of Vela's performance table.

    An operator of the file may become several rows, or none. ``operator`` is its index in
    the file.
    """

    operator: int | None
    original: str
    op: str
    name: str
    target: Literal["NPU", "CPU"]
    cycles: int
    macs: int


class Refusal(Value):
    """An operator that Vela does not place on the NPU: its kind, the name of its output, and
    the reason.
    """

    op: str
    name: str
    reason: str


class Log(Value):
    """Vela's report on one file: estimates for the clock and memories of the configuration."""

    version: str
    setting: Setting
    clock_hz: float
    #: Cycles of the NPU's part, including memory accesses, without operators on the CPU.
    cycles: int
    sram_bytes: int
    dram_bytes: int
    on_chip_flash_bytes: int
    off_chip_flash_bytes: int
    #: Rows of one graph. For a file with several graphs, Vela may report another than the
    #: first.
    layers: tuple[Layer, ...]
    refusals: tuple[Refusal, ...]

    @property
    def time_ms(self) -> float:
        """The NPU's time for one inference in milliseconds."""
        return 1000 * self.cycles / self.clock_hz

    @property
    def storage_bytes(self) -> int:
        """All memory except SRAM: where the weights are stored."""
        return (
            self.dram_bytes
            + self.on_chip_flash_bytes
            + self.off_chip_flash_bytes
        )


def parse(
    version: str, setting: Setting, summary: str, debug: str, output: str
) -> Log:
    """Parse Vela's summary (CSV), debug database (XML) and output.

    Raises LookupError or ValueError if one of them has another structure than in Vela 5.2.
    """
    totals = next(_rows(summary))
    tables = {
        name: list(_rows(content)) for name, content in _TABLE.findall(debug)
    }
    origins = {row["id"]: row for row in tables["source"]}
    layers = [
        _layer(row, origins.get(row["source_id"])) for row in tables["perf"]
    ]
    memory = {
        kind: round(1024 * float(totals[f"{kind}_memory_used"]))
        for kind in ("sram", "dram", "on_chip_flash", "off_chip_flash")
    }
    return Log(
        version=version,
        setting=setting,
        clock_hz=float(totals["core_clock"]),
        cycles=round(float(totals["cycles_total"])),
        sram_bytes=memory["sram"],
        dram_bytes=memory["dram"],
        on_chip_flash_bytes=memory["on_chip_flash"],
        off_chip_flash_bytes=memory["off_chip_flash"],
        layers=tuple(layers),
        refusals=tuple(_refusals(output)),
    )


def _refusals(output: str) -> Iterator[Refusal]:
    for match in _WARNING.finditer(output):
        reason = _shorten(match["reason"])
        yield Refusal(op=match["op"], name=match["name"], reason=reason)


def _shorten(reason: str) -> str:
    """Without the name of a tensor with a wrong dtype and the list of dtypes that are valid."""
    first_line = reason.splitlines()[0]
    if _TENSOR.search(first_line):
        reason = _TENSOR.sub(r"\1", first_line)
    return condense(reason, MAX_REASON)


def _layer(row: Mapping[str, str], origin: Mapping[str, str] | None) -> Layer:
    return Layer(
        operator=None if origin is None else int(origin["ext_key"]),
        original=row["operator"] if origin is None else origin["operator"],
        op=row["operator"],
        name=row["name"],
        target="CPU" if row["operator"] == "Passthrough" else "NPU",
        cycles=int(row["op_cycles"]),
        macs=int(row["mac_count"]),
    )


def _rows(text: str) -> Iterator[Mapping[str, str]]:
    """The rows of a CSV table with a header.

    Raises ValueError for a row of another length (the name of a tensor may contain any
    character).
    """
    for row in csv.DictReader(io.StringIO(text)):
        if None in row or None in row.values():
            raise ValueError(
                f"a row does not fit its table: {list(row.values())[:4]}"
            )
        yield row
