"""The report as Markdown: for a pull request, a wiki, a README.

All text from reports is escaped.
"""

from collections.abc import Iterable, Sequence

from edgekit.measurement import QUANTITIES, MeasurementName
from edgekit.rendering import elsewhere, formatting, summary
from edgekit.rendering.formatting import NumberFormat
from edgekit.rendering.stages import facts
from edgekit.report import CandidateReport, Report, StageReport, TargetReport

_MARKS = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\`*_[]|#~"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


class _Bold(str):
    """A cell in bold."""

    __slots__ = ()


def markdown(report: Report) -> str:
    """Draw a report as Markdown."""
    fmt = summary.number_format(report)
    name, title = summary.heading(report)
    blocks = [
        f"# edgekit: {_safe(title or name)}",
        f"**Verdict: {report.verdict}.** {_safe(summary.summarize(report))}",
        _about(report),
        _overview(report, fmt),
    ]
    for target in report.targets:
        blocks += _target(target, fmt)
    blocks += _stages(report.stages, fmt)
    blocks += _task(report)
    blocks += _facts("Environment", formatting.flatten(report.environment))
    blocks.append(
        "*[low, high] is the 95 % interval. pt: points of accuracy. "
        "unmeasured: it could not be measured. -: it was not attempted.*"
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def _about(report: Report) -> str:
    recipe = report.recipe
    pairs = [
        ("recipe", summary.heading(report)[0]),
        ("model", recipe.get("model")),
        ("weights", recipe.get("weights")),
        ("task", recipe.get("task")),
        ("started", formatting.moment(report.started)),
        ("took", formatting.duration(report.seconds)),
        ("edgekit", report.edgekit),
    ]
    return ", ".join(
        f"{key}: {_safe(str(value))}" for key, value in pairs if value
    )


def _overview(report: Report, fmt: NumberFormat) -> str:
    lines = []
    for target in report.targets:
        winner = target.candidate(target.winner)
        cells = [target.name, _Bold(target.verdict), target.winner or "nothing"]
        for name in ("accuracy", "accuracy_drop", "speedup"):
            cells.append(fmt.bracketed(summary.measured(winner, name)))
        cells.append(fmt.value(summary.measured(winner, "size_bytes")))
        lines.append(cells)
    headings = (
        "target",
        "verdict",
        "ships",
        "accuracy",
        "accuracy lost",
        "speedup",
        "size",
    )
    return _table(headings, lines)


def _target(target: TargetReport, fmt: NumberFormat) -> list[str]:
    ships = f"ships {target.winner}" if target.winner else "ships nothing"
    findings = [*summary.findings(target, fmt), summary.effort(target)]
    findings += summary.predictions(target, fmt)
    return [
        f"## {_safe(target.name)}: {target.verdict}",
        f"{_safe(target.title)} ({target.format}, {target.runtime}); "
        f"{_safe(ships)}: {_safe(target.chosen)}.",
        _bullets(f"**Note:** {_safe(note)}" for note in target.notes),
        _candidates(target, fmt),
        _gates(target, fmt),
        *_elsewhere(target, fmt),
        _bullets(_warnings(target)),
        _bullets(_safe(line) for line in findings if line),
        _places(target),
    ]


def _candidates(target: TargetReport, fmt: NumberFormat) -> str:
    lines = []
    for row in summary.sort_candidates(target):
        is_winner = row.scheme == target.winner
        scheme = _Bold(row.scheme) if is_winner else row.scheme
        lines.append([scheme, row.outcome, *_numbers(row, fmt)])
    if target.reference is not None:
        lines.append(
            ["before (float)", "reference", *_numbers(target.reference, fmt)]
        )
    return _table(("scheme", "status", *_headings(summary.COLUMNS)), lines)


def _numbers(row: CandidateReport, fmt: NumberFormat) -> list[str]:
    return [fmt.bracketed(summary.shown(row, name)) for name in summary.COLUMNS]


def _headings(names: Iterable[MeasurementName]) -> list[str]:
    return [QUANTITIES[name].heading.lower() for name in names]


def _gates(target: TargetReport, fmt: NumberFormat) -> str:
    if not target.gates:
        return ""
    lines = []
    for gate in target.gates:
        note = "" if gate.required else f"not required: {gate.why}"
        verdict = _Bold(gate.verdict)
        lines.append(
            [
                gate.name,
                fmt.limit(gate),
                fmt.bracketed(gate),
                verdict,
                gate.where,
                note,
            ]
        )
    return _table(("gate", "limit", "measured", "verdict", "where", ""), lines)


def _elsewhere(target: TargetReport, fmt: NumberFormat) -> list[str]:
    if not target.evidence:
        return []
    lines = [
        [host, _Bold(verdict), *cells]
        for host, verdict, cells in elsewhere.rows(target, fmt)
    ]
    return [
        "The shipped file on other hosts:",
        _table(elsewhere.COLUMNS, lines),
    ]


def _warnings(target: TargetReport) -> list[str]:
    return [
        f"{_safe(row.scheme)}: {_safe(warning)}"
        for row in summary.sort_candidates(target)
        for warning in row.warnings
    ]


def _places(target: TargetReport) -> str:
    """Where each kind of number was measured, one line per place."""
    headings: dict[str, list[str]] = {}
    for row in (target.reference, *target.candidates):
        for measured in row.measurements if row is not None else ():
            if measured.value is not None:
                heading = QUANTITIES[measured.name].heading.lower()
                headings.setdefault(measured.where, []).append(heading)
    return _bullets(
        f"Measured at *{_safe(where)}*: {', '.join(dict.fromkeys(names))}"
        for where, names in headings.items()
    )


def _stages(stages: Sequence[StageReport], fmt: NumberFormat) -> list[str]:
    if not stages:
        return []
    measured = [row.name for stage in stages for row in stage.measurements]
    names = list(dict.fromkeys(measured))
    lines = []
    for stage in stages:
        rows = {row.name: row for row in stage.measurements}
        cells = [fmt.bracketed(rows.get(name)) for name in names]
        notes = "; ".join(
            f"{key}: {text}" for key, text in facts(stage.notes, fmt)
        )
        lines.append([stage.name, stage.step, *cells, notes])
    return [
        "## Stages",
        _table(("stage", "step", *_headings(names), "notes"), lines),
    ]


def _task(report: Report) -> list[str]:
    lines = []
    for name, split in (report.task.get("splits") or {}).items():
        cells = ["none", ""]
        if split:
            cells = [str(split.get("samples")), str(split.get("sha256"))[:12]]
        lines.append([name, *cells])
    notes = {
        key: value for key, value in report.task.items() if key != "splits"
    }
    blocks = _facts("Task", formatting.flatten(notes))
    if lines:
        blocks.append(_table(("split", "samples", "sha256"), lines))
    return blocks


def _facts(title: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    if not pairs:
        return []
    return [
        f"## {title}",
        _bullets(f"{_safe(key)}: {_safe(text)}" for key, text in pairs),
    ]


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(
        "| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows
    )


def _cell(text: str) -> str:
    if text == "---":
        return text
    return f"**{_safe(text)}**" if isinstance(text, _Bold) else _safe(text)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _safe(text: str) -> str:
    return text.translate(_MARKS)
