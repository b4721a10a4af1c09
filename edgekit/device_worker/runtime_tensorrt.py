"""TensorRT engines on the machine with the GPU.

Requires Python 3.9, numpy, ``tensorrt`` (10, 11) or ``tensorrt_rtx``, and CUDA's runtime
library (``cuda``): a JetPack has all of these and nothing must be installed. The code here
is tested with a simulated GPU. **It has not been run on a real one: no machine with such a
GPU was available.**
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy

from .cuda import Cuda, EngineError, measure

if TYPE_CHECKING:
    from .tensors import Array, Call

DISTRIBUTIONS = ("tensorrt", "tensorrt-rtx")
SUFFIXES = (".engine",)
#: Another runtime loads the file of its format.
FORMATS: tuple[str, ...] = ()
#: The device's own TensorRT first; TensorRT-RTX if only that is installed.
MODULES = ("tensorrt", "tensorrt_rtx")


class Model:
    """An engine file in TensorRT, on the GPU; inputs are matched by name.

    ``threads`` and ``optimize`` have no effect: they were applied when the engine was
    built. ``device`` and ``library`` replace CUDA and TensorRT in tests.
    """

    def __init__(
        self,
        path: str,
        threads: int,
        optimize: bool,
        device: Any = None,
        library: Any = None,
    ) -> None:
        self._library = import_tensorrt() if library is None else library
        self._engine, self._log = _load_engine(self._library, path)
        self._device = Cuda() if device is None else device
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._error("no execution context could be created")
        self.runtime = f"{self._library.__name__} {self._library.__version__}"
        mode = self._library.TensorIOMode
        self.inputs = self._describe_all(mode.INPUT)
        self.outputs = self._describe_all(mode.OUTPUT)
        #: Per tensor: the address on the GPU and the number of bytes there.
        self._buffers: dict[str, tuple[int, int]] = {}

    def _describe_all(self, mode: Any) -> list[dict[str, Any]]:
        count = self._engine.num_io_tensors
        names = [self._engine.get_tensor_name(k) for k in range(count)]
        chosen = [
            name for name in names if self._engine.get_tensor_mode(name) == mode
        ]
        return [self._describe(name) for name in chosen]

    def _describe(self, name: str) -> dict[str, Any]:
        dims = [int(dim) for dim in self._engine.get_tensor_shape(name)]
        dtype = self._library.nptype(self._engine.get_tensor_dtype(name))
        return {
            "name": name,
            "dtype": numpy.dtype(dtype).name,
            "shape": [None if dim < 0 else dim for dim in dims],
            "quantization": None,
        }

    def bind(self, arrays: dict[str, Array]) -> Call:
        """Prepare one inference on these arrays, which can be called repeatedly.

        A call includes the copies to the GPU and back.
        """
        inputs, outputs = self._prepare(arrays)

        def call() -> list[Array]:
            self._upload(inputs)
            self._enqueue()
            results = {
                name: numpy.empty_like(array) for name, array in outputs.items()
            }
            for name, array in results.items():
                self._device.to_host(array, self._buffers[name][0])
            self._device.wait()
            return list(results.values())

        return call

    def benchmark(
        self, arrays: dict[str, Array], use_graph: bool = True
    ) -> dict[str, Any]:
        """Time inferences on arrays that are already on the GPU (``cuda.measure``)."""
        inputs, _ = self._prepare(arrays)
        self._upload(inputs)
        self._device.wait()
        return measure(self._enqueue, self._device, use_graph)

    def _prepare(
        self, arrays: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs in the engine's dtypes and empty outputs, with GPU memory for both."""
        missing = [
            row["name"] for row in self.inputs if row["name"] not in arrays
        ]
        if missing:
            names = ", ".join(arrays) or "none"
            raise EngineError(
                f"the inputs {', '.join(missing)} are missing; got: {names}"
            )
        inputs = {
            row["name"]: numpy.ascontiguousarray(
                arrays[row["name"]], dtype=row["dtype"]
            )
            for row in self.inputs
        }
        for name, array in inputs.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise self._error(
                    f"{name} cannot have the shape {list(array.shape)}: it is outside the"
                    " engine's profiles"
                )
        outputs = {}
        for row in self.outputs:
            shape = tuple(self._context.get_tensor_shape(row["name"]))
            outputs[row["name"]] = numpy.empty(shape, row["dtype"])
        for name, array in {**inputs, **outputs}.items():
            self._reserve(name, array.nbytes)
        return inputs, outputs

    def _upload(self, inputs: dict[str, Array]) -> None:
        for name, array in inputs.items():
            self._device.to_device(self._buffers[name][0], array)

    def _enqueue(self) -> None:
        stream = self._device.stream
        handle = int(getattr(stream, "value", stream) or 0)
        if not self._context.execute_async_v3(handle):
            raise self._error("the inference could not be started")

    def _reserve(self, name: str, count: int) -> None:
        """Reserve at least ``count`` bytes for a tensor; a large enough buffer is kept."""
        address, size = self._buffers.get(name, (0, -1))
        if size < count:
            if size >= 0:
                self._device.wait()
                self._device.free(address)
            self._buffers[name] = (self._device.allocate(count), count)
        if not self._context.set_tensor_address(name, self._buffers[name][0]):
            raise self._error(
                f"the engine does not accept an address for {name}"
            )

    def _error(self, problem: str) -> EngineError:
        return EngineError(f"{problem}: {_reason(self._log)}")


def import_tensorrt() -> Any:
    """TensorRT's module, or TensorRT-RTX's. Raises EngineError."""
    attempts = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            attempts.append(f"{name}: {error}")
    raise EngineError("TensorRT cannot be imported: " + "; ".join(attempts))


def _load_engine(library: Any, path: str) -> tuple[Any, list[str]]:
    """The engine, and the list that TensorRT's errors are appended to."""
    log: list[str] = []
    runtime = library.Runtime(_error_logger(library, log.append))
    with open(path, "rb") as stream:
        engine = runtime.deserialize_cuda_engine(stream.read())
    if engine is None:
        raise EngineError(
            f"{path} cannot be loaded; an engine runs only on the kind of GPU and with the"
            f" TensorRT version that it was built for: {_reason(log)}"
        )
    return engine, log


def _error_logger(library: Any, append: Callable[[str], None]) -> Any:
    class Logger(library.ILogger):  # type: ignore[misc]
        """Keeps error messages: TensorRT returns None and logs the reason."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                append(message)

    return Logger()


def _reason(log: list[str]) -> str:
    return log[-1].strip() if log else "TensorRT reported no reason"
