"""The report as Markdown: for a pull request, a wiki, a README.

Everything that comes from outside is escaped.
"""

from collections.abc import Iterable, Sequence

from edgekit.measurement import QUANTITIES
from edgekit.rendering import elsewhere, formatting, summary
from edgekit.rendering.stages import facts
from edgekit.rendering.formatting import NumberFormat
from edgekit.report import CandidateReport, Report, StageReport, TargetReport

_MARKS = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\`*_[]|#~"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


class _Bold(str):
    """A cell in bold type."""

    __slots__ = ()


def markdown(report: Report) -> str:
    """The whole report as Markdown text."""
    fmt = summary.number_format(report)
    name, title = summary.heading(report)
    blocks = [
        f"# edgekit: {_safe(title or name)}",
        f"**Verdict: {report.verdict}.** {_safe(summary.summarize(report))}",
        _about(report),
    ]
    blocks += [_overview(report, fmt)]
    for target in report.targets:
        blocks += _target(target, fmt)
    blocks += [
        *_stages(report.stages, fmt),
        *_task(report),
        *_facts("Environment", formatting.flatten(report.environment)),
    ]
    blocks.append(
        "*[low, high] is the 95 % interval. pt: points of accuracy. unmeasured: it could not be taken. -: nobody tried to take it.*"
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def _about(report: Report) -> str:
    recipe = report.recipe
    facts = [
        ("recipe", summary.heading(report)[0]),
        ("model", recipe.get("model")),
        ("weights", recipe.get("weights")),
        ("task", recipe.get("task")),
        ("started", formatting.moment(report.started)),
        ("took", formatting.duration(report.seconds)),
        ("edgekit", report.edgekit),
    ]
    return ", ".join(f"{key}: {_safe(str(value))}" for key, value in facts if value)


def _overview(report: Report, fmt: NumberFormat) -> str:
    lines = []
    for target in report.targets:
        winner = target.candidate(target.winner)
        numbers = [
            fmt.bracketed(summary.measured(winner, name))
            for name in ("accuracy", "accuracy_drop", "speedup")
        ]
        lines.append(
            [
                target.name,
                _Bold(target.verdict),
                target.winner or "nothing",
                *numbers,
                fmt.value(summary.measured(winner, "size_bytes")),
            ]
        )
    return _table(
        ("target", "verdict", "ships", "accuracy", "accuracy lost", "speedup", "size"),
        lines,
    )


def _target(target: TargetReport, fmt: NumberFormat) -> list[str]:
    ships = f"ships {target.winner}" if target.winner else "ships nothing"
    head = f"## {_safe(target.name)}: {target.verdict}"
    blocks = [
        head,
        f"{_safe(target.title)} ({target.format}, {target.runtime}); {_safe(ships)}: {_safe(target.chosen)}.",
    ]
    blocks += [_bullets(f"**Note:** {_safe(note)}" for note in target.notes)]
    candidates = [*summary.sort_candidates(target)]
    lines = [
        _candidate(row, fmt, winner=row.scheme == target.winner) for row in candidates
    ]
    if target.reference is not None:
        lines.append(["before (float)", "reference", *_numbers(target.reference, fmt)])
    blocks.append(
        _table(
            (
                "scheme",
                "status",
                *(QUANTITIES[name].heading.lower() for name in summary.COLUMNS),
            ),
            lines,
        )
    )
    gates = [
        [
            gate.name,
            fmt.limit(gate),
            fmt.bracketed(gate),
            _Bold(gate.verdict),
            gate.where,
            "" if gate.required else f"not required: {gate.why}",
        ]
        for gate in target.gates
    ]
    if gates:
        blocks.append(_table(("gate", "asked", "found", "verdict", "where", ""), gates))
    if target.evidence:
        blocks.append("The shipped file on other hosts:")
        blocks.append(
            _table(
                elsewhere.COLUMNS,
                [
                    [host, _Bold(verdict), *cells]
                    for host, verdict, cells in elsewhere.rows(target, fmt)
                ],
            )
        )
    warnings = [
        f"{_safe(row.scheme)}: {_safe(warning)}"
        for row in candidates
        for warning in row.warnings
    ]
    findings = [
        *summary.findings(target, fmt),
        *filter(None, [summary.effort(target)]),
        *summary.predictions(target, fmt),
    ]
    blocks += [
        _bullets(warnings),
        _bullets(_safe(line) for line in findings),
        _where(target),
    ]
    return blocks


def _candidate(row: CandidateReport, fmt: NumberFormat, *, winner: bool) -> list[str]:
    return [_Bold(row.scheme) if winner else row.scheme, row.outcome, *_numbers(row, fmt)]


def _numbers(row: CandidateReport, fmt: NumberFormat) -> list[str]:
    return [fmt.bracketed(summary.shown(row, name)) for name in summary.COLUMNS]


def _where(target: TargetReport) -> str:
    """Where each kind of number was taken, one line a place."""
    taken: dict[str, list[str]] = {}
    for row in (target.reference, *target.candidates):
        for measured in row.measurements if row is not None else ():
            if measured.value is not None:
                taken.setdefault(measured.where, []).append(
                    QUANTITIES[measured.name].heading.lower()
                )
    return _bullets(
        f"Taken at *{_safe(where)}*: {', '.join(dict.fromkeys(names))}"
        for where, names in taken.items()
    )


def _stages(stages: Sequence[StageReport], fmt: NumberFormat) -> list[str]:
    if not stages:
        return []
    names = list(
        dict.fromkeys(measured.name for stage in stages for measured in stage.measurements)
    )
    lines = []
    for stage in stages:
        found = {measured.name: measured for measured in stage.measurements}
        notes = "; ".join(f"{key}: {text}" for key, text in facts(stage.notes, fmt))
        lines.append(
            [
                stage.name,
                stage.step,
                *(fmt.bracketed(found.get(name)) for name in names),
                notes,
            ]
        )
    return [
        "## Stages",
        _table(
            (
                "stage",
                "step",
                *(QUANTITIES[name].heading.lower() for name in names),
                "notes",
            ),
            lines,
        ),
    ]


def _task(report: Report) -> list[str]:
    splits = report.task.get("splits") or {}
    lines = [
        [name, str(split.get("samples")), str(split.get("sha256"))[:12]]
        if split
        else [name, "none", ""]
        for name, split in splits.items()
    ]
    facts = formatting.flatten(
        {key: value for key, value in report.task.items() if key != "splits"}
    )
    table = [_table(("split", "samples", "sha256"), lines)] if lines else []
    return [*_facts("Task", facts), *table]


def _facts(title: str, facts: Sequence[tuple[str, str]]) -> list[str]:
    return (
        [f"## {title}", _bullets(f"{_safe(key)}: {_safe(text)}" for key, text in facts)]
        if facts
        else []
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    return (
        "---"
        if text == "---"
        else f"**{_safe(text)}**"
        if isinstance(text, _Bold)
        else _safe(text)
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _safe(text: str) -> str:
    return text.translate(_MARKS)
