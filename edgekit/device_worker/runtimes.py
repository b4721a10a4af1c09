"""Model files in their runtimes, all with the same few attributes: ``runtime``, ``inputs``,
``outputs`` and ``bind``.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy

from . import edgetpu
from .frames import WorkerError
from .tensorrt_engine import TensorrtModel

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Call = Callable[[], list[Array]]

ORT_DTYPES = {"float": "float32", "float16": "float16", "double": "float64"}


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU; inputs go by name."""

    def __init__(self, path: str, threads: int, optimize: bool) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise WorkerError(
                "missing", f"onnxruntime cannot be imported: {error}"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
        if not optimize:
            options.graph_optimization_level = (
                onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            )
        self._running = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.inputs = [_ort_row(given) for given in self._running.get_inputs()]
        self.outputs = [_ort_row(given) for given in self._running.get_outputs()]

    def bind(self, arrays: dict[str, Array]) -> Call:
        """One inference on these arrays, ready to be called again and again."""
        return lambda: list(self._running.run(None, arrays))


class TfliteModel:
    """A TFLite file in LiteRT (or the older tflite_runtime), on the CPU.

    Inputs go by name where the file's signature has the same names, else by order: the
    files' own names (``args_0``, ``args_1``) are sorted by their number.
    """

    def __init__(self, path: str, threads: int, optimize: bool) -> None:
        module, self.runtime = _litert()
        self._running = self._interpreter(module, path, threads, optimize)
        self._running.allocate_tensors()
        inputs, outputs = self._details()
        self.inputs, self.outputs = (
            [_tflite_row(*row) for row in inputs],
            [_tflite_row(*row) for row in outputs],
        )
        self._input_index = [detail["index"] for _, detail in inputs]
        self._output_index = [detail["index"] for _, detail in outputs]

    def _interpreter(self, module: Any, path: str, threads: int, optimize: bool) -> Any:
        kind = (
            module.OpResolverType.AUTO
            if optimize
            else module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        return module.Interpreter(
            model_path=path, num_threads=threads, experimental_op_resolver_type=kind
        )

    def bind(self, arrays: dict[str, Array]) -> Call:
        """One inference on these arrays, their copying included, ready to be called again
        and again.
        """
        names = [row["name"] for row in self.inputs]
        ordered = (
            [arrays[name] for name in names]
            if set(names) == set(arrays)
            else list(arrays.values())
        )
        feeds = [(index, ordered[k]) for k, index in enumerate(self._input_index)]
        running, outputs = self._running, self._output_index

        def call() -> list[Array]:
            for index, array in feeds:
                running.set_tensor(index, array)
            running.invoke()
            return [running.get_tensor(index) for index in outputs]

        return call

    def _details(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        names = list(self._running.get_signature_list())
        if len(names) == 1:
            signature = self._running.get_signature_runner(names[0])
            found = signature.get_input_details(), signature.get_output_details()
        else:
            found = (
                _named(self._running.get_input_details()),
                _named(self._running.get_output_details()),
            )
        return sorted(found[0].items(), key=_by_number), sorted(
            found[1].items(), key=_by_number
        )


class EdgeTpuModel(TfliteModel):
    """A TFLite file that edgetpu_compiler has made, on an Edge TPU that is plugged in."""

    def _interpreter(self, module: Any, path: str, threads: int, optimize: bool) -> Any:
        return module.Interpreter(
            model_path=path,
            num_threads=threads,
            experimental_delegates=[edgetpu.delegate(module.load_delegate)],
        )


def _litert() -> tuple[Any, str]:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise WorkerError(
                "missing", "neither ai_edge_litert nor tflite_runtime can be imported"
            ) from error
    name = (
        "ai-edge-litert" if interpreter.__name__.startswith("ai_edge") else "tflite-runtime"
    )
    return interpreter, f"{name} {version(name)}"


def _named(details: Any) -> dict[str, Any]:
    return {detail["name"]: detail for detail in details}


def _by_number(item: tuple[str, Any]) -> list[Any]:
    """A key that sorts ``args_10`` after ``args_2``."""
    return [
        int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", item[0])
    ]


def _ort_row(given: Any) -> dict[str, Any]:
    kind = str(given.type)[len("tensor(") : -1]
    shape = [dim if isinstance(dim, int) else None for dim in given.shape]
    return {
        "name": given.name,
        "dtype": ORT_DTYPES.get(kind, kind),
        "shape": shape,
        "quantization": None,
    }


def _tflite_row(name: str, detail: Any) -> dict[str, Any]:
    scale, zero_point = detail["quantization"]
    shape = [int(dim) if dim >= 0 else None for dim in detail["shape_signature"]]
    quantization = [float(scale), int(zero_point)] if scale else None
    return {
        "name": name,
        "dtype": numpy.dtype(detail["dtype"]).name,
        "shape": shape,
        "quantization": quantization,
    }


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


#: What loads the file of each format; for some the file only stands in for what the device
#: runs.
RUNTIME_OF = {
    "onnx": "onnxruntime",
    "tensorrt": "onnxruntime",
    "tflite": "litert",
    "edgetpu": "litert",
    "ethosu": "litert",
    "ort": "onnxruntime",
}
RUNTIMES: dict[str, Any] = {
    "onnxruntime": OnnxModel,
    "litert": TfliteModel,
    "edgetpu": EdgeTpuModel,
    "tensorrt": TensorrtModel,
}
