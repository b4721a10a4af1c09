"""What the shipped file did on other hosts, one line a host: the same cells in the table,
in Markdown and in HTML.
"""

from edgekit.measurement import MeasurementName, Verdict
from edgekit.rendering.words import HEADINGS, Wording
from edgekit.report import TargetReport

_SHOWN: tuple[MeasurementName, ...] = (
    "parity",
    "bit_equal",
    "accuracy",
    "accuracy_drop",
    "speedup",
)
#: The headings of the cells; the verdict stands behind the host.
COLUMNS = ("host", "verdict", *(HEADINGS[name].lower() for name in _SHOWN), "taken at")


def rows(target: TargetReport, says: Wording) -> list[tuple[str, Verdict, list[str]]]:
    """Host, verdict, and the cells from parity to the place."""
    return [
        (
            found.host,
            found.verdict,
            [
                *(says.bracketed(found.find(name)) for name in _SHOWN),
                found.error or found.place,
            ],
        )
        for found in target.evidence
    ]
