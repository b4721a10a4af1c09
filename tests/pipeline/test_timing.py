"""Where latency cannot be taken, a table of the device is shown beside it, and no more than
shown.
"""

import json
import pathlib
import types
from typing import Any

import pytest

from edgekit.cache import Cache, default_root
from edgekit.estimates import networks
from edgekit.pipeline.candidate import Candidate
from edgekit.pipeline.timing import time_candidates
from edgekit.target import Target

GEMM = {
    "kind": "FusedGemm",
    "dtype": "float",
    "macs": 65536,
    "read": 1024,
    "written": 1024,
    "weights": 263168,
}
TABLE = {
    "schema": 2,
    "name": "board",
    "runtime": "onnxruntime",
    "host": "board",
    "where": "board: onnxruntime 1.31.1, 1 thread",
    "machine": "aarch64",
    "recorded": "2026-11-21T12:00:00+00:00",
    "edgekit": "0.1.0",
    "rounds": 15,
    "rows": [
        {
            "network": "one",
            "scheme": "float",
            "ends": 2048,
            "operators": [GEMM],
            "ns": 50_000,
            "low": 49_000,
            "high": 51_000,
        }
    ],
}


def shown(estimate: str) -> Candidate:
    """The measurements of one float file on a target whose latency cannot be taken."""
    target = Target(
        name="board",
        title="a board",
        format="onnx",
        runtime="onnxruntime",
        schemes=("float",),
        latency="unmeasured",
        latency_note="it is not here",
        estimate=estimate,
    )
    ground: Any = types.SimpleNamespace(
        planned=types.SimpleNamespace(target=target), build=None
    )
    reference = Candidate(
        "float",
        networks.build("plain_layers", "onnx", Cache(default_root()))["float"],
    )
    assert time_candidates(ground, reference, []) == {}
    return reference


def test_an_estimate_stands_beside_the_unmeasured_latency(
    tmp_path: pathlib.Path,
) -> None:
    """latency_ms stays unmeasured, so no gate can pass by it; the estimate says what it is,
    and that operators are unknown.
    """
    path = tmp_path / "board.json"
    path.write_text(json.dumps(TABLE))
    entry = shown(str(path))
    latency, found = (
        entry.measurement("latency_ms"),
        entry.measurement("latency_estimate_ms"),
    )
    assert (
        latency is not None
        and latency.value is None
        and latency.verdict == "unmeasured"
    )
    assert (
        found is not None and found.value is not None and found.verdict is None
    )
    assert (
        found.where.startswith("estimate, from board recorded on 2026-11-21")
        and "a lower bound, 1 operators" in found.how
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [("", None), ("nowhere", "Unknown latency table 'nowhere'")],
)
def test_no_table_stops_nothing(
    name: str,
    said: str | None,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No name: no estimate. A name without a table: unmeasured, with the reason."""
    monkeypatch.setenv("EDGEKIT_CONFIG", str(tmp_path))
    found = shown(name).measurement("latency_estimate_ms")
    assert (
        (found is None)
        if said is None
        else (found is not None and found.value is None and said in found.how)
    )
