"""Small plots as inline SVG: drawn here, so that the page needs no script and no library.

Colours come from the page's style sheet.
"""

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 500, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 16, 40
_BAR, _GAP, _BAR_LEFT, _BAR_RIGHT = 20, 10, 120, 90


@dataclasses.dataclass(frozen=True)
class Point:
    """One candidate: where it lies, its intervals, its name, and a class of the style sheet
    (winner, raced, out, reference).
    """

    name: str
    kind: str
    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Bar:
    """One candidate's number, with the text that tells it."""

    name: str
    kind: str
    value: float
    text: str
    ends: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class _Axis:
    """A range of values and the pixels that it is drawn on."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (
            self.end - self.start
        )


def scatter(points: Sequence[Point], titles: tuple[str, str], note: str) -> Markup:
    """Points with error bars; ``titles`` name the x and the y axis; ``note`` says what the
    picture shows, for who cannot see it.
    """
    x = _axis(
        [end for point in points for end in (*point.x_ends, point.x)],
        _LEFT,
        _WIDTH - _RIGHT,
    )
    y = _axis(
        [end for point in points for end in (*point.y_ends, point.y)],
        _HEIGHT - _BOTTOM,
        _TOP,
    )
    parts = [
        _frame(x, y),
        _axis_title(titles[0], _WIDTH - _RIGHT, _HEIGHT - 5, "end"),
        _axis_title(titles[1], 0, 9, "start"),
    ]
    parts += [_cross(point, x, y) for point in points]
    parts += [
        _label(point.name, point.kind, place)
        for point, place in zip(points, _label_places(points, x, y), strict=True)
    ]
    return _svg(_WIDTH, _HEIGHT, parts, note)


def bars(rows: Sequence[Bar], note: str) -> Markup:
    """Horizontal bars from zero, each with its name and its number."""
    height = len(rows) * (_BAR + _GAP) + 6
    most = max((max(row.value, *(row.ends or (0.0,))) for row in rows), default=0) or 1
    axis = _Axis(0, most, _BAR_LEFT, _WIDTH - _BAR_RIGHT)
    return _svg(
        _WIDTH,
        height,
        [_bar(row, axis, 4 + index * (_BAR + _GAP)) for index, row in enumerate(rows)],
        note,
    )


def _bar(row: Bar, axis: _Axis, top: float) -> Markup:
    middle, right = top + _BAR / 2, axis.at(row.value)
    parts = [
        Markup(
            '<text class="name {}" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
        ).format(row.kind, _BAR_LEFT - 8, middle + 4, _short(row.name)),
        Markup(
            '<rect class="bar {}" x="{}" y="{}" width="{:.1f}" height="{}" rx="2"/>'
        ).format(row.kind, _BAR_LEFT, top, max(1.5, right - _BAR_LEFT), _BAR),
    ]
    low, high = (axis.at(end) for end in row.ends or (row.value, row.value))
    if high - low > 4:
        parts.append(_line("whisker", (low, middle), (high, middle)))
        right = max(right, high)
    parts.append(
        Markup('<text class="number" x="{:.1f}" y="{:.1f}">{}</text>').format(
            right + 6, middle + 4, row.text
        )
    )
    return Markup("").join(parts)


def _cross(point: Point, x: _Axis, y: _Axis) -> Markup:
    """A point and its two error bars."""
    across, up = x.at(point.x), y.at(point.y)
    parts = [
        _line(
            f"error {point.kind}", (x.at(point.x_ends[0]), up), (x.at(point.x_ends[1]), up)
        ),
        _line(
            f"error {point.kind}",
            (across, y.at(point.y_ends[0])),
            (across, y.at(point.y_ends[1])),
        ),
        Markup('<circle class="point {}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            point.kind, across, up, 6 if point.kind == "winner" else 4.5
        ),
    ]
    return Markup("").join(parts)


def _label_places(
    points: Sequence[Point], x: _Axis, y: _Axis
) -> list[tuple[float, float, str]]:
    """A place for each name: above and beside its point, moved until it covers no other
    name and no point.
    """
    taken = [
        (x.at(point.x) - 7, y.at(point.y) - 7, x.at(point.x) + 7, y.at(point.y) + 7)
        for point in points
    ]
    places = []
    for point in points:
        across, up, width = x.at(point.x), y.at(point.y), 6.4 * len(_short(point.name))
        options = [
            (across + side * 9, up + rise, side)
            for rise in (-8, 16, -22, 30, -36, 44)
            for side in (1, -1)
        ]
        boxes = [
            (
                left if side > 0 else left - width,
                base - 10,
                left + width if side > 0 else left,
                base + 2,
            )
            for left, base, side in options
        ]
        free = [
            k
            for k, box in enumerate(boxes)
            if _inside(box) and not any(_overlap(box, other) for other in taken)
        ]
        best = (
            free[0] if free else next((k for k, box in enumerate(boxes) if _inside(box)), 0)
        )
        taken.append(boxes[best])
        left, base, side = options[best]
        places.append((left, base, "start" if side > 0 else "end"))
    return places


def _inside(box: tuple[float, float, float, float]) -> bool:
    return (
        box[0] >= _LEFT
        and box[2] <= _WIDTH
        and box[1] >= _TOP - 4
        and box[3] <= _HEIGHT - _BOTTOM
    )


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return (
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    )


def _label(name: str, kind: str, place: tuple[float, float, str]) -> Markup:
    return Markup(
        '<text class="name {}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    ).format(kind, *place, _short(name))


def _frame(x: _Axis, y: _Axis) -> Markup:
    """Grid lines and their numbers."""
    parts = []
    for value in _ticks(x):
        parts.append(_line("grid", (x.at(value), y.start), (x.at(value), y.end)))
        parts.append(
            Markup(
                '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
            ).format(x.at(value), _HEIGHT - _BOTTOM + 15, f"{value:g}")
        )
    for value in _ticks(y):
        parts.append(_line("grid", (x.start, y.at(value)), (x.end, y.at(value))))
        parts.append(
            Markup(
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(_LEFT - 7, y.at(value) + 4, f"{value:g}")
        )
    return Markup("").join(parts)


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    """The range of the values with some air at both ends."""
    low, high = min(values), max(values)
    air = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return _Axis(low - air, high + air, start, end)


def _ticks(axis: _Axis, wanted: int = 4) -> list[float]:
    """Round numbers inside the range: steps of 1, 2 or 5 times a power of ten."""
    rough = (axis.high - axis.low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(
        factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999
    )
    first = math.ceil(axis.low / step)
    return [round(k * step, 12) for k in range(first, math.floor(axis.high / step) + 1)]


def _axis_title(text: str, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    return Markup(
        '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    ).format(kind, *start, *end)


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(width: int, height: int, parts: Sequence[Markup], note: str) -> Markup:
    head = Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
    ).format(width, height, width, height, escape(note))
    return head + Markup("").join(parts) + Markup("</svg>")


def sparkline(values: Sequence[float]) -> Markup:
    """A line of how a number went, without axes."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    places = " ".join(
        f"{2 + 126 * k / (len(values) - 1):.1f},{27 - 24 * (value - low) / span:.1f}"
        for k, value in enumerate(values)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 130 30" role="img" aria-label="from {} to {}"><polyline points="{}"/></svg>'
    ).format(f"{values[0]:.3g}", f"{values[-1]:.3g}", places)
