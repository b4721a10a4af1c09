"""Inference times on a GPU, by the method of trtexec.

The method is that of trtexec 11.1 (samples/common/sampleInference.cpp, sampleReporting.cpp):
CUDA events around the enqueue, 200 ms of warm-up, then at least 10 queries and at least 3
seconds, with a CUDA graph captured after one enqueue if possible.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

WARM_UP_MS = 200.0
LEAST_QUERIES = 10
LEAST_S = 3.0
#: trtexec warns if the median enqueue time exceeds this share of the GPU compute time,
ENQUEUE_BOUND = 0.8
#: or if the standard deviation exceeds this share of the mean.
UNSTABLE = 0.01


@dataclasses.dataclass(frozen=True)
class Queries:
    """Times of consecutive inferences: lists in milliseconds, the total in seconds."""

    gpu_ms: list[float]
    enqueue_ms: list[float]
    host_ms: list[float]
    wall_s: float


def measure(
    enqueue: Callable[[], None], device: Any, use_graph: bool = True
) -> dict[str, Any]:
    """Time inferences: GPU compute, host enqueue and host latency in milliseconds.

    ``enqueue`` starts one inference; ``device`` has the methods of ``cuda.Cuda``. The
    result also contains the settings that were used and trtexec's warnings.
    """
    launch = _capture(enqueue, device) if use_graph else None
    run = enqueue if launch is None else launch
    warm_up_queries = _warm_up(run, device)
    queries = _time_queries(run, device)
    compute = summarize(queries.gpu_ms)
    started = summarize(queries.enqueue_ms)
    return {
        "gpu_compute_ms": compute,
        "enqueue_ms": started,
        "host_ms": summarize(queries.host_ms),
        "queries_per_s": len(queries.gpu_ms) / queries.wall_s,
        "flags": {
            "warm_up_ms": WARM_UP_MS,
            "warm_up_queries": warm_up_queries,
            "least_queries": LEAST_QUERIES,
            "least_s": LEAST_S,
            "cuda_graph": launch is not None,
            "transfers": False,
            "streams": 1,
            "queries_in_flight": 1,
        },
        "raw_ms": queries.gpu_ms,
        "warnings": _warnings(compute, started),
    }


def _capture(enqueue: Callable[[], None], device: Any) -> Callable[[], None] | None:
    # What happens once, or is compiled at first use, must not happen inside the capture.
    enqueue()
    device.wait()
    launch: Callable[[], None] | None = device.capture(enqueue)
    return launch


def _warm_up(run: Callable[[], None], device: Any) -> int:
    """Run for ``WARM_UP_MS``, at least once; the number of inferences."""
    begin = device.now()
    count = 0
    while count == 0 or (device.now() - begin) * 1e3 < WARM_UP_MS:
        run()
        device.wait()
        count += 1
    return count


def _time_queries(run: Callable[[], None], device: Any) -> Queries:
    compute: list[float] = []
    started: list[float] = []
    host: list[float] = []
    before, after = device.event(), device.event()
    begin = device.now()
    while len(compute) < LEAST_QUERIES or device.now() - begin < LEAST_S:
        query_begin = device.now()
        device.record(before)
        run()
        device.record(after)
        enqueued = device.now()
        compute.append(device.elapsed_ms(before, after))
        started.append((enqueued - query_begin) * 1e3)
        host.append((device.now() - query_begin) * 1e3)
    return Queries(compute, started, host, device.now() - begin)


def _warnings(compute: dict[str, float], enqueue: dict[str, float]) -> list[str]:
    warnings = []
    if enqueue["median"] > ENQUEUE_BOUND * compute["median"]:
        warnings.append(
            "the time to start an inference is close to its time on the GPU, so the GPU may"
            " have waited for the processor"
        )
    if compute["deviation"] > UNSTABLE * compute["mean"]:
        warnings.append(
            "the times on the GPU vary by more than 1 %; lock its clocks"
            " (on a Jetson: jetson_clocks)"
        )
    return warnings


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Count, minimum, maximum, mean, median, standard deviation and 90th, 95th and 99th
    percentile of at least one number.
    """
    ordered = sorted(values)
    summary = {
        "n": float(len(ordered)),
        "min": ordered[0],
        "max": ordered[-1],
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "deviation": statistics.pstdev(ordered),
    }
    for percent in (90, 95, 99):
        summary[f"p{percent}"] = percentile(ordered, percent)
    return summary


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The percentile as trtexec computes it, of numbers in ascending order.

    Of n numbers, ``(100 - percent) * n / 100`` are above it, rounded down. The arithmetic
    is exact because it uses integers: in doubles, 10 % of 10 is 0.99...
    """
    above = (100 - percent) * len(ordered) // 100
    return ordered[max(len(ordered) - 1 - above, 0)]
