"""The report for a terminal: a heading, a table and the open questions of each target, then
the verdict. Fits 100 columns.
"""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekit.measurement import Verdict
from edgekit.rendering import elsewhere, words
from edgekit.rendering.words import Wording
from edgekit.report import CandidateReport, Report, TargetReport

_STYLES: dict[Verdict, str] = {
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "unmeasured": "bold",
}
_STATUS_STYLES = {"raced": "", "reference": "dim", "dropped": "yellow", "failed": "red"}


def table(report: Report) -> Group:
    """Everything a user must know of a run, for ``rich``."""
    says = words.wording(report)
    name, title = words.heading(report)
    parts: list[RenderableType] = [Text.assemble((name, "bold"), f"  {title}"), Text()]
    for target in report.targets:
        parts += [*_target(target, says), Text()]
    parts.append(
        Text.assemble("Verdict: ", styled(report.verdict), f"  {words.summary(report)}")
    )
    return Group(*parts)


def styled(verdict: Verdict) -> Text:
    """The verdict's word in its colour."""
    return Text(verdict, style=_STYLES[verdict])


def _target(target: TargetReport, says: Wording) -> list[RenderableType]:
    ships = f"ships {target.winner}" if target.winner else "ships nothing"
    parts: list[RenderableType] = [
        Text.assemble(
            (target.name, "bold"),
            "  ",
            styled(target.verdict),
            f"  {ships}: {target.chosen}",
        )
    ]
    parts.append(_candidates(target, says))
    if target.gates:
        parts.append(Padding(_gates(target, says), (1, 0, 0, 2)))
    if target.evidence:
        parts.append(Padding(_elsewhere(target, says), (1, 0, 0, 2)))
    lines = [
        *_reasons(target),
        *words.findings(target, says),
        *words.predicted(target, says),
        *_places(target),
        *target.notes,
    ]
    if lines:
        parts.append(Padding(_hanging(lines), (1, 0, 0, 2)))
    return parts


def _candidates(target: TargetReport, says: Wording) -> Table:
    drawn = _grid()
    drawn.add_column("  scheme", no_wrap=True, overflow="fold")
    drawn.add_column("status", no_wrap=True, min_width=7)
    for heading in (
        "accuracy",
        "lost, pt" if says.share else "lost",
        "speedup",
        "latency",
        "size",
        "int8",
    ):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in words.rows(target):
        status = words.split_status(row.status)[0]
        style = "bold" if row.scheme == target.winner else ""
        drawn.add_row(
            Text(f"{'*' if style else ' '} {row.scheme}", style),
            Text(status, _STATUS_STYLES.get(status, "")),
            *_cells(row, says),
        )
    if target.reference is not None:
        drawn.add_row("  before", "float", *_cells(target.reference, says), style="dim")
    return drawn


def _cells(row: CandidateReport, says: Wording) -> list[str]:
    lost = says.bracketed(row.find("accuracy_drop")).replace(" pt", "")
    after = (
        says.value(words.shown(row, name))
        for name in ("latency_ms", "size_bytes", "int8_mac_share")
    )
    return [
        says.value(row.find("accuracy")),
        lost,
        says.bracketed(row.find("speedup")),
        *after,
    ]


def _gates(target: TargetReport, says: Wording) -> Table:
    drawn = _grid("gate", "asked", "found", "verdict", "")
    for gate in target.gates:
        foretold = gate.where if gate.name in words.FORETOLD else ""
        note = foretold if gate.required else f"not required: {gate.why}"
        drawn.add_row(
            words.HEADINGS[gate.name].lower(),
            says.limit(gate),
            says.bracketed(gate),
            styled(gate.verdict),
            note,
        )
    return drawn


def _elsewhere(target: TargetReport, says: Wording) -> Table:
    """What the winner did on other hosts."""
    drawn = _grid(*elsewhere.COLUMNS)
    for host, verdict, cells in elsewhere.rows(target, says):
        drawn.add_row(host, styled(verdict), *cells[:-1], Text(cells[-1], "dim"))
    return drawn


def _reasons(target: TargetReport) -> list[str]:
    """Why candidates did not race, and what the audit warns of."""
    lines = []
    for row in target.candidates:
        status, reason = words.split_status(row.status)
        if reason:
            lines.append(f"{row.scheme} {status}: {' '.join(reason.split())}")
        lines += [f"{row.scheme}: {warning}" for warning in row.warnings]
    return lines


def _places(target: TargetReport) -> list[str]:
    """Where accuracy and latency were taken."""
    rows = (target.reference, *target.candidates)
    shown = [
        found
        for row in rows
        if row is not None
        for name in ("accuracy", "latency_ms")
        if (found := row.find(name)) is not None
    ]
    return [f"taken at {where}" for where in words.wheres(shown)]


def _hanging(lines: list[str]) -> Table:
    """Lines whose second and later rows are indented."""
    drawn = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        drawn.add_row("-", Text(line))
    return drawn


def _grid(*headings: str) -> Table:
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        drawn.add_column(heading)
    return drawn
