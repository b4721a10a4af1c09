"""The results file and the document drawn from it."""

import pathlib

import pytest

from bench import results, table
from bench.judgement import judge
from bench.networks import NETWORKS, RUNTIMES
from bench.results import Result, Results, Row

ENVIRONMENT = {
    "processor": "a processor",
    "cores": 2,
    "system": "Linux 6",
    "python": "3.11",
    "packages": {"torch": "2.13"},
}


def taken(
    network: str, runtime: str, *, taken: str = "2026-11-21T10:00:00+00:00"
) -> Result:
    """A result with a winner, a peer that failed and the float file."""
    rows = (
        Row(
            name="float",
            kind="float",
            bytes=4000,
            score=0.98,
            drop=(0, 0, 0),
            latency_ms=(1, 0.9, 1.1),
            ratio=(1, 1, 1),
            winner_ratio=(0.5, 0.4, 0.6),
        ),
        Row(name="peer | one", kind="peer", error="RuntimeError: no <kernel>"),
        Row(
            name="edgekit w8a8-static",
            kind="edgekit",
            bytes=1000,
            score=0.97,
            drop=(0.01, 0, 0.02),
            latency_ms=(0.5, 0.4, 0.6),
            ratio=(0.5, 0.4, 0.6),
        ),
    )
    return Result(
        network=network,
        title=NETWORKS[network].title,
        runtime=runtime,
        metric="top1",
        samples=1000,
        taken=taken,
        environment=ENVIRONMENT,
        rounds=100,
        rows=rows,
        judgements=judge(rows, NETWORKS[network].goals.get(runtime)),
    )


def test_a_newer_result_takes_the_place_of_an_older_one(
    tmp_path: pathlib.Path,
) -> None:
    """Results are kept by network and runtime in the bench's order, and come back from the
    file as they were.
    """
    order = [(name, runtime) for name in NETWORKS for runtime in RUNTIMES]
    kept = (
        Results()
        .with_one(taken("lstm", "onnx"), order)
        .with_one(taken("resnet", "tflite"), order)
    )
    kept = kept.with_one(
        taken("lstm", "onnx", taken="2026-11-22T10:00:00+00:00"), order
    )
    assert [(row.network, row.taken[:10]) for row in kept.results] == [
        ("resnet", "2026-11-21"),
        ("lstm", "2026-11-22"),
    ]
    results.write(kept, tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == kept
    assert results.read(tmp_path / "none.json") == Results()


def test_the_document_shows_every_row_and_judgement() -> None:
    """The winner comes first and bold, a failed peer shows its error, and what does not
    hold is named.
    """
    text = table.document(Results(results=(taken("resnet", "onnx"),)))
    assert text.index("**edgekit w8a8-static**") < text.index("| float |")
    assert "RuntimeError: no (kernel)" in text
    assert "* goal for accuracy: **does not hold**: loses 1.00 points" in text
    assert "0.500 (0.400 to 0.600)" in text
    assert "a processor, 2 cores" in text


def test_the_document_is_drawn_from_the_results_in_the_repository(
    root: pathlib.Path,
) -> None:
    """docs/explanation/benchmarks.md is generated from bench/results.json, not written by hand."""
    kept = results.read(root / results.FILE)
    if not kept.results:
        pytest.skip("make bench was not run yet")
    assert (root / table.FILE).read_text(encoding="utf-8") == table.document(
        kept
    )
