"""ai-edge-quantizer, spoken to in one place: what is left in float, its errors in plain words, and the artifact that comes out."""

import importlib.metadata
import pathlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from edgekit import tflite_names
from edgekit.artifact import Artifact, File
from edgekit.errors import StepError
from edgekit.steps import tflite_edit, tflite_file

#: Calibration data as ai-edge-quantizer takes them: samples by input, for each signature.
Data = Mapping[str, Any]
_SIGNATURE = "serving_default"


def require_float(artifact: Artifact, scheme: str) -> None:
    """Raise StepError where a part's inputs, outputs or weights are quantized already."""
    for part in artifact.parts:
        ends = any(spec.quantization for spec in (*part.signature.inputs, *part.signature.outputs))
        if ends or tflite_file.small_tensors(artifact.path(part)):
            raise StepError(f"{part.name} is quantized already; {scheme} starts from a float file.", fix="take the scheme 'float' before this step")


def quantize(
    source: pathlib.Path, path: pathlib.Path, recipe: Callable[[Quantizer], None], keep: tuple[str, ...] = (), samples: list[dict[str, Any]] | None = None,
) -> None:  # fmt: skip
    """Write ``source``, quantized, to ``path``. ``samples``: calibration data, each an array by ``args_0``, ``args_1``, ...

    Raises StepError where ``keep`` names a module that the file does not have, or the quantizer fails.
    """
    kept = list(_kept(source, keep))
    try:
        quantizer = Quantizer(str(source))
        recipe(quantizer)
        for name in kept:
            quantizer.update_quantization_recipe(f"^{re.escape(name)};?$", TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE)
        found = None if samples is None else quantizer.calibrate({_SIGNATURE: samples}, num_threads=1)
        result = quantizer.quantize(found, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError, struct.error, NotImplementedError) as error:
        raise StepError(f"{source.name}: ai-edge-quantizer failed: {type(error).__name__}: {str(error)[:300]}",
                        fix="take the scheme 'float' or 'w8a8-static' for this target") from error  # fmt: skip
    path.write_bytes(result.quantized_model)


def finished(artifact: Artifact, folder: pathlib.Path) -> Artifact:
    """The artifact of the quantized files in ``folder``."""
    parts, notes = [], {}
    for part in artifact.parts:
        path = folder / f"{part.name}.tflite"
        found = tflite_file.arithmetic(path)
        notes[part.name] = {"int8_weights": found.int8_weights, "float_weights": found.float_weights}
        parts.append(part.model_copy(update={"files": {"model": File(path=path.name)}, "signature": tflite_file.described(path, part.signature)}))
    maker = f"ai-edge-quantizer {importlib.metadata.version('ai-edge-quantizer')}"
    return Artifact(form="tflite", parts=tuple(parts), folder=folder, notes={"quantizer": maker, "parts": notes})


def _kept(source: pathlib.Path, keep: tuple[str, ...]) -> Iterator[str]:
    """The names of the outputs of the operators that belong to the modules in ``keep``."""
    if not keep:
        return
    model, met = tflite_file.read(source), set()
    graph = model.subgraphs[0]
    for operator in graph.operators:
        module = tflite_edit.module(model, operator)
        met.update(path for path in keep if tflite_names.inside(module, (path,)))
        if tflite_names.inside(module, keep):
            yield ";".join((graph.tensors[int(index)].name or b"").decode("utf-8", "replace") for index in operator.outputs)
    unknown = [path for path in keep if path not in met]
    if unknown:
        raise StepError(f"{source.name} has no operators of the modules {', '.join(unknown)}, which are to stay in float.", fix="check the modules' paths")
