"""ONNX and ORT files in ONNX Runtime, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .frames import WorkerError

if TYPE_CHECKING:
    from .tensors import Array, Call

DISTRIBUTIONS = ("onnxruntime",)
SUFFIXES = (".onnx", ".ort")
FORMATS = ("onnx", "ort", "tensorrt")
#: ONNX Runtime's names of the types that numpy calls otherwise.
DTYPES = {"float": "float32", "float16": "float16", "double": "float64"}


class Model:
    """A file in ONNX Runtime, on the CPU; inputs are matched by name."""

    def __init__(self, path: str, threads: int, optimize: bool) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise WorkerError(
                "missing", f"onnxruntime cannot be imported: {error}"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for pool in ("intra", "inter"):
            options.add_session_config_entry(
                f"session.{pool}_op.allow_spinning", "0"
            )
        if not optimize:
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.inputs = [_describe(value) for value in self._session.get_inputs()]
        self.outputs = [
            _describe(value) for value in self._session.get_outputs()
        ]

    def bind(self, arrays: dict[str, Array]) -> Call:
        """Prepare one inference on these arrays, which can be called repeatedly."""
        return lambda: list(self._session.run(None, arrays))


def _describe(value: Any) -> dict[str, Any]:
    element_type = str(value.type)[len("tensor(") : -1]
    return {
        "name": value.name,
        "dtype": DTYPES.get(element_type, element_type),
        "shape": [dim if isinstance(dim, int) else None for dim in value.shape],
        "quantization": None,
    }
