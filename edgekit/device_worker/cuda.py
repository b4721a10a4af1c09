"""CUDA's runtime library through ctypes: memory, copies, events and graphs on one stream.

A JetPack has this library, so nothing must be installed. **This module has not been run: no
machine with such a GPU was available.**

Inference times on a GPU, by the method of trtexec.

The method is that of trtexec 11.1 (samples/common/sampleInference.cpp, sampleReporting.cpp):
CUDA events around the enqueue, 200 ms of warm-up, then at least 10 queries and at least 3
seconds, with a CUDA graph captured after one enqueue if possible.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tensors import Array

#: The device files that the drivers of graphics cards and of Jetsons create.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl")
LIBRARIES = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
)
#: Values of the enumerations in CUDA's header driver_types.h.
_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
_CAPTURE_THREAD_LOCAL = 1
_STREAM_NON_BLOCKING = 1


class EngineError(RuntimeError):
    """A failure reported by TensorRT or CUDA, with its own reason."""


class Cuda:
    """The few calls of CUDA's runtime library that a model needs, on one stream.

    Every method raises EngineError with the name of the call and CUDA's own message.
    """

    def __init__(self) -> None:
        self._library = load_library()
        self.stream = ctypes.c_void_p()
        self._call(
            "cudaStreamCreateWithFlags",
            ctypes.byref(self.stream),
            ctypes.c_uint(_STREAM_NON_BLOCKING),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code == 0:
            return
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        message = self._library.cudaGetErrorString(ctypes.c_int(code)).decode()
        raise EngineError(f"{name}: CUDA error {code}: {message}")

    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return time.perf_counter()

    def allocate(self, count: int) -> int:
        """The address of ``count`` bytes on the GPU."""
        pointer = ctypes.c_void_p()
        self._call(
            "cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(count, 1))
        )
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        """Release memory on the GPU."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def to_device(self, address: int, array: Array) -> None:
        """Copy an array to the GPU, in the stream's order."""
        self._copy(address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)

    def to_host(self, array: Array, address: int) -> None:
        """Copy from the GPU into an array, in the stream's order."""
        self._copy(array.ctypes.data, address, array.nbytes, _DEVICE_TO_HOST)

    def _copy(
        self, destination: int, source: int, count: int, kind: int
    ) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(destination),
            ctypes.c_void_p(source),
            ctypes.c_size_t(count),
            ctypes.c_int(kind),
            self.stream,
        )

    def wait(self) -> None:
        """Wait until all work in the stream is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def event(self) -> Any:
        """Create an event: a point in the stream with a time stamp."""
        event = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(event))
        return event

    def record(self, event: Any) -> None:
        """Put the event into the stream."""
        self._call("cudaEventRecord", event, self.stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events; waits for the second."""
        self._call("cudaEventSynchronize", end)
        elapsed = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed), start, end)
        return float(elapsed.value)

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture the work as a CUDA graph and return its launch; None if that fails."""
        graph = self._capture_graph(work)
        if graph is None:
            return None
        executable = ctypes.c_void_p()
        code = self._library.cudaGraphInstantiateWithFlags(
            ctypes.byref(executable), graph, ctypes.c_ulonglong(0)
        )
        if int(code):
            self._library.cudaGetLastError()
            return None
        return lambda: self._call("cudaGraphLaunch", executable, self.stream)

    def _capture_graph(
        self, work: Callable[[], None]
    ) -> ctypes.c_void_p | None:
        graph = ctypes.c_void_p()
        self._call(
            "cudaStreamBeginCapture",
            self.stream,
            ctypes.c_int(_CAPTURE_THREAD_LOCAL),
        )
        failed = False
        try:
            work()
        except EngineError:
            failed = True
        finally:
            # The capture must end, or the stream stays unusable.
            code = self._library.cudaStreamEndCapture(
                self.stream, ctypes.byref(graph)
            )
        if failed or int(code) or not graph.value:
            # A failed capture leaves its error set; reading it clears it.
            self._library.cudaGetLastError()
            return None
        return graph


def load_library() -> Any:
    """CUDA's runtime library, opened with ctypes. Raises EngineError."""
    attempts = []
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            attempts.append(f"{name}: {error}")
    raise EngineError(
        "CUDA's runtime library cannot be loaded: " + "; ".join(attempts)
    )


def has_gpu() -> bool:
    """Whether the system has an NVIDIA GPU: the device files of a card or of a Jetson."""
    return any(os.path.exists(path) for path in GPU_DEVICES)


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


def _capture(
    enqueue: Callable[[], None], device: Any
) -> Callable[[], None] | None:
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


def _warnings(
    compute: dict[str, float], enqueue: dict[str, float]
) -> list[str]:
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
