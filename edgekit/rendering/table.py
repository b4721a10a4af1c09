"""The report for a terminal, at most 100 columns wide.

A heading, a table and the open questions of each target, then the verdict.
"""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekit.measurement import QUANTITIES, Verdict
from edgekit.rendering import elsewhere, summary
from edgekit.rendering.formatting import NumberFormat
from edgekit.report import CandidateReport, Report, TargetReport

_STYLES: dict[Verdict, str] = {
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "unmeasured": "bold",
}
_STATUS_STYLES = {
    "raced": "",
    "reference": "dim",
    "dropped": "yellow",
    "failed": "red",
}


def table(report: Report) -> Group:
    """Draw a report with rich."""
    fmt = summary.number_format(report)
    name, title = summary.heading(report)
    parts: list[RenderableType] = [
        Text.assemble((name, "bold"), f"  {title}"),
        Text(),
    ]
    for target in report.targets:
        parts += [*_target(target, fmt), Text()]
    verdict = styled(report.verdict)
    parts.append(
        Text.assemble("Verdict: ", verdict, f"  {summary.summarize(report)}")
    )
    return Group(*parts)


def styled(verdict: Verdict) -> Text:
    """Return the verdict in its colour."""
    return Text(verdict, style=_STYLES[verdict])


def _target(target: TargetReport, fmt: NumberFormat) -> list[RenderableType]:
    ships = f"ships {target.winner}" if target.winner else "ships nothing"
    title = Text.assemble(
        (target.name, "bold"),
        "  ",
        styled(target.verdict),
        f"  {ships}: {target.chosen}",
    )
    parts: list[RenderableType] = [title, _candidates(target, fmt)]
    if target.gates:
        parts.append(_indent(_gates(target, fmt)))
    if target.evidence:
        parts.append(_indent(_elsewhere(target, fmt)))
    lines = [
        *_reasons(target),
        *summary.findings(target, fmt),
        *summary.predictions(target, fmt),
        *_places(target),
        *target.notes,
    ]
    if lines:
        parts.append(_indent(_hanging(lines)))
    return parts


def _candidates(target: TargetReport, fmt: NumberFormat) -> Table:
    drawn = _grid()
    drawn.add_column("  scheme", no_wrap=True, overflow="fold")
    drawn.add_column("status", no_wrap=True, min_width=7)
    lost = "lost, pt" if fmt.share else "lost"
    for heading in ("accuracy", lost, "speedup", "latency", "size", "int8"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in summary.sort_candidates(target):
        is_winner = row.scheme == target.winner
        name = (
            Text(f"* {row.scheme}", "bold")
            if is_winner
            else Text(f"  {row.scheme}")
        )
        status = Text(row.status, _STATUS_STYLES.get(row.status, ""))
        drawn.add_row(name, status, *_cells(row, fmt))
    if target.reference is not None:
        drawn.add_row(
            "  before", "float", *_cells(target.reference, fmt), style="dim"
        )
    return drawn


def _cells(row: CandidateReport, fmt: NumberFormat) -> list[str]:
    lost = fmt.bracketed(row.measurement("accuracy_drop")).replace(" pt", "")
    return [
        fmt.value(row.measurement("accuracy")),
        lost,
        fmt.bracketed(row.measurement("speedup")),
        fmt.value(summary.shown(row, "latency_ms")),
        fmt.value(summary.shown(row, "size_bytes")),
        fmt.value(summary.shown(row, "int8_mac_share")),
    ]


def _gates(target: TargetReport, fmt: NumberFormat) -> Table:
    drawn = _grid("gate", "limit", "measured", "verdict", "")
    for gate in target.gates:
        quantity = QUANTITIES[gate.name]
        note = gate.where if quantity.predicted else ""
        if not gate.required:
            note = f"not required: {gate.why}"
        drawn.add_row(
            quantity.heading.lower(),
            fmt.limit(gate),
            fmt.bracketed(gate),
            styled(gate.verdict),
            note,
        )
    return drawn


def _elsewhere(target: TargetReport, fmt: NumberFormat) -> Table:
    """The evidence of the winner on other hosts."""
    drawn = _grid(*elsewhere.COLUMNS)
    for host, verdict, cells in elsewhere.rows(target, fmt):
        drawn.add_row(
            host, styled(verdict), *cells[:-1], Text(cells[-1], "dim")
        )
    return drawn


def _reasons(target: TargetReport) -> list[str]:
    """Why candidates did not race, and the warnings of the audit."""
    lines = []
    for row in target.candidates:
        if row.reason:
            lines.append(
                f"{row.scheme} {row.status}: {' '.join(row.reason.split())}"
            )
        lines += [f"{row.scheme}: {warning}" for warning in row.warnings]
    return lines


def _places(target: TargetReport) -> list[str]:
    """Where accuracy and latency were measured."""
    shown = []
    for row in (target.reference, *target.candidates):
        if row is not None:
            shown += [
                row.measurement("accuracy"),
                row.measurement("latency_ms"),
            ]
    taken = [row for row in shown if row is not None]
    return [f"measured at {where}" for where in summary.places(taken)]


def _indent(drawn: RenderableType) -> Padding:
    return Padding(drawn, (1, 0, 0, 2))


def _hanging(lines: list[str]) -> Table:
    """Lines with a hanging indent."""
    drawn = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        drawn.add_row("-", Text(line))
    return drawn


def _grid(*headings: str) -> Table:
    drawn = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim"
    )
    for heading in headings:
        drawn.add_column(heading)
    return drawn
