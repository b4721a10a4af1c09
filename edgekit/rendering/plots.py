"""Small plots as inline SVG, so that the page needs no script and no library.

Colours are defined in the style sheet of the page.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 500, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 16, 40
_BAR, _GAP, _BAR_LEFT, _BAR_RIGHT = 20, 10, 148, 90

#: Left, top, right, bottom in pixels.
Box: TypeAlias = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Point:
    """One candidate: its name, position and intervals.

    ``kind`` is a class in the style sheet: winner, raced, out, reference.
    """

    name: str
    kind: str
    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Bar:
    """One candidate's number, and its text."""

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
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def scatter(
    points: Sequence[Point], titles: tuple[str, str], note: str
) -> Markup:
    """Draw points with error bars.

    ``titles`` are those of the x and the y axis; ``note`` describes the plot for screen readers.
    """
    across = [end for point in points for end in (*point.x_ends, point.x)]
    upward = [end for point in points for end in (*point.y_ends, point.y)]
    x = _axis(across, _LEFT, _WIDTH - _RIGHT)
    y = _axis(upward, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _frame(x, y),
        _axis_title(titles[0], _WIDTH - _RIGHT, _HEIGHT - 5, "end"),
        _axis_title(titles[1], 0, 9, "start"),
    ]
    parts += [_cross(point, x, y) for point in points]
    for point, place in zip(points, _label_places(points, x, y), strict=True):
        parts.append(_label(point.name, point.kind, place))
    return _svg(_WIDTH, _HEIGHT, parts, note)


def bars(rows: Sequence[Bar], note: str) -> Markup:
    """Draw horizontal bars from zero, each with its name and its number."""
    height = len(rows) * (_BAR + _GAP) + 6
    largest = (
        max((max(row.value, *(row.ends or (0.0,))) for row in rows), default=0)
        or 1
    )
    axis = _Axis(0, largest, _BAR_LEFT, _WIDTH - _BAR_RIGHT)
    parts = [
        _bar(row, axis, 4 + index * (_BAR + _GAP))
        for index, row in enumerate(rows)
    ]
    return _svg(_WIDTH, height, parts, note)


def _bar(row: Bar, axis: _Axis, top: float) -> Markup:
    middle = top + _BAR / 2
    right = axis.at(row.value)
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
    across = x.at(point.x)
    up = y.at(point.y)
    left, right = (x.at(end) for end in point.x_ends)
    bottom, top = (y.at(end) for end in point.y_ends)
    radius = 6 if point.kind == "winner" else 4.5
    circle = Markup('<circle class="point {}" cx="{:.1f}" cy="{:.1f}" r="{}"/>')
    parts = [
        _line(f"error {point.kind}", (left, up), (right, up)),
        _line(f"error {point.kind}", (across, bottom), (across, top)),
        circle.format(point.kind, across, up, radius),
    ]
    return Markup("").join(parts)


def _label_places(
    points: Sequence[Point], x: _Axis, y: _Axis
) -> list[tuple[float, float, str]]:
    """Place each name above and next to its point, without covering other names or points.

    Returns:
        x, y and text anchor of each name.
    """
    taken = []
    for point in points:
        across, up = x.at(point.x), y.at(point.y)
        taken.append((across - 7, up - 7, across + 7, up + 7))
    places = []
    for point in points:
        width = 6.4 * len(_short(point.name))
        options = _label_options(x.at(point.x), y.at(point.y), width)
        inside = [option for option in options if _inside(option[1])]
        free = [
            option
            for option in inside
            if not any(_overlap(option[1], box) for box in taken)
        ]
        place, box = (free or inside or options)[0]
        taken.append(box)
        places.append(place)
    return places


def _label_options(
    across: float, up: float, width: float
) -> list[tuple[tuple[float, float, str], Box]]:
    """Places for a name near its point, the preferred first, each with the box it covers."""
    options = []
    for rise in (-8, 16, -22, 30, -36, 44):
        base = up + rise
        right, left = across + 9, across - 9
        options.append(
            (
                (right, base, "start"),
                (right, base - 10, right + width, base + 2),
            )
        )
        options.append(
            ((left, base, "end"), (left - width, base - 10, left, base + 2))
        )
    return options


def _inside(box: Box) -> bool:
    left, top, right, bottom = box
    fits_across = left >= _LEFT and right <= _WIDTH
    return fits_across and top >= _TOP - 4 and bottom <= _HEIGHT - _BOTTOM


def _overlap(one: Box, other: Box) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]


def _label(name: str, kind: str, place: tuple[float, float, str]) -> Markup:
    return Markup(
        '<text class="name {}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    ).format(kind, *place, _short(name))


def _frame(x: _Axis, y: _Axis) -> Markup:
    """Grid lines and their numbers."""
    parts = []
    for value in _ticks(x):
        parts.append(
            _line("grid", (x.at(value), y.start), (x.at(value), y.end))
        )
        parts.append(
            Markup(
                '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
            ).format(x.at(value), _HEIGHT - _BOTTOM + 15, f"{value:g}")
        )
    for value in _ticks(y):
        parts.append(
            _line("grid", (x.start, y.at(value)), (x.end, y.at(value)))
        )
        parts.append(
            Markup(
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(_LEFT - 7, y.at(value) + 4, f"{value:g}")
        )
    return Markup("").join(parts)


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    """The range of the values with a margin at both ends."""
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return _Axis(low - margin, high + margin, start, end)


def _ticks(axis: _Axis) -> list[float]:
    """Round numbers inside the range, at least three of them.

    The steps are 1, 2 or 5 times a power of ten; the largest with three of them is used.
    """
    power = 10.0 ** math.floor(math.log10(axis.high - axis.low))
    ticks: list[float] = []
    for factor in (1, 0.5, 0.2, 0.1):
        step = factor * power
        first = math.ceil(axis.low / step)
        last = math.floor(axis.high / step)
        ticks = [round(k * step, 12) for k in range(first, last + 1)]
        if len(ticks) >= 3:
            break
    return ticks


def _axis_title(text: str, x: float, y: float, anchor: str) -> Markup:
    return Markup(
        '<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(x, y, anchor, text)


def _line(
    kind: str, start: tuple[float, float], end: tuple[float, float]
) -> Markup:
    return Markup(
        '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    ).format(kind, *start, *end)


def _short(name: str, limit: int = 19) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _svg(width: int, height: int, parts: Sequence[Markup], note: str) -> Markup:
    head = Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
    ).format(width, height, width, height, escape(note))
    return head + Markup("").join(parts) + Markup("</svg>")


def sparkline(values: Sequence[float]) -> Markup:
    """Draw the course of a number as a line without axes."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    places = " ".join(
        f"{2 + 126 * k / (len(values) - 1):.1f},{27 - 24 * (value - low) / span:.1f}"
        for k, value in enumerate(values)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 130 30" role="img" aria-label="from {} to {}">'
        '<polyline points="{}"/></svg>'
    ).format(f"{values[0]:.3g}", f"{values[-1]:.3g}", places)
