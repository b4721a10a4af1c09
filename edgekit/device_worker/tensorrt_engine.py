"""A TensorRT engine on the machine with the GPU: loading, inference, and timing by
trtexec's method.

It needs Python 3.9, numpy, ``tensorrt`` (10, 11) or ``tensorrt_rtx``, and CUDA's runtime
library, which is called through ctypes: a JetPack has all of these and nothing must be
installed. Everything that speaks to the GPU is in ``Cuda``, and the rest is tested with a
device that is not one. **The CUDA part has not run: no machine with such a GPU was at
hand.**

The timing is trtexec 11.1's (samples/common/sampleInference.cpp, sampleReporting.cpp): CUDA
events around the enqueue, 200 ms of warm-up, then 10 queries or more and 3 seconds or more,
a CUDA graph that is captured after one enqueue where it can be.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Call = Callable[[], "list[Array]"]

#: TensorRT of the device first; TensorRT-RTX where only that is installed.
MODULES = ("tensorrt", "tensorrt_rtx")
#: What the drivers of cards and of Jetsons make.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl")
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
WARM_UP_MS, LEAST_QUERIES, LEAST_S = 200.0, 10, 3.0
#: trtexec warns above these: enqueue by GPU compute time, and the standard deviation by the
#: mean.
ENQUEUE_BOUND, UNSTABLE = 0.8, 0.01
_TO_DEVICE, _TO_HOST, _THREAD_LOCAL, _NON_BLOCKING = 1, 2, 1, 1


class EngineError(RuntimeError):
    """What TensorRT or CUDA refuses, with its own reason."""


class Cuda:
    """The few calls of CUDA's runtime library that a model needs, on one stream."""

    def __init__(self) -> None:
        self._library = _library()
        self.stream = ctypes.c_void_p()
        self._do(
            "cudaStreamCreateWithFlags",
            ctypes.byref(self.stream),
            ctypes.c_uint(_NON_BLOCKING),
        )

    def _do(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            raise EngineError(
                f"{name}: CUDA error {code}: {self._library.cudaGetErrorString(ctypes.c_int(code)).decode()}"
            )

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.perf_counter()

    def allocate(self, count: int) -> int:
        """The address of that many bytes on the GPU."""
        pointer = ctypes.c_void_p()
        self._do("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(count, 1)))
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        """Give the bytes back."""
        self._do("cudaFree", ctypes.c_void_p(address))

    def to_device(self, address: int, array: Array) -> None:
        """Copy an array to the GPU, in the stream's order."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def to_host(self, array: Array, address: int) -> None:
        """Copy from the GPU into an array, in the stream's order."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def _copy(self, to: int, where_from: int, count: int, kind: int) -> None:
        self._do(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(where_from),
            ctypes.c_size_t(count),
            ctypes.c_int(kind),
            self.stream,
        )

    def wait(self) -> None:
        """Until all that was asked of the stream is done."""
        self._do("cudaStreamSynchronize", self.stream)

    def event(self) -> Any:
        """A point in the stream whose time can be told."""
        event = ctypes.c_void_p()
        self._do("cudaEventCreate", ctypes.byref(event))
        return event

    def record(self, event: Any) -> None:
        """Put the event into the stream."""
        self._do("cudaEventRecord", event, self.stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events; waits for the second."""
        self._do("cudaEventSynchronize", end)
        found = ctypes.c_float()
        self._do("cudaEventElapsedTime", ctypes.byref(found), start, end)
        return float(found.value)

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """The work as a CUDA graph, ready to be launched; None where it cannot be captured."""
        graph, running = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cudaStreamBeginCapture", self.stream, ctypes.c_int(_THREAD_LOCAL))
        failed = False
        try:
            work()
        except EngineError:
            failed = True
        finally:  # the capture must end, or the stream stays unusable
            ended = int(
                self._library.cudaStreamEndCapture(self.stream, ctypes.byref(graph))
            )
        if failed or ended or not graph.value:
            self._library.cudaGetLastError()  # a failed capture leaves its error behind
            return None
        code = int(
            self._library.cudaGraphInstantiateWithFlags(
                ctypes.byref(running), graph, ctypes.c_ulonglong(0)
            )
        )
        if code:
            self._library.cudaGetLastError()
            return None
        return lambda: self._do("cudaGraphLaunch", running, self.stream)


def _library() -> Any:
    tried = []
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            tried.append(f"{name}: {error}")
    raise EngineError("CUDA's runtime library cannot be loaded: " + "; ".join(tried))


class TensorrtModel:
    """An engine file in TensorRT, on the GPU; inputs go by name.

    ``threads`` and ``optimize`` mean nothing here, they were used when it was built.
    """

    def __init__(
        self,
        path: str,
        threads: int,
        optimize: bool,
        device: Any = None,
        library: Any = None,
    ) -> None:
        self._library = _tensorrt() if library is None else library
        self._engine, self._log = _opened(self._library, path)
        self._device = Cuda() if device is None else device
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(_refusal("no execution context", self._log))
        self.runtime = f"{self._library.__name__} {self._library.__version__}"
        names = [
            self._engine.get_tensor_name(k) for k in range(self._engine.num_io_tensors)
        ]
        mode = self._library.TensorIOMode
        self.inputs = [
            self._row(name)
            for name in names
            if self._engine.get_tensor_mode(name) == mode.INPUT
        ]
        self.outputs = [
            self._row(name)
            for name in names
            if self._engine.get_tensor_mode(name) == mode.OUTPUT
        ]
        self._addresses: dict[str, tuple[int, int]] = {}

    def _row(self, name: str) -> dict[str, Any]:
        shape = [
            None if int(dim) < 0 else int(dim)
            for dim in self._engine.get_tensor_shape(name)
        ]
        dtype = numpy.dtype(self._library.nptype(self._engine.get_tensor_dtype(name))).name
        return {"name": name, "dtype": dtype, "shape": shape, "quantization": None}

    def bind(self, arrays: dict[str, Array]) -> Call:
        """One inference on these arrays, copies to the GPU and back included, ready to be
        called again and again.
        """
        given, made, enqueue = self._bound(arrays)

        def call() -> list[Array]:
            for name, array in given.items():
                self._device.to_device(self._addresses[name][0], array)
            enqueue()
            found = {name: numpy.empty_like(array) for name, array in made.items()}
            for name, array in found.items():
                self._device.to_host(array, self._addresses[name][0])
            self._device.wait()
            return list(found.values())

        return call

    def timed(self, arrays: dict[str, Array], graph: bool = True) -> dict[str, Any]:
        """The times of inferences on arrays that lie on the GPU already (see ``measure``)."""
        given, _, enqueue = self._bound(arrays)
        for name, array in given.items():
            self._device.to_device(self._addresses[name][0], array)
        self._device.wait()
        return measure(enqueue, self._device, graph)

    def _bound(
        self, arrays: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array], Callable[[], None]]:
        """The inputs as the engine takes them, room for the outputs, and the call that
        starts an inference.
        """
        missing = [row["name"] for row in self.inputs if row["name"] not in arrays]
        if missing:
            raise EngineError(
                f"the inputs {', '.join(missing)} are missing; given: {', '.join(arrays) or 'none'}"
            )
        given = {
            row["name"]: numpy.ascontiguousarray(arrays[row["name"]], dtype=row["dtype"])
            for row in self.inputs
        }
        for name, array in given.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise EngineError(
                    _refusal(
                        f"{name} cannot have the shape {list(array.shape)}; the engine's profiles leave it out",
                        self._log,
                    )
                )
        made = {
            row["name"]: numpy.empty(
                tuple(self._context.get_tensor_shape(row["name"])), row["dtype"]
            )
            for row in self.outputs
        }
        for name, array in {**given, **made}.items():
            self._place(name, array.nbytes)

        def enqueue() -> None:
            if not self._context.execute_async_v3(_handle(self._device.stream)):
                raise EngineError(_refusal("the inference could not be started", self._log))

        return given, made, enqueue

    def _place(self, name: str, count: int) -> None:
        """Room of at least that many bytes for a tensor; what is large enough is kept."""
        address, size = self._addresses.get(name, (0, -1))
        if size < count:
            if size >= 0:
                self._device.wait()
                self._device.free(address)
            self._addresses[name] = (self._device.allocate(count), count)
        if not self._context.set_tensor_address(name, self._addresses[name][0]):
            raise EngineError(
                _refusal(f"the engine does not take an address for {name}", self._log)
            )


def present() -> bool:
    """Whether the system shows an NVIDIA GPU: a card's driver, or a Jetson's own devices."""
    return any(os.path.exists(path) for path in GPU_DEVICES)


def _tensorrt() -> Any:
    tried = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            tried.append(f"{name}: {error}")
    raise EngineError("no TensorRT can be imported: " + "; ".join(tried))


def _opened(library: Any, path: str) -> tuple[Any, list[str]]:
    log: list[str] = []

    class Logger(library.ILogger):  # type: ignore[misc]
        """Keeps errors: TensorRT returns None and tells the reason here."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                log.append(message)

    runtime = library.Runtime(Logger())
    with open(path, "rb") as stream:
        engine = runtime.deserialize_cuda_engine(stream.read())
    if engine is None:
        raise EngineError(
            _refusal(
                f"{path} cannot be loaded: it runs only on the kind of GPU and the TensorRT that it was built for",
                log,
            )
        )
    return engine, log


def _refusal(what: str, log: list[str]) -> str:
    said = log[-1].strip() if log else "TensorRT gives no reason"
    return f"{what}: {said}"


def _handle(stream: Any) -> int:
    return int(getattr(stream, "value", stream) or 0)


def measure(enqueue: Callable[[], None], device: Any, graph: bool = True) -> dict[str, Any]:
    """GPU compute time, host enqueue time and host latency of one inference, in
    milliseconds, with the flags that they were taken with.
    """
    launch = None
    if graph:
        enqueue()  # what is done once, or compiled at first use, must not happen inside the capture
        device.wait()
        launch = device.capture(enqueue)
    run = enqueue if launch is None else launch
    begin, warm = device.now(), 0
    while warm == 0 or (device.now() - begin) * 1e3 < WARM_UP_MS:
        run()
        device.wait()
        warm += 1
    compute: list[float] = []
    started: list[float] = []
    host: list[float] = []
    events = device.event(), device.event()
    begin = device.now()
    while len(compute) < LEAST_QUERIES or device.now() - begin < LEAST_S:
        first = device.now()
        device.record(events[0])
        run()
        device.record(events[1])
        second = device.now()
        compute.append(device.elapsed_ms(*events))
        started.append((second - first) * 1e3)
        host.append((device.now() - first) * 1e3)
    wall = device.now() - begin
    found = {
        "gpu_compute_ms": summary(compute),
        "enqueue_ms": summary(started),
        "host_ms": summary(host),
        "queries_per_s": len(compute) / wall,
        "flags": {
            "warm_up_ms": WARM_UP_MS,
            "warm_up_queries": warm,
            "least_queries": LEAST_QUERIES,
            "least_s": LEAST_S,
            "cuda_graph": launch is not None,
            "transfers": False,
            "streams": 1,
            "queries_in_flight": 1,
        },
        "raw_ms": compute,
    }
    return {**found, "warnings": _warnings(found)}


def _warnings(found: dict[str, Any]) -> list[str]:
    compute, enqueue = found["gpu_compute_ms"], found["enqueue_ms"]
    told = []
    if enqueue["median"] > ENQUEUE_BOUND * compute["median"]:
        told.append(
            "the time to start an inference is near its time on the GPU, so the GPU may have waited for the processor"
        )
    if compute["deviation"] > UNSTABLE * compute["mean"]:
        told.append(
            "the times on the GPU differ by more than 1 %; lock its clocks (on a Jetson: jetson_clocks)"
        )
    return told


def summary(values: Sequence[float]) -> dict[str, float]:
    """Smallest, largest, mean, median, standard deviation and the 90th, 95th and 99th
    percentile.
    """
    ordered = sorted(values)
    found = {
        "n": float(len(ordered)),
        "min": ordered[0],
        "max": ordered[-1],
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
    }
    return {
        **found,
        "deviation": statistics.pstdev(ordered),
        **{f"p{percent}": percentile(ordered, percent) for percent in (90, 95, 99)},
    }


def percentile(ordered: Sequence[float], percent: int) -> float:
    """trtexec's: with n numbers, (100 - percent) % of n are above, rounded down, in whole
    numbers (in doubles 10 % of 10 is 0.99...).
    """
    above = (100 - percent) * len(ordered) // 100
    return ordered[max(len(ordered) - 1 - above, 0)]
