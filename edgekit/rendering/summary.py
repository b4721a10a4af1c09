"""What a report shows of a run and of each target, in any of its forms."""

from collections.abc import Mapping, Sequence

from edgekit.measurement import (
    QUANTITIES,
    Measurement,
    MeasurementName,
    Verdict,
)
from edgekit.rendering.formatting import NumberFormat, duration, is_share
from edgekit.report import CandidateReport, GateReport, Report, TargetReport
from edgekit.task import METRICS

#: The columns of the tables of candidates.
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
_PASS_INCOMPLETE = "Passes, with a measurement missing"
#: Verdict -> heading in the summary, in its order.
_HEADINGS: Mapping[Verdict, str] = {
    "fail": "Fails",
    "unmeasured": "Lacks a required measurement",
    "inconclusive": "Inconclusive",
    "pass": "Passes",
}


def number_format(report: Report) -> NumberFormat:
    """Return the format of a report's numbers.

    A user's metric is a share too if every score is 0 or 1; then its interval is Wilson's.
    """
    rows: list[CandidateReport] = []
    for target in report.targets:
        rows.extend(target.candidates)
        if target.reference is not None:
            rows.append(target.reference)
    accuracies = [row.measurement("accuracy") for row in rows]
    is_binary = any(
        "Wilson" in row.how for row in accuracies if row is not None
    )
    metric = report.task.get("metric")
    if metric in METRICS:
        return NumberFormat(share=is_share(str(metric)))
    return NumberFormat(share=is_share(str(metric)) or is_binary)


def heading(report: Report) -> tuple[str, str]:
    """Return the name and the title of the recipe."""
    return str(report.recipe.get("name") or "run"), str(
        report.recipe.get("title") or ""
    )


def summarize(report: Report) -> str:
    """Explain the verdict: which targets fail, are inconclusive, pass, or pass incompletely."""
    groups: dict[str, list[str]] = {
        _HEADINGS["fail"]: [],
        _HEADINGS["unmeasured"]: [],
        _HEADINGS["inconclusive"]: [],
        _PASS_INCOMPLETE: [],
        _HEADINGS["pass"]: [],
    }
    for row in report.targets:
        is_incomplete = row.verdict == "pass" and bool(open_gates(row))
        title = _PASS_INCOMPLETE if is_incomplete else _HEADINGS[row.verdict]
        groups[title].append(row.name)
    sentences = [
        f"{title}: {', '.join(names)}."
        for title, names in groups.items()
        if names
    ]
    return " ".join(sentences) or "No target was run."


def open_gates(target: TargetReport) -> list[GateReport]:
    """Return the gates that did not pass and are not required; the verdict ignores them."""
    return [
        gate
        for gate in target.gates
        if gate.verdict != "pass" and not gate.required
    ]


def sort_candidates(target: TargetReport) -> list[CandidateReport]:
    """Return the candidates: the winner first, then raced, dropped and failed ones."""
    order = {"raced": 1, "dropped": 2}

    def rank(row: CandidateReport) -> int:
        return 0 if row.scheme == target.winner else order.get(row.status, 3)

    return sorted(target.candidates, key=rank)


def findings(target: TargetReport, fmt: NumberFormat) -> list[str]:
    """Return the diagnosis, the noisiest layers, and the effect of each remedy, one per line.

    Empty if no remedy was needed.
    """
    if target.diagnosis is None:
        return []
    lines = [f"diagnosis: {target.diagnosis.describe()}"]
    noisiest = [
        f"{layer.module or 'the top-level module'} {layer.sqnr_db:.1f} dB"
        for layer in target.diagnosis.layers[:5]
    ]
    if noisiest:
        lines.append(f"noisiest layers: {', '.join(noisiest)}")
    for row in target.candidates:
        if row.why:
            lines.append(_describe_remedy(row, target, fmt))
    return lines


def _describe_remedy(
    row: CandidateReport, target: TargetReport, fmt: NumberFormat
) -> str:
    """One line: why a remedy was tried, and how it compares with the scheme it is based on."""
    effect = row.outcome
    after = row.measurement("accuracy_drop")
    if after is not None:
        effect = f"lost {fmt.value(after)}"
        base = target.candidate(row.scheme.partition("+")[0])
        before = None
        if base is not None and base is not row:
            before = base.measurement("accuracy_drop")
        if base is not None and before is not None:
            effect += f" where {base.scheme} lost {fmt.value(before)}"
    return f"remedy {row.scheme} ({row.why}): {effect}; {duration(row.seconds)}"


def predictions(target: TargetReport, fmt: NumberFormat) -> list[str]:
    """Return what is predicted for the winner on a device that was not available.

    One line per source of predictions.
    """
    winner = target.candidate(target.winner)
    if winner is None:
        return []
    numbers: dict[str, list[str]] = {}
    for row in winner.measurements:
        quantity = QUANTITIES[row.name]
        if quantity.predicted and row.value is not None:
            line = f"{quantity.heading} {fmt.bracketed(row)}"
            numbers.setdefault(row.where, []).append(line)
    return [
        f"Predicted, not measured ({where}): {', '.join(lines)}."
        for where, lines in numbers.items()
    ]


def effort(target: TargetReport) -> str:
    """Return how many candidates were built and how long it took; empty if all were cached."""
    built = [row for row in target.candidates if row.artifact is not None]
    seconds = sum(row.seconds for row in built)
    if not seconds:
        return ""
    count = (
        "1 candidate was"
        if len(built) == 1
        else f"{len(built)} candidates were"
    )
    return f"{count} built and verified in {duration(seconds)}"


def measured(
    candidate: CandidateReport | None, name: MeasurementName
) -> Measurement | None:
    """Return a candidate's measurement; its size is known from its files in any case."""
    if candidate is None:
        return None
    row = candidate.measurement(name)
    if row is None and name == "size_bytes" and candidate.artifact is not None:
        return Measurement(
            name="size_bytes",
            value=candidate.artifact.bytes,
            unit="bytes",
            where="this host",
            how="the files' bytes",
        )
    return row


def shown(
    candidate: CandidateReport | None, name: MeasurementName
) -> Measurement | None:
    """Return what a table shows: an unmeasured latency is replaced by its estimate.

    The estimate is labelled as one.
    """
    row = measured(candidate, name)
    is_missing = row is None or row.value is None
    if name == "latency_ms" and candidate is not None and is_missing:
        estimate = candidate.measurement("latency_estimate_ms")
        if estimate is not None and estimate.value is not None:
            return estimate
    return row


def places(measurements: Sequence[Measurement]) -> list[str]:
    """Return the distinct places where numbers were measured, in the order of the numbers."""
    return list(
        dict.fromkeys(
            row.where
            for row in measurements
            if row.value is not None and not QUANTITIES[row.name].of_the_file
        )
    )
