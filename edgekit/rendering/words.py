"""How numbers, intervals, gates and verdicts are told; the table, Markdown and HTML all say
the same words.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.measurement import QUANTITIES, Measurement, MeasurementName, Verdict
from edgekit.report import CandidateReport, GateReport, Report, TargetReport
from edgekit.task import METRICS

#: A measurement that should be there and could not be taken; and one that nobody tried to
#: take.
UNMEASURED = "unmeasured"
NOT_TAKEN = "-"
#: Metrics whose score is a share of right answers, told in percent.
_SHARE_METRICS = ("top1", "top5", "binary_accuracy")
#: The columns of the candidates' tables.
COLUMNS: tuple[MeasurementName, ...] = (
    "accuracy",
    "accuracy_drop",
    "speedup",
    "latency_ms",
    "size_bytes",
    "int8_mac_share",
    "float_ops",
    "transposes",
)


@dataclasses.dataclass(frozen=True)
class Wording:
    """How this report's numbers are told; ``share`` where its accuracy is a share of right
    answers.
    """

    share: bool

    def number(self, name: MeasurementName, value: float, unit: str = "") -> str:
        """A value with its unit, as a person reads it."""
        if name in ("accuracy", "accuracy_drop") and self.share:
            return (
                f"{_fixed(100 * value, 1)} %"
                if name == "accuracy"
                else f"{_fixed(100 * value, 2)} pt"
            )
        kind = QUANTITIES[name].kind
        if kind == "share":
            return f"{_percent(value)} %"
        if kind == "ratio":
            # Three figures: a ratio of 13.55 is no more certain than one of 13.6.
            return f"{_fixed(value, 2 if value < 9.995 else 1)}x"
        if name == "latency_estimate_ms":
            return f"{_significant(value)} ms est."
        if kind == "time":
            return f"{_significant(value)} ms"
        if kind == "bytes":
            return size(value)
        if kind == "count":
            return f"{value:,.0f}"
        if kind == "macs":
            return _thousands(value, ("", " k", " M", " G", " T"))
        return f"{value:.4g}" + (f" {unit}" if name == "parity" and unit else "")

    def value(self, measured: Measurement | GateReport | None) -> str:
        """The measured value; ``unmeasured`` where it could not be taken, ``-`` where
        nobody tried.
        """
        if measured is None:
            return NOT_TAKEN
        return (
            UNMEASURED
            if measured.value is None
            else self.number(measured.name, measured.value, measured.unit)
        )

    def interval(self, measured: Measurement | GateReport | None) -> tuple[str, str] | None:
        """The ends of the 95 % interval, without the unit; None where there is no interval."""
        if (
            measured is None
            or measured.value is None
            or measured.low is None
            or measured.high is None
        ):
            return None
        low, high = (
            self.number(measured.name, end).partition(" ")[0].rstrip("x")
            for end in (measured.low, measured.high)
        )
        return low, high

    def bracketed(self, measured: Measurement | GateReport | None) -> str:
        """The value and its interval on one line: ``98.6 % [97.9, 99.1]``."""
        ends = self.interval(measured)
        return self.value(measured) + (f" [{ends[0]}, {ends[1]}]" if ends else "")

    def limit(self, gate: GateReport) -> str:
        """What a gate asks for: ``at most 2.00 pt``."""
        return f"{'at most' if QUANTITIES[gate.name].lower_is_better else 'at least'} {self.number(gate.name, gate.limit, gate.unit)}"


def wording(report: Report) -> Wording:
    """How this report's numbers are told.

    A metric of the user's is a share too where every score is 0 or 1, which Wilson's
    interval tells.
    """
    taken = [
        row.measurement("accuracy")
        for target in report.targets
        for row in (target.reference, *target.candidates)
        if row is not None
    ]
    binary = [found for found in taken if found is not None and "Wilson" in found.how]
    metric = report.task.get("metric")
    return Wording(
        share=metric in _SHARE_METRICS or (metric not in METRICS and bool(binary))
    )


def is_share(metric: str) -> bool:
    """Whether a metric is a share of right answers."""
    return metric in _SHARE_METRICS


def size(count: float) -> str:
    """Bytes, in units of 1000: ``31.2 kB``."""
    return _thousands(count, (" B", " kB", " MB", " GB", " TB"))


def duration(seconds: float) -> str:
    """A span of time: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def heading(report: Report) -> tuple[str, str]:
    """The recipe's name and title."""
    return str(report.recipe.get("name") or "run"), str(report.recipe.get("title") or "")


