"""OpenVINO files (``.xml`` with the weights in ``.bin``) on the CPU."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy

from .frames import WorkerError

if TYPE_CHECKING:
    from .tensors import Array, Call

DISTRIBUTIONS = ("openvino",)
SUFFIXES = (".xml", ".bin")
FORMATS = ("openvino",)

#: Where the file records the arithmetic that it was verified with.
PRECISION = ["edgekit", "inference_precision"]


class Model:
    """An OpenVINO file on the CPU; inputs are matched by name.

    The model is compiled for the shapes of the arrays that it is given: a dimension that
    stays free costs time at every inference. What is not quantized is executed in the type
    that the file records, else in the one that OpenVINO chooses for the processor.
    """

    def __init__(
        self, path: str, threads: int, optimize: bool, weights: str = ""
    ) -> None:
        # Else every import of openvino reports itself to Intel over the network.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError as error:
            raise WorkerError(
                "missing", f"openvino cannot be imported: {error}"
            ) from error
        self._openvino, self._core = openvino, openvino.Core()
        self._model = self._core.read_model(
            path, weights or path[: -len(".xml")] + ".bin"
        )
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Two processes would else be bound to the same core.
            "ENABLE_CPU_PINNING": False,
        }
        if self._model.has_rt_info(PRECISION):
            recorded = self._model.get_rt_info(PRECISION).astype(str)
            self._options["INFERENCE_PRECISION_HINT"] = recorded
        if not optimize:
            # Quantized operators are executed in float, which is exact. Without VNNI, the
            # int8 kernels saturate.
            self._options["LP_TRANSFORMS_MODE"] = False
        self.inputs = [_row(port) for port in self._model.inputs]
        self.outputs = [_row(port) for port in self._model.outputs]
        self._shapes: dict[str, list[int]] = {}
        self._compiled = self._compile(
            {row["name"]: _smallest(row) for row in self.inputs}
        )
        precision = self._compiled.get_property(
            "INFERENCE_PRECISION_HINT"
        ).get_type_name()
        self.runtime = (
            f"openvino {openvino.__version__.partition('-')[0]}, {precision}"
        )

    def bind(self, arrays: dict[str, Array]) -> Call:
        """Prepare one inference on these arrays, which can be called repeatedly."""
        try:
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            if shapes != self._shapes:
                self._compiled = self._compile(shapes)
            request = self._compiled.create_infer_request()
            tensors = [
                self._openvino.Tensor(
                    numpy.ascontiguousarray(arrays[port["name"]])
                )
                for port in self.inputs
            ]
        except RuntimeError as error:
            raise WorkerError(
                "infer", f"{type(error).__name__}: {error}"
            ) from error
        feeds, outputs = list(enumerate(tensors)), range(len(self.outputs))

        def call() -> list[Array]:
            for index, tensor in feeds:
                request.set_input_tensor(index, tensor)
            request.infer()
            return [
                request.get_output_tensor(index).data.copy()
                for index in outputs
            ]

        return call

    def _compile(self, shapes: dict[str, list[int]]) -> Any:
        model = self._model.clone()
        model.reshape(
            {
                name: self._openvino.PartialShape(dims)
                for name, dims in shapes.items()
            }
        )
        self._shapes = shapes
        return self._core.compile_model(model, "CPU", self._options)


def _smallest(row: dict[str, Any]) -> list[int]:
    return [1 if dim is None else dim for dim in row["shape"]]


def _row(port: Any) -> dict[str, Any]:
    dims = port.get_partial_shape()
    return {
        "name": port.get_any_name(),
        "dtype": numpy.dtype(port.get_element_type().to_dtype()).name,
        "shape": [None if dim.is_dynamic else dim.get_length() for dim in dims],
        "quantization": None,
    }
