"""The fit recovers the cost of operators from the times of files."""

import random

import pytest

from edgekit.estimates import fitting
from edgekit.estimates.table import Cost, Row


def convolution(channels: int, side: int) -> Cost:
    """A 3x3 convolution with equal numbers of input and output channels."""
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
        kind="Add",
        dtype="float",
        macs=0,
        read=8 * size,
        written=4 * size,
        weights=0,
    )


def synthetic_ns(cost: Cost) -> float:
    """The rule of the synthetic times, in nanosynthetic_ns."""
    if cost.kind == "Conv spatial":
        return 2000 + 0.02 * cost.macs + 0.01 * cost.read
    return 700 + 0.05 * cost.written


def recorded(noise: float = 0.0) -> list[Row]:
    """Chains that grow by one operator, timed by the rule."""
    chance = random.Random(0)
    rows = []
    for network in range(8):
        operators: list[Cost] = []
        before = None
        for _ in range(6):
            channels = chance.choice((8, 16, 32, 64))
            side = chance.choice((4, 8, 16))
            if chance.random() < 0.6:
                operators.append(convolution(channels, side))
            else:
                operators.append(addition(channels * side * side))
            ends = 1000 + operators[-1].written
            ns = (3000 + 0.1 * ends + sum(map(synthetic_ns, operators))) * (
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
    """Without noise, within 2 % for operators of other sizes, and for the call."""
    fitted = fitting.fit(recorded())
    for cost in (convolution(24, 10), convolution(48, 6), addition(2000)):
        assert fitted.operator_ns(cost) == pytest.approx(
            synthetic_ns(cost), rel=0.02
        )
    assert fitted.call_ns(2000) == pytest.approx(3200, rel=0.05)
    together = (convolution(24, 10), addition(2400))
    assert fitted.file_ns(together, 10_600) == pytest.approx(
        3000 + 1060 + sum(map(synthetic_ns, together)), rel=0.02
    )


def test_noise_of_three_percent_changes_a_file_by_less_than_ten() -> None:
    """Single operators are less certain than files: their errors compensate each other."""
    fitted = fitting.fit(recorded(noise=0.03))
    costs = (
        convolution(24, 10),
        addition(2400),
        convolution(48, 6),
        convolution(16, 12),
        addition(2304),
    )
    assert fitted.file_ns(costs, 10_216) == pytest.approx(
        3000 + 1021.6 + sum(map(synthetic_ns, costs)), rel=0.1
    )


def test_an_operator_of_an_unknown_kind_counts_nothing() -> None:
    """Another dtype is another kind."""
    fitted = fitting.fit(recorded())
    other = Cost(
        kind="Add", dtype="uint8", macs=0, read=8, written=4, weights=0
    )
    assert fitted.knows(addition(3)) and not fitted.knows(other)
    assert fitted.operator_ns(other) == 0
    assert fitted.file_ns([addition(100), other], 10) == fitted.file_ns(
        [addition(100)], 10
    )


def test_no_cost_is_negative() -> None:
    """Nor if noise makes a difference negative."""
    rows = [
        row.model_copy(
            update={"added": None if row.added is None else -abs(row.added)}
        )
        for row in recorded()
    ]
    fitted = fitting.fit(rows)
    assert all(
        value >= 0
        for values in fitted.coefficients.values()
        for value in values
    )
    assert fitted.operator_ns(convolution(16, 8)) >= 0
