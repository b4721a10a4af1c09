"""The results as Markdown: ``docs/explanation/benchmarks.md``, and the same lines on the
terminal.
"""

import pathlib
from collections.abc import Iterator

from bench.results import Interval, Result, Results, Row

FILE = pathlib.Path("docs") / "explanation" / "benchmarks.md"
TITLES = {"onnx": "ONNX Runtime", "tflite": "LiteRT (TFLite)"}
HEAD = """# Benchmarks

edgekit's winner and other quantizers, each with its own documented recipes, on the same trained
networks, data and runtime. `make bench` generates this file from `bench/`; nothing in it is
written by hand.

* Every file is timed interleaved with all others in one process: one thread, batch 1, {rounds}.
  `of float` is the median over rounds of the file's time by the float file's in the same round,
  with its 95 % interval.
* Scores are computed sample by sample on all test data; `lost` is paired with the float file on
  the same samples.
* edgekit selected its scheme itself (`edgekit run int8`, scheme `auto`). The others start from the
  exporters' own float files, not from edgekit's.
* Their recipes are the functions in `bench/peers_onnx.py` and `bench/peers_tflite.py`, the
  calibration data for all of them the same 256 training samples (64 for histograms, which keep
  all activations in memory).
"""


def document(results: Results) -> str:
    """Return the complete file."""
    rounds = (
        " or ".join(
            str(count)
            for count in sorted({row.rounds for row in results.results})
        )
        + " rounds"
    )
    lines = [HEAD.format(rounds=rounds), *_judged(results), ""]
    for result in results.results:
        lines += [*section(result), ""]
    return "\n".join([*lines, *_environment(results), ""])


def section(result: Result) -> Iterator[str]:
    """One network in one runtime."""
    yield f"## {result.title}, {TITLES[result.runtime]}"
    yield ""
    yield f"Score: {result.metric}, {result.samples} test samples. Taken {result.taken[:10]}."
    yield ""
    yield "| file | score | lost (points) | of float | ms | KB |"
    yield "|---|---|---|---|---|---|"
    shown = sorted(
        result.rows,
        key=lambda row: (
            row.kind != "edgekit",
            row.kind != "float",
            not row.timed,
            row.ratio or (0, 0, 0),
            row.name,
        ),
    )
    yield from map(_line, shown)
    yield ""
    for judged in result.judgements:
        verdict = "holds" if judged.holds else "**does not hold**"
        yield f"* {judged.what}: {verdict}: {judged.reason}"


def _line(row: Row) -> str:
    name = f"**{row.name}**" if row.kind == "edgekit" else row.name
    if not row.timed:
        return f"| {name} | {_plain(row.error)} | | | | |"
    assert row.drop is not None
    assert row.ratio is not None
    assert row.latency_ms is not None
    latency = f"{row.latency_ms[0]:.3f}"
    size = f"{row.bytes / 1000:,.0f}"
    scores = f"{row.score:.3f} | {_points(row.drop)}"
    return f"| {name} | {scores} | {_ratio(row.ratio)} | {latency} | {size} |"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("<", "(").replace(">", ")")


def _points(drop: Interval) -> str:
    value, low, high = (100 * number for number in drop)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _ratio(ratio: Interval) -> str:
    return f"{ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})"


def _judged(results: Results) -> Iterator[str]:
    """One line for each network and runtime: what holds, what does not."""
    yield "| network | runtime | edgekit's winner | of float | lost (points) | does not hold |"
    yield "|---|---|---|---|---|---|"
    for result in results.results:
        winner = next(
            (row for row in result.rows if row.kind == "edgekit"), None
        )
        names = [
            judged.what for judged in result.judgements if not judged.holds
        ]
        failed = ", ".join(names) or "-"
        cells = "none | | "
        if (
            winner is not None
            and winner.ratio is not None
            and winner.drop is not None
        ):
            lost = f"{100 * winner.drop[0]:.1f}"
            cells = f"{winner.name} | {winner.ratio[0]:.3f} | {lost}"
        yield f"| {result.title} | {TITLES[result.runtime]} | {cells} | {failed} |"


def _environment(results: Results) -> Iterator[str]:
    """Machines and versions, each listed once."""
    yield "## Machine and versions"
    yield ""
    lines: dict[str, list[str]] = {}
    for result in results.results:
        machine = result.environment
        packages = ", ".join(
            f"{name} {version}" for name, version in machine["packages"].items()
        )
        line = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
            f"Python {machine['python']}; {packages}"
        )
        lines.setdefault(line, []).append(f"{result.network}/{result.runtime}")
    for line, names in lines.items():
        yield (
            f"* {line}" if len(lines) == 1 else f"* {', '.join(names)}: {line}"
        )
