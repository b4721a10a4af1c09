"""ai-edge-quantizer, spoken to in one place: what is left in float, its errors in plain
words, and the artifact that comes out.
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

from edgekit.artifact import Artifact, File
from edgekit.errors import StepError
from edgekit.formats.tflite import edit as tflite_edit
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import names as tflite_names

#: One calibration sample: an array by ``args_0``, ``args_1``, ...
Row = Mapping[str, Any]
_SIGNATURE = "serving_default"
#: Data may go this many times as far as the calibration data: of 16 bits, one can be
#: spared.
_HEADROOM = 2.0


def require_float(artifact: Artifact, scheme: str) -> None:
    """Raise StepError where a part's inputs, outputs or weights are quantized already."""
    for part in artifact.parts:
        ends = any(
            spec.quantization for spec in (*part.signature.inputs, *part.signature.outputs)
        )
        if ends or tflite_file.small_tensors(artifact.path(part)):
            raise StepError(
                f"{part.name} is quantized already; {scheme} starts from a float file.",
                fix="take the scheme 'float' before this step",
            )


def quantize(
    source: pathlib.Path,
    path: pathlib.Path,
    recipe: Callable[[Quantizer], None],
    keep: tuple[str, ...] = (),
    rows: Sequence[Row] = (),
) -> None:
    """Write ``source``, quantized, to ``path``.

    ``rows``: calibration data, for static quantization.

    Raises StepError where ``keep`` names a module that the file does not have, or the
    quantizer fails.
    """
    kept = list(_kept(source, keep))
    try:
        quantizer = Quantizer(str(source))
        recipe(quantizer)
        for name in kept:
            quantizer.update_quantization_recipe(
                f"^{re.escape(name)};?$",
                TFLOperationName.ALL_SUPPORTED,
                algorithm_key=AlgorithmName.NO_QUANTIZE,
            )
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # its progress bars
            warnings.filterwarnings(
                "ignore",
                category=UserWarning,
                message="Warning: Enabling `experimental_preserve_all_tensors`",
            )
            found = _ranges(quantizer, source, rows) if rows else None
            result = quantizer.quantize(
                found, enable_progress_bar=False, enable_progress_report=False
            )
    except (
        ValueError,
        RuntimeError,
        KeyError,
        IndexError,
        TypeError,
        struct.error,
        NotImplementedError,
    ) as error:
        raise StepError(
            f"{source.name}: ai-edge-quantizer failed: {type(error).__name__}: {str(error)[:300]}",
            fix="take the scheme 'float' or 'w8a8-static' for this target",
        ) from error
    path.write_bytes(result.quantized_model)


def _ranges(quantizer: Quantizer, source: pathlib.Path, rows: Sequence[Row]) -> Any:
    """The range of every tensor over all rows.

    The quantizer's own is a moving average, which cuts off a part of what it saw.
    """
    found = quantizer.calibrate({_SIGNATURE: [dict(rows[0])]}, num_threads=1)
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    running = Interpreter(
        str(source),
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=kernels,
    )
    running.allocate_tensors()
    inputs = sorted(
        running.get_input_details(), key=lambda end: tflite_file.by_number(str(end["name"]))
    )
    wanted = [
        (found[end["name"]], end["index"])
        for end in running.get_tensor_details()
        if end["name"] in found and end["dtype"] is numpy.float32
    ]
    for row in rows:
        for detail, value in zip(inputs, row.values(), strict=True):
            running.set_tensor(detail["index"], value)
        running.invoke()
        for known, index in wanted:
            values = running.get_tensor(index)
            if values.size and "min" in known:
                known["min"], known["max"] = (
                    numpy.minimum(known["min"], values.min()),
                    numpy.maximum(known["max"], values.max()),
                )
    for known, _ in wanted:
        known.update(
            {end: known[end] * _HEADROOM for end in ("min", "max") if end in known}
        )
    return found


def finished(artifact: Artifact, folder: pathlib.Path) -> Artifact:
    """The artifact of the quantized files in ``folder``."""
    parts, notes = [], {}
    for part in artifact.parts:
        path = folder / f"{part.name}.tflite"
        found = tflite_file.arithmetic(path)
        notes[part.name] = {
            "int8_weights": found.int8_weights,
            "float_weights": found.float_weights,
            **tflite_file.runtime(path),
        }
        parts.append(
            part.model_copy(
                update={
                    "files": {"model": File(path=path.name)},
                    "signature": tflite_file.described(path, part.signature),
                }
            )
        )
    maker = f"ai-edge-quantizer {importlib.metadata.version('ai-edge-quantizer')}"
    return Artifact(
        format="tflite",
        parts=tuple(parts),
        folder=folder,
        notes={"quantizer": maker, "parts": notes},
    )


def _kept(source: pathlib.Path, keep: tuple[str, ...]) -> Iterator[str]:
    """The names of the outputs of the operators that belong to the modules in ``keep``."""
    if not keep:
        return
    model = tflite_file.read(source)
    met: set[str] = set()
    for number, graph in enumerate(model.subgraphs):  # one a signature
        for operator in graph.operators:
            module = tflite_edit.module(model, operator, number)
            met.update(path for path in keep if tflite_names.inside(module, (path,)))
            if tflite_names.inside(module, keep):
                yield ";".join(
                    (graph.tensors[int(index)].name or b"").decode("utf-8", "replace")
                    for index in operator.outputs
                )
    unknown = [path for path in keep if path not in met]
    if unknown:
        raise StepError(
            f"{source.name} has no operators of the modules {', '.join(unknown)}, which are to stay in float.",
            fix="check the modules' paths",
        )
