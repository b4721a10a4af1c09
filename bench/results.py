"""What the bench found out, as values that are kept in ``results.json``; the table is drawn
from them.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import pydantic

from edgekit.value import Value

FILE = pathlib.Path("bench") / "results.json"
#: A number with the low and the high end of its 95 % interval.
Interval = tuple[float, float, float]


class Row(Value):
    """One file: the float file, a peer's, or edgekit's winner.

    ``error`` is why there is none.
    """

    name: str
    kind: Literal["float", "peer", "edgekit"]
    error: str = ""
    bytes: int = 0
    score: float | None = None
    #: What it loses against the float file on the same samples.
    drop: Interval | None = None
    latency_ms: Interval | None = None
    #: Its latency as a share of the float file's, paired round by round.
    ratio: Interval | None = None
    #: The latency of edgekit's winner as a share of this file's, paired round by round.
    winner_ratio: Interval | None = None

    @property
    def timed(self) -> bool:
        """True if there is a file that runs."""
        return self.ratio is not None and self.drop is not None


class Judgement(Value):
    """One criterion for edgekit's winner."""

    what: str
    holds: bool
    reason: str


class Result(Value):
    """One network in one runtime."""

    network: str
    title: str
    runtime: str
    metric: str
    samples: int
    #: When it was taken (ISO 8601), on what, and with which versions.
    taken: str
    environment: dict[str, Any]
    rounds: int
    rows: tuple[Row, ...]
    judgements: tuple[Judgement, ...] = ()


class Results(Value):
    """All that were taken last."""

    results: tuple[Result, ...] = pydantic.Field(default_factory=tuple)

    def with_one(
        self, result: Result, order: Sequence[tuple[str, str]]
    ) -> "Results":
        """With this one in the place of an older one of the same network and runtime."""
        kept = [
            row
            for row in self.results
            if (row.network, row.runtime) != (result.network, result.runtime)
        ]
        return Results(
            results=tuple(
                sorted(
                    [*kept, result],
                    key=lambda row: order.index((row.network, row.runtime)),
                )
            )
        )


def read(path: pathlib.Path) -> Results:
    """Read results; empty if the file does not exist."""
    if not path.is_file():
        return Results()
    return Results.model_validate_json(path.read_text(encoding="utf-8"))


def write(results: Results, path: pathlib.Path) -> None:
    """Write them."""
    path.write_text(
        json.dumps(
            results.model_dump(mode="json"), indent=1, ensure_ascii=False
        )
        + "\n",
        encoding="utf-8",
    )
