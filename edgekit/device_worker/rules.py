"""The rules that turn a 95 % interval into a verdict, and a verdict into an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    IntervalVerdict = Literal["pass", "fail", "inconclusive"]

#: Verdict -> exit code of ``edgekit run``, ``edgekit verify`` and ``verify.py`` in a bundle.
EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3, "unmeasured": 3}


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
