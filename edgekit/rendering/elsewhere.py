"""The evidence of the shipped file on other hosts: the same cells in all forms of a report."""

from edgekit.measurement import QUANTITIES, MeasurementName, Verdict
from edgekit.rendering.formatting import NumberFormat
from edgekit.report import TargetReport

_SHOWN: tuple[MeasurementName, ...] = (
    "parity",
    "bit_equal",
    "accuracy",
    "accuracy_drop",
    "speedup",
)
COLUMNS = (
    "host",
    "verdict",
    *(QUANTITIES[name].heading.lower() for name in _SHOWN),
    "measured at",
)


def rows(
    target: TargetReport, fmt: NumberFormat
) -> list[tuple[str, Verdict, list[str]]]:
    """Return host, verdict, and the remaining cells, one row per host."""
    lines = []
    for evidence in target.evidence:
        cells = [fmt.bracketed(evidence.measurement(name)) for name in _SHOWN]
        cells.append(evidence.error or evidence.place)
        lines.append((evidence.host, evidence.verdict, cells))
    return lines
