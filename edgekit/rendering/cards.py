"""What the page shows of one target: its winner's figures, its gates, its candidates, its
pictures, all as plain values.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from edgekit.measurement import QUANTITIES, Measurement, MeasurementName, Verdict
from edgekit.rendering import formatting, summary
from edgekit.rendering.plots import Bar, Point, bars, scatter
from edgekit.rendering.formatting import NumberFormat
from edgekit.report import CandidateReport, GateReport, ShippedFile, TargetReport

#: The winner's numbers that stand in large type, and those in the table of all targets.
_FIGURES: tuple[MeasurementName, ...] = ("accuracy", "speedup", "latency_ms", "size_bytes")
GLANCE: tuple[MeasurementName, ...] = (
    "accuracy",
    "accuracy_drop",
    "speedup",
    "latency_ms",
    "size_bytes",
)
#: A picture: its title, the drawing, and what is said where there is nothing to draw.
Plot = tuple[str, Markup | None, str]
#: Name, class of the style sheet, candidate.
Named = Sequence[tuple[str, str, CandidateReport]]
Marks = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number as it is shown: text, interval, the mark of the place where it was taken,
    and whether it was taken at all.
    """

    text: str
    interval: str = ""
    mark: str = ""
    where: str = ""
    #: Where it was taken; empty for what is true of a file wherever it lies, such as its
    #: size.
    place: str = ""
    how: str = ""
    #: taken, unmeasured or absent.
    kind: str = "taken"


