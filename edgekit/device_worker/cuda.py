"""CUDA's runtime library through ctypes: memory, copies, events and graphs on one stream.

A JetPack has this library, so nothing must be installed. **This module has not been run: no
machine with such a GPU was available.**
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arrays import Array

#: The device files that the drivers of graphics cards and of Jetsons create.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl")
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
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
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(count, 1)))
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

    def _copy(self, destination: int, source: int, count: int, kind: int) -> None:
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

    def _capture_graph(self, work: Callable[[], None]) -> ctypes.c_void_p | None:
        graph = ctypes.c_void_p()
        self._call(
            "cudaStreamBeginCapture", self.stream, ctypes.c_int(_CAPTURE_THREAD_LOCAL)
        )
        failed = False
        try:
            work()
        except EngineError:
            failed = True
        finally:
            # The capture must end, or the stream stays unusable.
            code = self._library.cudaStreamEndCapture(self.stream, ctypes.byref(graph))
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
    raise EngineError("CUDA's runtime library cannot be loaded: " + "; ".join(attempts))


def has_gpu() -> bool:
    """Whether the system has an NVIDIA GPU: the device files of a card or of a Jetson."""
    return any(os.path.exists(path) for path in GPU_DEVICES)
