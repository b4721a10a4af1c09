"""Does edgekit's winner hold against its peers, and does it reach what is wanted? Pure:
from rows to judgements.
"""

from collections.abc import Iterator, Sequence

from bench.networks import Wanted
from bench.results import Interval, Judgement, Row

#: A peer that loses more of its score than this is no rival in speed.
LOSES = 0.01
MEGA = 1e6


def judge(rows: Sequence[Row], wanted: Wanted | None) -> tuple[Judgement, ...]:
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
        return (Judgement(what="a winner", holds=False, said=why),)
    rivals = [row for row in rows if row.kind != "edgekit" and row.timed]
    found = [
        accuracy(winner.drop, [row for row in rivals if row.kind == "peer"]),
        speed(rivals),
    ]
    return (*found, *(() if wanted is None else wishes(winner, wanted)))


def accuracy(drop: Interval, peers: Sequence[Row]) -> Judgement:
    """The winner loses at most what the best peer loses, and half the width of that peer's
    interval more.
    """
    known = [(row.drop, row.name) for row in peers if row.drop is not None]
    if not known:
        return Judgement(what="accuracy", holds=True, said="no peer has a file that runs")
    best, name = min(known, key=lambda pair: pair[0][0])
    limit = best[0] + (best[2] - best[1]) / 2
    said = f"loses {points(drop[0])}; the best peer ({name}) {points(best[0])}, with its noise {points(limit)}"
    return Judgement(what="accuracy", holds=drop[0] <= limit, said=said)


def speed(rivals: Sequence[Row]) -> Judgement:
    """The winner is not clearly slower than the fastest file that holds; the float file
    counts as one.
    """
    holding = [
        (row.ratio, row)
        for row in rivals
        if row.ratio is not None and row.drop is not None and row.drop[0] <= LOSES
    ]
    if not holding:
        return Judgement(
            what="speed", holds=True, said="no other file holds within 1 point"
        )
    _, fastest = min(holding, key=lambda pair: pair[0][0])
    ratio = fastest.winner_ratio
    if ratio is None:
        return Judgement(what="speed", holds=False, said=f"not timed beside {fastest.name}")
    said = f"{ratio[0]:.3f}x ({ratio[1]:.3f} to {ratio[2]:.3f}) of {fastest.name}, the fastest that holds within 1 point"
    return Judgement(what="speed", holds=ratio[1] <= 1, said=said)


def wishes(winner: Row, wanted: Wanted) -> Iterator[Judgement]:
    """The numbers that edgekit is wanted to reach."""
    assert winner.ratio is not None
    assert winner.drop is not None
    assert winner.score is not None
    said = f"{winner.ratio[0]:.3f}x ({winner.ratio[1]:.3f} to {winner.ratio[2]:.3f}) of float; wanted {wanted.latency:.2f}x"
    yield Judgement(what="wanted speed", holds=winner.ratio[1] <= wanted.latency, said=said)
    if wanted.score is not None:
        yield Judgement(
            what="wanted score",
            holds=winner.score >= wanted.score,
            said=f"{winner.score:.3f}; wanted {wanted.score:.2f}",
        )
    if wanted.drop is not None:
        yield Judgement(
            what="wanted accuracy",
            holds=winner.drop[0] <= wanted.drop,
            said=f"loses {points(winner.drop[0])}; wanted {points(wanted.drop)} at most",
        )
    if wanted.megabytes is not None:
        size = winner.bytes / MEGA
        yield Judgement(
            what="wanted size",
            holds=size <= wanted.megabytes,
            said=f"{size:.1f} MB; wanted {wanted.megabytes:.0f} MB at most",
        )


def points(share: float) -> str:
    """A share of the samples in points."""
    return f"{100 * share:.2f} points"