@dataclasses.dataclass(frozen=True)
class Row:
    """A candidate's line in the table. ``kind`` is a class of the style sheet."""

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
    """A gate's line. ``doubt`` fmt why it is not required."""

    heading: str
    limit: str
    cell: Cell
    verdict: Verdict
    doubt: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One measurement with everything that is known of it."""

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
    #: Place where numbers were taken -> its mark, empty where there is one place only.
    places: Marks
    warnings: tuple[tuple[str, str], ...]
    #: The diagnosis, the remedies, and what all of it cost.
    findings: tuple[str, ...]
    #: What is said of a device that was not there.
    foretold: tuple[str, ...]
    numbers: tuple[Line, ...]
    files: tuple[ShippedFile, ...]


def card(target: TargetReport, fmt: NumberFormat, anchor: str) -> Card:
    """Everything that is shown of one target."""
    winner, named = target.candidate(target.winner), _named(target)
    taken = [
        found
        for _, _, row in named
        for name in summary.COLUMNS
        if (found := summary.measured(row, name)) is not None
    ]
    places = summary.places(taken)
    marks = {
        where: _mark(index) if len(places) > 1 else "" for index, where in enumerate(places)
    }
    return Card(
        target=target,
        anchor=anchor,
        glance=tuple(cell(summary.measured(winner, name), fmt, {}) for name in GLANCE),
        figures=_figures(winner, target.reference, fmt) if winner is not None else (),
        gates=tuple(_gate(gate, fmt) for gate in target.gates),
        plots=_plots(named, fmt, target.name),
        rows=tuple(_row(row, kind, fmt, marks) for _, kind, row in named),
        places=marks,
        warnings=tuple(
            (name, warning) for name, _, row in named for warning in row.warnings
        ),
        foretold=tuple(summary.predictions(target, fmt)),
        findings=tuple(filter(None, (*summary.findings(target, fmt), summary.effort(target)))),
        numbers=tuple(
            _line(name, found, fmt) for name, _, row in named for found in row.measurements
        ),
        files=tuple(file for file in winner.artifact.files if file.path is not None)
        if winner is not None and winner.artifact is not None
        else (),
    )


def cell(measured: Measurement | GateReport | None, fmt: NumberFormat, marks: Marks) -> Cell:
    """A number as it is shown. What was not measured never looks like a number."""
    if measured is None:
        return Cell(text=formatting.NOT_TAKEN, kind="absent")
    ends = fmt.interval(measured)
    how = measured.how if isinstance(measured, Measurement) else ""
    if measured.value is None:
        return Cell(
            text=fmt.value(measured), where=measured.where, how=how, kind="unmeasured"
        )
    place = "" if QUANTITIES[measured.name].of_the_file else measured.where
    return Cell(
        fmt.value(measured),
        f"{ends[0]} to {ends[1]}" if ends else "",
        marks.get(place, ""),
        measured.where,
        place,
        how,
    )


def _line(name: str, found: Measurement, fmt: NumberFormat) -> Line:
    return Line(
        name,
        QUANTITIES[found.name].heading,
        cell(found, fmt, {}),
        "" if found.n is None else f"{found.n:,}",
    )


def _mark(index: int) -> str:
    """a, b, ... z, a2, b2, ..."""
    turn, letter = divmod(index, 26)
    return chr(ord("a") + letter) + (str(turn + 1) if turn else "")


def _named(target: TargetReport) -> Named:
    """The candidates, the winner first, and the reference last; each with its name in a
    picture and its class.
    """
    named = []
    for row in summary.sort_candidates(target):
        status = row.status
        named.append((row.scheme, "winner" if row.scheme == target.winner else status, row))
    return [
        *named,
        *(
            [("float before", "reference", target.reference)]
            if target.reference is not None
            else []
        ),
    ]


def _row(candidate: CandidateReport, kind: str, fmt: NumberFormat, marks: Marks) -> Row:
    status: str = candidate.status
    reason = candidate.reason
    if kind == "reference":
        reason = reason or "the network before pruning"
        status = "reference" if status == "raced" else status
    cells = tuple(cell(summary.shown(candidate, name), fmt, marks) for name in summary.COLUMNS)
    return Row(candidate.scheme, kind, status, reason, cells)


def _figures(
    winner: CandidateReport, reference: CandidateReport | None, fmt: NumberFormat
) -> tuple[Figure, ...]:
    lost = summary.measured(winner, "accuracy_drop")
    below: dict[MeasurementName, str] = {"speedup": "against float before pruning"}
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
    """Three pictures, two where nothing could be timed; none where no candidate became a
    file.
    """
    if all(
        kind == "reference" or summary.measured(row, "size_bytes") is None
        for _, kind, row in named
    ):
        return ()
    unmeasured = (
        row
        for _, _, row in named
        if (found := row.measurement("latency_ms")) is not None and found.value is None
    )
    why = next(
        (found.how for row in unmeasured if (found := row.measurement("latency_ms")) is not None),
        "no file was timed",
    )
    sizes = _bars(named, "size_bytes", fmt, target)
    points, times = _scatter(named, fmt, target), _bars(named, "latency_ms", fmt, target)
    if points is None and times is None:
        return (("Latency and speedup", None, why), ("Size of the files", sizes, ""))
    return (
        ("Accuracy against speedup", points, why),
        ("Latency of one sample", times, why),
        ("Size of the files", sizes, ""),
    )


def _scatter(named: Named, fmt: NumberFormat, target: str) -> Markup | None:
    """Accuracy against speedup; the reference is 1 by definition.

    None where nothing but the reference is known.
    """
    points, scale = [], 100 if fmt.share else 1
    for name, kind, row in named:
        accuracy, speedup = row.measurement("accuracy"), row.measurement("speedup")
        if accuracy is None or accuracy.value is None:
            continue
        ends = (1.0, 1.0, 1.0) if kind == "reference" else _ends(speedup)
        if ends is None:
            continue
        value, low, high = _ends(accuracy) or (accuracy.value,) * 3
        points.append(
            Point(
                name,
                _colour(kind),
                ends[0],
                scale * value,
                ends[1:],
                (scale * low, scale * high),
            )
        )
    if all(point.kind == "reference" for point in points):
        return None
    titles = (
        "speedup against float before pruning",
        "accuracy, %" if fmt.share else "accuracy",
    )
    return scatter(
        points, titles, f"Accuracy against speedup of {len(points)} files on {target}"
    )


def _bars(
    named: Named, measure: MeasurementName, fmt: NumberFormat, target: str
) -> Markup | None:
    drawn = []
    for name, kind, row in named:
        found = summary.measured(row, measure)
        ends = _ends(found)
        if found is not None and ends is not None:
            drawn.append(
                Bar(
                    name,
                    _colour(kind),
                    ends[0],
                    fmt.value(found),
                    ends[1:] if found.low is not None else None,
                )
            )
    return (
        bars(drawn, f"{QUANTITIES[measure].heading} of {len(drawn)} files on {target}")
        if drawn
        else None
    )


def _colour(kind: str) -> str:
    return kind if kind in ("winner", "raced", "reference") else "out"


def _ends(measured: Measurement | None) -> tuple[float, float, float] | None:
    """Value, low and high; None where it was not measured."""
    if measured is None or measured.value is None:
        return None
    return (
        measured.value,
        measured.value if measured.low is None else measured.low,
        measured.value if measured.high is None else measured.high,
    )
