"""Pictures drawn by hand."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.rendering.plots import Bar, Point, bars, scatter, sparkline

NUMBERS = st.floats(min_value=-1e6, max_value=1e6)


def point(name: str, x: float, y: float) -> Point:
    return Point(name, "raced", x, y, (x - 0.1, x + 0.1), (y - 1, y + 1))


def test_a_scatter_shows_every_point_with_its_name() -> None:
    """One circle and two error bars for each point; the plot is valid XML."""
    drawn = ET.fromstring(
        scatter(
            [point("a", 1, 98), point("b", 2, 99)],
            ("speed", "accuracy"),
            "two files",
        )
    )
    assert len(drawn.findall("circle")) == 2
    assert (
        len(
            [
                line
                for line in drawn.findall("line")
                if line.get("class", "").startswith("error")
            ]
        )
        == 4
    )
    assert {"a", "b", "speed", "accuracy"} <= {
        text.text for text in drawn.findall("text")
    }
    assert drawn.get("aria-label") == "two files"


def test_better_is_right_and_up() -> None:
    """A faster file is further right, a more accurate one higher."""
    first, second = ET.fromstring(
        scatter([point("a", 1, 98), point("b", 2, 99)], ("x", "y"), "")
    ).findall("circle")
    assert float(first.get("cx", 0)) < float(second.get("cx", 0))
    assert float(first.get("cy", 0)) > float(second.get("cy", 0))


@pytest.mark.parametrize("fastest", [1.001, 1.3, 2, 3, 8, 9.2, 10, 47, 1000])
def test_an_axis_has_three_to_eight_numbers(fastest: float) -> None:
    """Enough to read a value off the plot, whatever the range."""
    drawn = ET.fromstring(
        scatter([point("a", 1, 98), point("b", fastest, 99)], ("x", "y"), "")
    )
    ticks = [row for row in drawn.findall("text") if row.get("class") == "tick"]
    for anchor in ("middle", "end"):
        axis = [row for row in ticks if row.get("text-anchor") == anchor]
        assert 3 <= len(axis) <= 8


def test_names_do_not_cover_each_other() -> None:
    """Points close together get their names in different places."""
    drawn = ET.fromstring(
        scatter(
            [
                point(name, 1 + k / 1000, 98)
                for k, name in enumerate(("alpha", "bravo", "charlie"))
            ],
            ("x", "y"),
            "",
        )
    )
    places = [
        (text.get("x"), text.get("y"))
        for text in drawn.findall("text")
        if text.text in ("alpha", "bravo", "charlie")
    ]
    assert len(set(places)) == 3


def test_bars_are_as_long_as_their_numbers() -> None:
    """Lengths are in proportion, from zero."""
    drawn = ET.fromstring(
        bars(
            [Bar("a", "winner", 1, "1"), Bar("b", "raced", 4, "4", (3, 4))], ""
        )
    )
    short, long = (
        float(rect.get("width", 0)) for rect in drawn.findall("rect")
    )
    assert abs(long / short - 4) < 0.1


def test_names_are_escaped() -> None:
    """A name cannot bring tags or attributes."""
    evil = '"><script>x</script>'
    for drawn in (
        scatter([point(evil, 1, 1)], (evil, evil), evil),
        bars([Bar(evil, "raced", 1, evil)], evil),
    ):
        assert "<script" not in drawn
        ET.fromstring(drawn)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_any_numbers_can_be_drawn(values: list[tuple[float, float]]) -> None:
    """No set of finite numbers breaks a picture or leaves its frame."""
    for text in (
        scatter([point("n", x, y) for x, y in values], ("x", "y"), ""),
        sparkline([x for x, _ in values] + [0.0]),
    ):
        ET.fromstring(text)
        assert not re.search(r"nan|inf", text)
    drawn = ET.fromstring(
        scatter([point("n", x, y) for x, y in values], ("x", "y"), "")
    )
    assert all(
        0 <= float(circle.get("cx", -1)) <= 500
        and 0 <= float(circle.get("cy", -1)) <= 300
        for circle in drawn.findall("circle")
    )


def test_bars_of_zero_can_be_drawn() -> None:
    """Nothing divides by the longest bar where it is zero, or by none at all."""
    ET.fromstring(bars([Bar("a", "raced", 0, "0")], ""))
    ET.fromstring(bars([], ""))
