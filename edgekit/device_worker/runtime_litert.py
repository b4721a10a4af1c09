"""TFLite files in LiteRT, or in the older tflite_runtime, on the CPU."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy

from .frames import WorkerError
from .runtimes import installed_version

if TYPE_CHECKING:
    from .tensors import Array, Call

    #: (name, the interpreter's description of the tensor)
    Tensors = list[tuple[str, Any]]

DISTRIBUTIONS = ("ai-edge-litert", "tflite-runtime")
SUFFIXES = (".tflite",)
FORMATS = ("tflite", "edgetpu", "ethosu")


class Model:
    """A TFLite file in LiteRT or tflite_runtime, on the CPU.

    Inputs are matched by name if the file's signature has the same names, else by order:
    the files' own names (``args_0``, ``args_1``) are sorted by their number.
    """

    def __init__(self, path: str, threads: int, optimize: bool) -> None:
        module, self.runtime = _import_interpreter()
        self._interpreter = self._create_interpreter(
            module, path, threads, optimize
        )
        self._interpreter.allocate_tensors()
        inputs, outputs = self._list_tensors()
        self.inputs = [_describe(name, detail) for name, detail in inputs]
        self.outputs = [_describe(name, detail) for name, detail in outputs]
        self._input_index = [detail["index"] for _, detail in inputs]
        self._output_index = [detail["index"] for _, detail in outputs]

    def _create_interpreter(
        self, module: Any, path: str, threads: int, optimize: bool
    ) -> Any:
        if optimize:
            resolver = module.OpResolverType.AUTO
        else:
            resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return module.Interpreter(
            model_path=path,
            num_threads=threads,
            experimental_op_resolver_type=resolver,
        )

    def bind(self, arrays: dict[str, Array]) -> Call:
        """Prepare one inference on these arrays, which can be called repeatedly.

        A call copies the arrays into the interpreter.
        """
        names = [row["name"] for row in self.inputs]
        if set(names) == set(arrays):
            ordered = [arrays[name] for name in names]
        else:
            ordered = list(arrays.values())
        feeds = [
            (index, ordered[k]) for k, index in enumerate(self._input_index)
        ]
        interpreter = self._interpreter
        outputs = self._output_index

        def call() -> list[Array]:
            for index, array in feeds:
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return call

    def _list_tensors(self) -> tuple[Tensors, Tensors]:
        """Inputs and outputs, by the names of the file's signature if it has exactly one."""
        signatures = list(self._interpreter.get_signature_list())
        if len(signatures) == 1:
            runner = self._interpreter.get_signature_runner(signatures[0])
            inputs = runner.get_input_details()
            outputs = runner.get_output_details()
        else:
            inputs = _by_name(self._interpreter.get_input_details())
            outputs = _by_name(self._interpreter.get_output_details())
        return (
            sorted(inputs.items(), key=_natural_key),
            sorted(outputs.items(), key=_natural_key),
        )


def _import_interpreter() -> tuple[Any, str]:
    """The module with the class ``Interpreter``, and the runtime's name and version."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tflite_runtime import interpreter  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise WorkerError(
                "missing",
                "neither ai_edge_litert nor tflite_runtime can be imported",
            ) from error
    is_litert = interpreter.__name__.startswith("ai_edge")
    name = "ai-edge-litert" if is_litert else "tflite-runtime"
    return interpreter, f"{name} {installed_version(name)}"


def _by_name(details: Any) -> dict[str, Any]:
    return {detail["name"]: detail for detail in details}


def _natural_key(item: tuple[str, Any]) -> list[Any]:
    """A sort key that puts ``args_10`` after ``args_2``."""
    pieces = re.split(r"(\d+)", item[0])
    return [int(piece) if piece.isdigit() else piece for piece in pieces]


def _describe(name: str, detail: Any) -> dict[str, Any]:
    scale, zero_point = detail["quantization"]
    return {
        "name": name,
        "dtype": numpy.dtype(detail["dtype"]).name,
        "shape": [
            int(dim) if dim >= 0 else None for dim in detail["shape_signature"]
        ],
        "quantization": [float(scale), int(zero_point)] if scale else None,
    }
