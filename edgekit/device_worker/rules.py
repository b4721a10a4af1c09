"""The rule that turns a 95 % interval and a limit into a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    IntervalVerdict = Literal["pass", "fail", "inconclusive"]


def judge_interval(
    low: float, high: float, limit: float, *, at_most: bool = True
) -> IntervalVerdict:
    """Compare an interval with a limit that must not be exceeded.

    ``pass`` if the entire interval satisfies the limit, the limit itself included;
    ``fail`` if none of it does; else ``inconclusive``. With ``at_most=False`` the limit is
    the smallest allowed value instead of the largest.
    """
    if not at_most:
        low, high, limit = -high, -low, -limit
    if high <= limit:
        return "pass"
    if low > limit:
        return "fail"
    return "inconclusive"