def moment(text: str) -> str:
    """An ISO 8601 time as a person reads it: ``2026-11-20 16:40 UTC``."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip()


def summary(report: Report) -> str:
    """The verdict explained: which targets fail, could not be decided, pass, or pass with
    something unmeasured.
    """
    groups: dict[str, list[str]] = {
        "Fails": [],
        "Lacks a required measurement": [],
        "Inconclusive": [],
        "Passes, with a measurement missing": [],
        "Passes": [],
    }
    heads: Mapping[Verdict, str] = {
        "fail": "Fails",
        "unmeasured": "Lacks a required measurement",
        "inconclusive": "Inconclusive",
        "pass": "Passes",
    }
    for row in report.targets:
        missing = row.verdict == "pass" and open_gates(row)
        groups[
            "Passes, with a measurement missing" if missing else heads[row.verdict]
        ].append(row.name)
    return (
        " ".join(f"{head}: {', '.join(names)}." for head, names in groups.items() if names)
        or "No target was run."
    )


def open_gates(target: TargetReport) -> list[GateReport]:
    """The gates that were not measured and are not required: a pass that says nothing about
    them.
    """
    return [gate for gate in target.gates if gate.verdict != "pass" and not gate.required]


def rows(target: TargetReport) -> list[CandidateReport]:
    """The candidates, the winner first, those that raced before those that did not."""
    rank = {"raced": 1, "dropped": 2}
    return sorted(
        target.candidates,
        key=lambda row: 0 if row.scheme == target.winner else rank.get(row.status, 3),
    )


def findings(target: TargetReport, says: Wording) -> list[str]:
    """The diagnosis, the loudest layers, and what each remedy gained and cost, one line
    each; empty where nothing was ill.
    """
    if target.diagnosis is None:
        return []
    lines = [f"diagnosis: {target.diagnosis.describe()}"]
    loudest = [
        f"{layer.module or 'the top'} {layer.sqnr_db:.1f} dB"
        for layer in target.diagnosis.layers[:5]
    ]
    if loudest:
        lines.append(f"loudest layers: {', '.join(loudest)}")
    for row in target.candidates:
        if not row.why:
            continue
        before, after = (
            target.candidate(row.scheme.partition("+")[0]),
            row.measurement("accuracy_drop"),
        )
        was = (
            before.measurement("accuracy_drop")
            if before is not None and before is not row
            else None
        )
        gained = (
            f" where {before.scheme} lost {says.value(was)}"
            if before is not None and was is not None
            else ""
        )
        lost = f"lost {says.value(after)}{gained}" if after is not None else row.outcome
        lines.append(f"remedy {row.scheme} ({row.why}): {lost}; {duration(row.seconds)}")
    return lines


def predicted(target: TargetReport, says: Wording) -> list[str]:
    """What is foretold of the winner on a device that was not there, one line for each that
    foretells.
    """
    winner = target.candidate(target.winner)
    told: dict[str, list[str]] = {}
    for found in () if winner is None else winner.measurements:
        if QUANTITIES[found.name].predicted and found.value is not None:
            told.setdefault(found.where, []).append(
                f"{QUANTITIES[found.name].heading} {says.bracketed(found)}"
            )
    return [
        f"Foretold, not measured ({where}): {', '.join(numbers)}."
        for where, numbers in told.items()
    ]


def tried(target: TargetReport) -> str:
    """What was tried and what it cost."""
    built = [row for row in target.candidates if row.artifact is not None]
    count = "1 candidate was" if len(built) == 1 else f"{len(built)} candidates were"
    return (
        f"{count} built and verified in {duration(sum(row.seconds for row in built))}"
        if any(row.seconds for row in built)
        else ""
    )


def measured(
    candidate: CandidateReport | None, name: MeasurementName
) -> Measurement | None:
    """A candidate's measurement; its size is known from its files, measured or not."""
    if candidate is None:
        return None
    found = candidate.measurement(name)
    if found is None and name == "size_bytes" and candidate.artifact is not None:
        return Measurement(
            name="size_bytes",
            value=candidate.artifact.bytes,
            unit="bytes",
            where="this host",
            how="the files' bytes",
        )
    return found


def shown(candidate: CandidateReport | None, name: MeasurementName) -> Measurement | None:
    """What stands in a table's cell: the measurement, or where latency is unmeasured its
    estimate, which says that it is one.
    """
    found = measured(candidate, name)
    if (
        name == "latency_ms"
        and candidate is not None
        and (found is None or found.value is None)
    ):
        estimate = candidate.measurement("latency_estimate_ms")
        return found if estimate is None or estimate.value is None else estimate
    return found


def wheres(measurements: Sequence[Measurement]) -> list[str]:
    """The different places where numbers were taken, in the order of the numbers."""
    return list(
        dict.fromkeys(
            row.where
            for row in measurements
            if row.value is not None and not QUANTITIES[row.name].of_the_file
        )
    )


def flat(notes: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested notes as lines of (dotted key, text)."""
    found: list[tuple[str, str]] = []
    for key, value in notes.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found.extend(flat(value, f"{name}."))
        else:
            found.append((name, plain(value)))
    return found


def plain(value: Any) -> str:
    """Any JSON value as short text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "none"
    return str(value)


def _fixed(value: float, digits: int) -> str:
    """A number with this many decimals, never ``-0.00``."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _percent(share: float) -> str:
    """A share in percent.

    What is not the whole never reads 100, what is something never reads 0.
    """
    if share in (0, 1):
        return f"{100 * share:.0f}"
    return (
        f"{min(max(100 * share, 0.1), 99.9):.1f}" if 0 < share < 1 else f"{100 * share:.1f}"
    )


def _significant(value: float, digits: int = 3) -> str:
    """A number with three significant digits and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = int(
        f"{value:.{digits - 1}e}".partition("e")[2]
    )  # of the rounded value: 0.9996 is 1.00
    return f"{value:.{max(0, digits - 1 - power)}f}"


def _thousands(value: float, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return (
        f"{value:.0f}{units[0]}" if power == 0 else f"{_significant(value)}{units[power]}"
    )
