"""Format numbers, intervals, gates, times and sizes as text.

The table, Markdown and HTML share these functions, so that all show the same text.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.measurement import QUANTITIES, Kind, Measurement, MeasurementName
from edgekit.report import GateReport

#: A measurement that should exist but could not be taken; and one that was not attempted.
UNMEASURED = "unmeasured"
NOT_TAKEN = "-"
#: Metrics whose score is a share of correct predictions, shown in percent.
_SHARE_METRICS = ("top1", "top5", "binary_accuracy")


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """Formats the numbers of one report.

    Attributes:
        share: the accuracy is a share of correct predictions, and is shown in percent.
    """

    share: bool

    def number(
        self, name: MeasurementName, value: float, unit: str = ""
    ) -> str:
        """Format a value with its unit."""
        if self.share and name == "accuracy":
            return f"{_fixed(100 * value, 1)} %"
        if self.share and name == "accuracy_drop":
            return f"{_fixed(100 * value, 2)} pt"
        if name == "latency_estimate_ms":
            return f"{_significant(value)} ms est."
        if name == "parity" and unit:
            return f"{value:.4g} {unit}"
        return _format(QUANTITIES[name].kind, value)

    def value(self, measured: Measurement | GateReport | None) -> str:
        """Format the value; ``unmeasured`` if it could not be taken, ``-`` if not attempted."""
        if measured is None:
            return NOT_TAKEN
        if measured.value is None:
            return UNMEASURED
        return self.number(measured.name, measured.value, measured.unit)

    def interval(
        self, measured: Measurement | GateReport | None
    ) -> tuple[str, str] | None:
        """Format the ends of the 95 % interval without the unit; None if there is none."""
        if measured is None or measured.value is None:
            return None
        if measured.low is None or measured.high is None:
            return None
        low = self._bare(measured.name, measured.low)
        high = self._bare(measured.name, measured.high)
        return low, high

    def bracketed(self, measured: Measurement | GateReport | None) -> str:
        """Format the value and its interval on one line: ``98.6 % [97.9, 99.1]``."""
        ends = self.interval(measured)
        interval = f" [{ends[0]}, {ends[1]}]" if ends else ""
        return self.value(measured) + interval

    def limit(self, gate: GateReport) -> str:
        """Format the limit of a gate: ``at most 2.00 pt``."""
        direction = (
            "at most" if QUANTITIES[gate.name].lower_is_better else "at least"
        )
        return f"{direction} {self.number(gate.name, gate.limit, gate.unit)}"

    def _bare(self, name: MeasurementName, value: float) -> str:
        return self.number(name, value).partition(" ")[0].rstrip("x")


def _format(kind: Kind, value: float) -> str:
    """Format a value as the kind of its quantity requires."""
    match kind:
        case "share":
            return f"{_percent(value)} %"
        case "ratio":
            # Three digits: a ratio of 13.55 is no more certain than one of 13.6.
            return f"{_fixed(value, 2 if value < 9.995 else 1)}x"
        case "time":
            return f"{_significant(value)} ms"
        case "bytes":
            return size(value)
        case "count":
            return f"{value:,.0f}"
        case "macs":
            return _thousands(value, ("", " k", " M", " G", " T"))
        case _:
            return f"{value:.4g}"


def is_share(metric: str) -> bool:
    """True if the score of a metric is a share of correct predictions."""
    return metric in _SHARE_METRICS


def size(count: float) -> str:
    """Format bytes, in units of 1000: ``31.2 kB``."""
    return _thousands(count, (" B", " kB", " MB", " GB", " TB"))


def duration(seconds: float) -> str:
    """Format a duration: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(text: str) -> str:
    """Format an ISO 8601 time: ``2026-11-20 16:40 UTC``; other text is unchanged."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip()


def flatten(
    notes: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, str]]:
    """Flatten nested notes into pairs of (dotted key, text)."""
    lines: list[tuple[str, str]] = []
    for key, value in notes.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines.extend(flatten(value, f"{name}."))
        else:
            lines.append((name, plain(value)))
    return lines


def plain(value: Any) -> str:
    """Format any JSON value as short text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return (
            "; ".join(f"{key}: {plain(item)}" for key, item in value.items())
            or "none"
        )
    return str(value)


def _fixed(value: float, digits: int) -> str:
    """Format a number with ``digits`` decimals, never ``-0.00``."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _percent(share: float) -> str:
    """Format a share in percent: less than 1 is never 100, more than 0 is never 0."""
    if share in (0, 1):
        return f"{100 * share:.0f}"
    if 0 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f}"
    return f"{100 * share:.1f}"


def _significant(value: float, digits: int = 3) -> str:
    """Format a number with three significant digits and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    # The exponent of the rounded value: 0.9996 is 1.00.
    power = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:.{max(0, digits - 1 - power)}f}"


def _thousands(value: float, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    digits = f"{value:.0f}" if power == 0 else _significant(value)
    return f"{digits}{units[power]}"
