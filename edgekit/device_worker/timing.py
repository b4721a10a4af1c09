"""What is timed as one, and how: the median of calls on fixed arrays, on files that lie at
another place in memory each round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .frames import WorkerError

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Call = Callable[[], list[Array]]

#: A file that is loaded and settled in this time is loaded anew for each round of a race.
LARGEST_RELOAD_NS = 200e6
LARGEST_PADDING, SETTLING = 1 << 16, 5


class Track:
    """What is timed as one: the files of an artifact, run one after another on fixed
    arrays.
    """

    def __init__(self, parts: list[tuple[Callable[[], Any], dict[str, Array]]]) -> None:
        self._parts = parts
        self.calls: list[Call] = []
        self.inner, self.reload = 1, True

    def fresh(self, chance: random.Random) -> float:
        """Load the files anew, at another place in memory, and let them settle.

        Nanoseconds that it took.

        Where a network lies decides some per cent of its speed; a copy that stays in one
        place would hand that to every round alike, and a file would seem faster than itself
        (Mytkowicz et al. 2009, "Producing wrong data without doing anything obviously
        wrong", ASPLOS).
        """
        start = time.perf_counter_ns()
        padding = bytearray(chance.randrange(1, LARGEST_PADDING))
        # The old ones go only after the new ones are there, or these would get the same
        # place.
        self.calls = [
            make().bind({name: array.copy() for name, array in arrays.items()})
            for make, arrays in self._parts
        ]
        del padding
        self.time(SETTLING)
        return time.perf_counter_ns() - start

    def time(self, count: int) -> float:
        """Nanoseconds for one inference: the median of ``count`` calls, which a few
        interrupted ones do not move.
        """
        clock, calls, times = time.perf_counter_ns, self.calls, []
        before = clock()
        for _ in range(count):
            for call in calls:
                run(call)
            now = clock()
            times.append(now - before)
            before = now
        return float(sorted(times)[count // 2])


def run(call: Call) -> list[Array]:
    try:
        return call()
    except Exception as error:
        raise WorkerError("infer", f"{type(error).__name__}: {error}") from error
