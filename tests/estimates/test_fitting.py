"""The fit finds what operators cost from the times of whole files, and says what it does
not know.
"""

import random

import pytest

from edgekit.estimates import fitting
from edgekit.estimates.table import Cost, Row


def convolution(channels: int, side: int) -> Cost:
    """A 3x3 convolution from as many channels to as many."""
    moved = 4 * channels * side * side
    return Cost(
        kind="Conv spatial",
        dtype="float",
        macs=9 * channels**2 * side**2,
        read=moved,
        written=moved,
        weights=36 * channels**2,
    )


def addition(size: int) -> Cost:
    """A sum of two tensors."""
    return Cost(
        kind="Add", dtype="float", macs=0, read=8 * size, written=4 * size, weights=0
    )


def seconds(cost: Cost) -> float:
    """The law behind the synthetic times, in nanoseconds."""
    return (
        2000 + 0.02 * cost.macs + 0.01 * cost.read
        if cost.kind == "Conv spatial"
        else 700 + 0.05 * cost.written
    )


def recorded(noise: float = 0.0) -> list[Row]:
    """Chains that grow by one operator, timed by the law."""
    chance, rows = random.Random(0), []
    for network in range(8):
        operators: list[Cost] = []
        before = None
        for _ in range(6):
            channels, side = chance.choice((8, 16, 32, 64)), chance.choice((4, 8, 16))
            operators += (
                [convolution(channels, side)]
                if chance.random() < 0.6
                else [addition(channels * side * side)]
            )
            ends = 1000 + operators[-1].written
            ns = (3000 + 0.1 * ends + sum(map(seconds, operators))) * (
                1 + chance.uniform(-noise, noise)
            )
            rows.append(
                Row(
                    network=f"n{network}",
                    scheme="float",
                    ends=ends,
                    operators=tuple(operators),
                    ns=ns,
                    low=ns,
                    high=ns,
                    added=None if before is None else ns - before,
                    added_spread=2 * noise * ns,
                )
            )
            before = ns
    return rows


def test_known_costs_are_recovered() -> None:
    """Without noise, within 2 % for operators of sizes that were not in the rows, and for
    the call.
    """
    fitted = fitting.fit(recorded())
    for cost in (convolution(24, 10), convolution(48, 6), addition(2000)):
        assert fitted.operator(cost) == pytest.approx(seconds(cost), rel=0.02)
    assert fitted.call(2000) == pytest.approx(3200, rel=0.05)
    together = (convolution(24, 10), addition(2400))
    assert fitted.file(together, 10_600) == pytest.approx(
        3000 + 1060 + sum(map(seconds, together)), rel=0.02
    )


def test_noise_of_three_percent_moves_no_whole_file_by_ten() -> None:
    """Single operators are less sure than the files that they make up: their errors go
    against each other.
    """
    fitted = fitting.fit(recorded(noise=0.03))
    whole = (
        convolution(24, 10),
        addition(2400),
        convolution(48, 6),
        convolution(16, 12),
        addition(2304),
    )
    assert fitted.file(whole, 10_216) == pytest.approx(
        3000 + 1021.6 + sum(map(seconds, whole)), rel=0.1
    )


def test_an_operator_of_an_unknown_kind_counts_nothing() -> None:
    """It is known as unknown; so is the same operator in another dtype."""
    fitted = fitting.fit(recorded())
    other = Cost(kind="Add", dtype="uint8", macs=0, read=8, written=4, weights=0)
    assert fitted.knows(addition(3)) and not fitted.knows(other)
    assert fitted.operator(other) == 0
    assert fitted.file([addition(100), other], 10) == fitted.file([addition(100)], 10)


def test_nothing_costs_less_than_nothing() -> None:
    """Differences that noise has made negative give no negative cost."""
    rows = [
        row.model_copy(update={"added": None if row.added is None else -abs(row.added)})
        for row in recorded()
    ]
    fitted = fitting.fit(rows)
    assert all(value >= 0 for values in fitted.coefficients.values() for value in values)
    assert fitted.operator(convolution(16, 8)) >= 0
