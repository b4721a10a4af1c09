"""Does edgekit's winner hold against its peers, and does it reach its goals? Pure:
from rows to judgements.
"""

from collections.abc import Iterator, Sequence

from bench.networks import Goals
from bench.results import Interval, Judgement, Row

#: A peer that loses more of its score than this is no rival in speed.
LOSES = 0.01
MEGA = 1e6


def judge(rows: Sequence[Row], goals: Goals | None) -> tuple[Judgement, ...]:
    """All judgements of one network in one runtime."""
    winner = next((row for row in rows if row.kind == "edgekit"), None)
    if (
        winner is None
        or winner.drop is None
        or winner.ratio is None
        or winner.score is None
    ):
        why = (
            "there is no row of edgekit"
            if winner is None
            else winner.error or "it was not measured"
        )
        return (Judgement(what="a winner", holds=False, reason=why),)
    rivals = [row for row in rows if row.kind != "edgekit" and row.timed]
    judgements = [
        accuracy(winner.drop, [row for row in rivals if row.kind == "peer"]),
        speed(rivals),
    ]
    if goals is not None:
        judgements.extend(judge_goals(winner, goals))
    return tuple(judgements)


def accuracy(drop: Interval, peers: Sequence[Row]) -> Judgement:
    """The winner loses at most what the best peer loses, and half the width of that peer's
    interval more.
    """
    drops = [(row.drop, row.name) for row in peers if row.drop is not None]
    if not drops:
        return Judgement(
            what="accuracy", holds=True, reason="no peer has a file that runs"
        )
    best, name = min(drops, key=lambda pair: pair[0][0])
    limit = best[0] + (best[2] - best[1]) / 2
    reason = (
        f"loses {points(drop[0])}; the best peer ({name}) {points(best[0])}, "
        f"with its noise {points(limit)}"
    )
    return Judgement(what="accuracy", holds=drop[0] <= limit, reason=reason)


def speed(rivals: Sequence[Row]) -> Judgement:
    """The winner is not clearly slower than the fastest file that holds; the float file
    counts as one.
    """
    holding = [
        (row.ratio, row)
        for row in rivals
        if row.ratio is not None
        and row.drop is not None
        and row.drop[0] <= LOSES
    ]
    if not holding:
        return Judgement(
            what="speed",
            holds=True,
            reason="no other file holds within 1 point",
        )
    _, fastest = min(holding, key=lambda pair: pair[0][0])
    ratio = fastest.winner_ratio
    if ratio is None:
        return Judgement(
            what="speed", holds=False, reason=f"not timed with {fastest.name}"
        )
    reason = (
        f"{ratio[0]:.3f}x ({ratio[1]:.3f} to {ratio[2]:.3f}) of {fastest.name}, "
        "the fastest that holds within 1 point"
    )
    return Judgement(what="speed", holds=ratio[1] <= 1, reason=reason)


def judge_goals(winner: Row, goals: Goals) -> Iterator[Judgement]:
    """Judge the numbers that edgekit aims at."""
    assert winner.ratio is not None
    assert winner.drop is not None
    assert winner.score is not None
    ratio, low, high = winner.ratio
    reason = f"{ratio:.3f}x ({low:.3f} to {high:.3f}) of float; goal {goals.latency:.2f}x"
    yield Judgement(
        what="goal for speed",
        holds=winner.ratio[1] <= goals.latency,
        reason=reason,
    )
    if goals.score is not None:
        yield Judgement(
            what="goal for score",
            holds=winner.score >= goals.score,
            reason=f"{winner.score:.3f}; goal {goals.score:.2f}",
        )
    if goals.drop is not None:
        yield Judgement(
            what="goal for accuracy",
            holds=winner.drop[0] <= goals.drop,
            reason=f"loses {points(winner.drop[0])}; goal {points(goals.drop)} at most",
        )
    if goals.megabytes is not None:
        size = winner.bytes / MEGA
        yield Judgement(
            what="goal for size",
            holds=size <= goals.megabytes,
            reason=f"{size:.1f} MB; goal {goals.megabytes:.0f} MB at most",
        )


def points(share: float) -> str:
    """A share of the samples in points."""
    return f"{100 * share:.2f} points"
