"""The bench's judgement on hand-made rows: who is a rival, what counts as slower, and what
edgekit aims at.
"""

import pytest

from bench.judgement import accuracy, judge, speed
from bench.networks import Goals
from bench.results import Row


def row(
    name: str,
    drop: float,
    ratio: float,
    *,
    kind: str = "peer",
    over: float | None = None,
    noise: float = 0.002,
) -> Row:
    """A file that loses ``drop`` and takes ``ratio`` of float; the winner takes ``over`` of
    it, give or take 1 %.
    """
    return Row(
        name=name,
        kind=kind,
        bytes=20_000_000,
        score=1 - drop,
        drop=(drop, drop - noise, drop + noise),
        latency_ms=(ratio, ratio, ratio),
        ratio=(ratio, ratio * 0.99, ratio * 1.01),
        winner_ratio=None if over is None else (over, over * 0.99, over * 1.01),
    )


def held(rows: list[Row], goals: Goals | None = None) -> dict[str, bool]:
    """What holds, by name."""
    return {judged.what: judged.holds for judged in judge(rows, goals)}


def test_a_winner_that_is_as_good_as_its_peers_holds() -> None:
    """As accurate and as fast as the best peer, within the noise, is enough."""
    rows = [
        row("float", 0, 1, kind="float", over=0.5),
        row("peer", 0.001, 0.5, over=1.005),
        row("edgekit w8a8", 0.002, 0.5, kind="edgekit"),
    ]
    assert held(rows) == {"accuracy": True, "speed": True}


def test_a_winner_that_loses_more_than_the_best_peer_and_its_noise_does_not_hold() -> (
    None
):
    """The limit is the best peer's drop and half the width of its interval, not the worst
    peer's drop.
    """
    rows = [
        row("good", 0.001, 0.9, over=0.5),
        row("bad", 0.05, 0.4, over=1.2),
        row("edgekit w8a8", 0.004, 0.45, kind="edgekit"),
    ]
    assert held(rows)["accuracy"] is False
    assert accuracy((0.003, 0.0, 0.006), rows[:2]).holds


def test_a_fast_peer_that_loses_too_much_is_no_rival_in_speed() -> None:
    """Only files within 1 point of float are rivals; then a slower winner holds, and
    without the loss it does not.
    """
    for lost, holds in ((0.05, True), (0.009, False)):
        rows = [
            row("float", 0, 1, kind="float", over=0.5),
            row("fast", lost, 0.3, over=1.6),
            row("edgekit w8a8", 0.001, 0.5, kind="edgekit"),
        ]
        assert held(rows)["speed"] is holds


def test_a_winner_slower_than_float_does_not_hold() -> None:
    """The float file is a rival too."""
    judged = speed([row("float", 0, 1, kind="float", over=1.3)])
    assert not judged.holds
    assert "float" in judged.reason


def test_no_winner_is_one_judgement_with_the_reason() -> None:
    """Where edgekit gave no file nothing else is judged."""
    (judged,) = judge(
        [
            row("float", 0, 1, kind="float"),
            Row(name="edgekit", kind="edgekit", error="no candidate holds"),
        ],
        Goals(latency=0.5),
    )
    assert (judged.holds, judged.reason) == (False, "no candidate holds")
    assert not judge([row("float", 0, 1, kind="float")], None)[0].holds


@pytest.mark.parametrize(
    ("goals", "what"),
    [
        (Goals(latency=0.4), "goal for speed"),
        (Goals(latency=0.6, score=0.999), "goal for score"),
        (Goals(latency=0.6, drop=0.001), "goal for accuracy"),
        (Goals(latency=0.6, megabytes=19), "goal for size"),
    ],
)
def test_each_goal_can_fail(goals: Goals, what: str) -> None:
    """A winner at 0.5x that loses 0.2 points in 20 MB fails just the number that asks for
    more.
    """
    found = held(
        [
            row("peer", 0.002, 0.6, over=0.9),
            row("edgekit w8a8", 0.002, 0.5, kind="edgekit"),
        ],
        goals,
    )
    assert [name for name, holds in found.items() if not holds] == [what]
