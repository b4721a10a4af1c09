"""What the HTML page shows of one target, as plain values.

The figures of its winner, its gates, candidates and plots.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from edgekit.measurement import (
    QUANTITIES,
    Measurement,
    MeasurementName,
    Verdict,
)
from edgekit.rendering import formatting, summary
from edgekit.rendering.formatting import NumberFormat
from edgekit.rendering.plots import Bar, Point, bars, scatter
from edgekit.report import (
    CandidateReport,
    GateReport,
    ShippedFile,
    TargetReport,
)

#: The winner's numbers in large type, and those in the table of all targets.
_FIGURES: tuple[MeasurementName, ...] = (
    "accuracy",
    "speedup",
    "latency_ms",
    "size_bytes",
)
GLANCE: tuple[MeasurementName, ...] = (
    "accuracy",
    "accuracy_drop",
    "speedup",
    "latency_ms",
    "size_bytes",
)
#: A plot: its title, the drawing, and the reason if there is nothing to draw.
Plot = tuple[str, Markup | None, str]
#: Name, class in the style sheet, candidate.
Named = Sequence[tuple[str, str, CandidateReport]]
Marks = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number: text, interval, and the mark of the place where it was measured."""

    text: str
    interval: str = ""
    mark: str = ""
    where: str = ""
    #: Where it was measured; empty for properties of the file, such as its size.
    place: str = ""
    how: str = ""
    #: taken, unmeasured or absent.
    kind: str = "taken"


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate's line in the table. ``kind`` is a class in the style sheet."""

    scheme: str
    kind: str
    status: str
    reason: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number in large type, with a second line."""

    heading: str
    cell: Cell
    below: str


@dataclasses.dataclass(frozen=True)
class Gate:
    """A gate's line. ``doubt`` is why it is not required."""

    heading: str
    limit: str
    cell: Cell
    verdict: Verdict
    doubt: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One measurement with all its details."""

    scheme: str
    heading: str
    cell: Cell
    samples: str


@dataclasses.dataclass(frozen=True)
class Card:
    """Everything that is shown of one target."""

    target: TargetReport
    anchor: str
    glance: tuple[Cell, ...]
    figures: tuple[Figure, ...]
    gates: tuple[Gate, ...]
    plots: tuple[Plot, ...]
    rows: tuple[Row, ...]
    #: Place where numbers were measured -> its mark; empty if there is only one place.
    places: Marks
    warnings: tuple[tuple[str, str], ...]
    #: The diagnosis, the remedies, and what all of it cost.
    findings: tuple[str, ...]
    #: Predictions for a device that was not available.
    predictions: tuple[str, ...]
    numbers: tuple[Line, ...]
    files: tuple[ShippedFile, ...]


def card(target: TargetReport, fmt: NumberFormat, anchor: str) -> Card:
    """Collect everything that is shown of one target."""
    winner = target.candidate(target.winner)
    named = _named(target)
    marks = _marks(named)
    figures: tuple[Figure, ...] = ()
    files: tuple[ShippedFile, ...] = ()
    if winner is not None:
        figures = _figures(winner, target.reference, fmt)
        if winner.artifact is not None:
            files = tuple(
                file for file in winner.artifact.files if file.path is not None
            )
    warnings = []
    numbers = []
    for name, _, row in named:
        warnings += [(name, warning) for warning in row.warnings]
        numbers += [
            _line(name, measurement, fmt) for measurement in row.measurements
        ]
    findings = [*summary.findings(target, fmt), summary.effort(target)]
    glance = [cell(summary.measured(winner, name), fmt, {}) for name in GLANCE]
    return Card(
        target=target,
        anchor=anchor,
        glance=tuple(glance),
        figures=figures,
        gates=tuple(_gate(gate, fmt) for gate in target.gates),
        plots=_plots(named, fmt, target.name),
        rows=tuple(_row(row, kind, fmt, marks) for _, kind, row in named),
        places=marks,
        warnings=tuple(warnings),
        findings=tuple(line for line in findings if line),
        predictions=tuple(summary.predictions(target, fmt)),
        numbers=tuple(numbers),
        files=files,
    )


def _marks(named: Named) -> Marks:
    """Assign a mark to every place where numbers of the table were measured."""
    measured = [
        summary.measured(row, name)
        for _, _, row in named
        for name in summary.COLUMNS
    ]
    places = summary.places([row for row in measured if row is not None])
    if len(places) == 1:
        return {places[0]: ""}
    return {where: _mark(index) for index, where in enumerate(places)}


def cell(
    measured: Measurement | GateReport | None, fmt: NumberFormat, marks: Marks
) -> Cell:
    """Format a number. One that was not measured never looks like a number."""
    if measured is None:
        return Cell(text=formatting.NOT_TAKEN, kind="absent")
    ends = fmt.interval(measured)
    how = measured.how if isinstance(measured, Measurement) else ""
    if measured.value is None:
        return Cell(
            text=fmt.value(measured),
            where=measured.where,
            how=how,
            kind="unmeasured",
        )
    place = "" if QUANTITIES[measured.name].of_the_file else measured.where
    return Cell(
        text=fmt.value(measured),
        interval=f"{ends[0]} to {ends[1]}" if ends else "",
        mark=marks.get(place, ""),
        where=measured.where,
        place=place,
        how=how,
    )


def _line(scheme: str, measured: Measurement, fmt: NumberFormat) -> Line:
    samples = "" if measured.n is None else f"{measured.n:,}"
    heading = QUANTITIES[measured.name].heading
    return Line(scheme, heading, cell(measured, fmt, {}), samples)


def _mark(index: int) -> str:
    """a, b, ... z, a2, b2, ..."""
    turn, letter = divmod(index, 26)
    return chr(ord("a") + letter) + (str(turn + 1) if turn else "")


def _named(target: TargetReport) -> Named:
    """The candidates, the winner first, and the reference last."""
    named: list[tuple[str, str, CandidateReport]] = []
    for row in summary.sort_candidates(target):
        kind = "winner" if row.scheme == target.winner else row.status
        named.append((row.scheme, kind, row))
    if target.reference is not None:
        named.append(("float before", "reference", target.reference))
    return named


def _row(
    candidate: CandidateReport, kind: str, fmt: NumberFormat, marks: Marks
) -> Row:
    status: str = candidate.status
    reason = candidate.reason
    if kind == "reference":
        reason = reason or "the network before pruning"
        status = "reference" if status == "raced" else status
    cells = tuple(
        cell(summary.shown(candidate, name), fmt, marks)
        for name in summary.COLUMNS
    )
    return Row(candidate.scheme, kind, status, reason, cells)


def _figures(
    winner: CandidateReport,
    reference: CandidateReport | None,
    fmt: NumberFormat,
) -> tuple[Figure, ...]:
    lost = summary.measured(winner, "accuracy_drop")
    below: dict[MeasurementName, str] = {
        "speedup": "relative to float before pruning"
    }
    if lost is not None:
        below["accuracy"] = f"lost {fmt.bracketed(lost)}"
    for name in ("latency_ms", "size_bytes"):
        before = summary.measured(reference, name)
        if before is not None and before.value is not None:
            below[name] = f"float before: {fmt.value(before)}"
    return tuple(
        Figure(
            QUANTITIES[name].heading,
            cell(summary.measured(winner, name), fmt, {}),
            below.get(name, ""),
        )
        for name in _FIGURES
    )


def _gate(gate: GateReport, fmt: NumberFormat) -> Gate:
    return Gate(
        QUANTITIES[gate.name].heading,
        fmt.limit(gate),
        cell(gate, fmt, {}),
        gate.verdict,
        "" if gate.required else gate.why or "no reason given",
    )


def _plots(named: Named, fmt: NumberFormat, target: str) -> tuple[Plot, ...]:
    """Three plots, two if nothing could be timed, none if no candidate became a file."""
    candidates = [row for _, kind, row in named if kind != "reference"]
    if all(summary.measured(row, "size_bytes") is None for row in candidates):
        return ()
    reason = "no file was timed"
    for _, _, row in reversed(named):
        latency = row.measurement("latency_ms")
        if latency is not None and latency.value is None:
            reason = latency.how
    sizes = _bars(named, "size_bytes", fmt, target)
    times = _bars(named, "latency_ms", fmt, target)
    points = _scatter(named, fmt, target)
    if points is None and times is None:
        return (
            ("Latency and speedup", None, reason),
            ("Size of the files", sizes, ""),
        )
    return (
        ("Accuracy against speedup", points, reason),
        ("Latency of one sample", times, reason),
        ("Size of the files", sizes, ""),
    )


def _scatter(named: Named, fmt: NumberFormat, target: str) -> Markup | None:
    """Accuracy against speedup; the speedup of the reference is 1 by definition.

    None if only the reference was measured.
    """
    scale = 100 if fmt.share else 1
    points = []
    for name, kind, row in named:
        accuracy = _ends(row.measurement("accuracy"))
        speedup = _ends(row.measurement("speedup"))
        if kind == "reference":
            speedup = (1.0, 1.0, 1.0)
        if accuracy is None or speedup is None:
            continue
        value, low, high = (scale * end for end in accuracy)
        points.append(
            Point(
                name, _style(kind), speedup[0], value, speedup[1:], (low, high)
            )
        )
    if all(point.kind == "reference" for point in points):
        return None
    axes = ("speedup relative to float before pruning", "accuracy")
    if fmt.share:
        axes = (axes[0], "accuracy, %")
    note = f"Accuracy against speedup of {len(points)} files on {target}"
    return scatter(points, axes, note)


def _bars(
    named: Named, name: MeasurementName, fmt: NumberFormat, target: str
) -> Markup | None:
    """One bar per file that was measured; None if there are none."""
    rows = []
    for label, kind, candidate in named:
        measured = summary.measured(candidate, name)
        ends = _ends(measured)
        if measured is None or ends is None:
            continue
        interval = None if measured.low is None else ends[1:]
        rows.append(
            Bar(label, _style(kind), ends[0], fmt.value(measured), interval)
        )
    if not rows:
        return None
    return bars(
        rows, f"{QUANTITIES[name].heading} of {len(rows)} files on {target}"
    )


def _style(kind: str) -> str:
    """The class of a candidate's marks in the style sheet."""
    return kind if kind in ("winner", "raced", "reference") else "out"


def _ends(measured: Measurement | None) -> tuple[float, float, float] | None:
    """Value, low and high; None if it was not measured."""
    if measured is None or measured.value is None:
        return None
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    return measured.value, low, high
