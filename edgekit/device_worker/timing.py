"""Times an artifact: the median of calls on fixed arrays, with its files loaded at another
memory address in each round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .frames import WorkerError

if TYPE_CHECKING:
    from .runtimes import LoadedModel
    from .tensors import Array, Call

#: A file that loads and settles within this time is reloaded in each round of a race.
LARGEST_RELOAD_NS = 200e6
#: The most bytes allocated to move a file to another address.
LARGEST_PADDING = 1 << 16
#: Untimed calls after a file was loaded.
SETTLING_CALLS = 5


class Track:
    """The files of one artifact, run one after another on fixed arrays and timed together."""

    def __init__(
        self, parts: list[tuple[Callable[[], LoadedModel], dict[str, Array]]]
    ) -> None:
        self._parts = parts
        self._calls: list[Call] = []
        #: How many inferences one timing consists of.
        self.repetitions = 1
        self.reload = True

    def reload_files(self, generator: random.Random) -> float:
        """Load the files again, at another address, and let them settle; nanoseconds taken.

        The address of a network changes its speed by some per cent. A copy that stayed at
        one address would carry that bias through every round, and a file would seem faster
        than itself (Mytkowicz et al. 2009, "Producing wrong data without doing anything
        obviously wrong", ASPLOS).
        """
        start = time.perf_counter_ns()
        padding = bytearray(generator.randrange(1, LARGEST_PADDING))
        # The old copies are released only after the new ones exist; otherwise the new ones
        # would get the same addresses.
        self._calls = [
            _load_and_bind(load, arrays) for load, arrays in self._parts
        ]
        del padding
        self.time(SETTLING_CALLS)
        return time.perf_counter_ns() - start

    def time(self, count: int) -> float:
        """Nanoseconds per inference: the median of ``count`` calls, which a few interrupted
        ones do not move.
        """
        clock = time.perf_counter_ns
        calls = self._calls
        times = []
        before = clock()
        for _ in range(count):
            for call in calls:
                run_call(call)
            now = clock()
            times.append(now - before)
            before = now
        return float(sorted(times)[count // 2])


def _load_and_bind(
    load: Callable[[], LoadedModel], arrays: dict[str, Array]
) -> Call:
    copies = {name: array.copy() for name, array in arrays.items()}
    return load().bind(copies)


def run_call(call: Call) -> list[Array]:
    """Run one inference; any exception becomes a WorkerError of the kind ``infer``."""
    try:
        return call()
    except Exception as error:
        raise WorkerError(
            "infer", f"{type(error).__name__}: {error}"
        ) from error
