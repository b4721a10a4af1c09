"""The boundary to ai-edge-quantizer: modules that stay in float, translated errors, and the
artifact of the quantized files.
"""

import contextlib
import importlib.metadata
import io
import pathlib
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from edgekit.arrays import Array
from edgekit.artifact import Artifact, File
from edgekit.errors import StepError
from edgekit.formats.module_paths import is_within
from edgekit.formats.tflite import edit as tflite_edit
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert

#: One calibration sample: an array for each of ``args_0``, ``args_1``, ...
Sample = Mapping[str, Array]
_SIGNATURE = "serving_default"
#: Values may exceed the calibration range by this factor: of 16 bits, one can be spared.
_HEADROOM = 2.0
_QUANTIZER_ERRORS = (
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    struct.error,
    NotImplementedError,
)


def require_float(artifact: Artifact, scheme: str) -> None:
    """Raise StepError if a part's inputs, outputs or weights are already quantized."""
    for part in artifact.parts:
        specs = (*part.signature.inputs, *part.signature.outputs)
        has_quantized_ends = any(spec.quantization for spec in specs)
        if has_quantized_ends or tflite_file.count_quantized_tensors(
            artifact.path(part)
        ):
            raise StepError(
                f"{part.name} is already quantized; {scheme} requires a float file.",
                fix="use the scheme 'float' before this step",
            )


def quantize(
    source: pathlib.Path,
    path: pathlib.Path,
    set_recipe: Callable[[Quantizer], None],
    keep: Sequence[str] = (),
    samples: Sequence[Sample] = (),
) -> None:
    """Quantize ``source`` and write it to ``path``.

    ``set_recipe`` configures the quantizer; ``keep`` are paths of modules that stay in
    float; ``samples`` are calibration data, for static quantization. Raises StepError if
    ``keep`` names a module that the file does not have, or if the quantizer fails.
    """
    float_outputs = list(_find_outputs(source, keep)) if keep else []
    try:
        quantizer = Quantizer(str(source))
        set_recipe(quantizer)
        for name in float_outputs:
            quantizer.update_quantization_recipe(
                f"^{re.escape(name)};?$",
                TFLOperationName.ALL_SUPPORTED,
                algorithm_key=AlgorithmName.NO_QUANTIZE,
            )
        with _without_output():
            ranges = _calibrate(quantizer, source, samples) if samples else None
            result = quantizer.quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
    except _QUANTIZER_ERRORS as error:
        message = f"{type(error).__name__}: {str(error)[:300]}"
        raise StepError(
            f"{source.name}: ai-edge-quantizer failed: {message}",
            fix="use the scheme 'float' or 'w8a8-static' for this target",
        ) from error
    path.write_bytes(result.quantized_model)


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Suppress the quantizer's progress bars and a warning that it causes itself."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.filterwarnings(
            "ignore",
            category=UserWarning,
            message="Warning: Enabling `experimental_preserve_all_tensors`",
        )
        yield


def _calibrate(
    quantizer: Quantizer, source: pathlib.Path, samples: Sequence[Sample]
) -> Any:
    """The range of every tensor over all samples, in the quantizer's own structure.

    The quantizer computes a moving average, which cuts off a part of the range that it
    observed.
    """
    ranges = quantizer.calibrate(
        {_SIGNATURE: [dict(samples[0])]}, num_threads=1
    )
    interpreter = Interpreter(
        str(source),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    inputs = litert.sort_details(interpreter.get_input_details())
    range_of_tensor = {
        detail["index"]: ranges[detail["name"]]
        for detail in interpreter.get_tensor_details()
        if detail["name"] in ranges and detail["dtype"] is numpy.float32
    }
    for sample in samples:
        litert.set_inputs(interpreter, inputs, sample.values())
        interpreter.invoke()
        for index, tensor_range in range_of_tensor.items():
            _widen(tensor_range, interpreter.get_tensor(index))
    for tensor_range in range_of_tensor.values():
        for end in ("min", "max"):
            if end in tensor_range:
                tensor_range[end] = tensor_range[end] * _HEADROOM
    return ranges


def _widen(tensor_range: dict[str, Any], values: Array) -> None:
    if values.size and "min" in tensor_range:
        tensor_range["min"] = numpy.minimum(tensor_range["min"], values.min())
        tensor_range["max"] = numpy.maximum(tensor_range["max"], values.max())


def collect(artifact: Artifact, folder: pathlib.Path) -> Artifact:
    """The artifact of the quantized files in ``folder``, with layer counts in its notes."""
    parts = []
    notes = {}
    for part in artifact.parts:
        path = folder / f"{part.name}.tflite"
        counts = tflite_file.count_layers(path)
        notes[part.name] = {
            "int8_weights": counts.int8_weights,
            "float_weights": counts.float_weights,
            **litert.describe_runtime(path),
        }
        update = {
            "files": {"model": File(path=path.name)},
            "signature": litert.read_signature(path, part.signature),
        }
        parts.append(part.model_copy(update=update))
    version = importlib.metadata.version("ai-edge-quantizer")
    return Artifact(
        format="tflite",
        parts=tuple(parts),
        folder=folder,
        notes={"quantizer": f"ai-edge-quantizer {version}", "parts": notes},
    )


def _find_outputs(source: pathlib.Path, keep: Sequence[str]) -> Iterator[str]:
    """The output names of the operators that belong to the modules in ``keep``."""
    model = tflite_file.read(source)
    present: set[str] = set()
    for graph_index, graph in enumerate(model.subgraphs):  # one per signature
        for operator in graph.operators:
            module = tflite_edit.module_path(model, operator, graph_index)
            present.update(path for path in keep if is_within(module, (path,)))
            if is_within(module, keep):
                outputs = [
                    graph.tensors[int(index)] for index in operator.outputs
                ]
                yield ";".join(map(tflite_file.tensor_name, outputs))
    missing = [path for path in keep if path not in present]
    if missing:
        raise StepError(
            f"{source.name} has no operators of the modules to keep in float: "
            f"{', '.join(missing)}.",
            fix="check the modules' paths",
        )
