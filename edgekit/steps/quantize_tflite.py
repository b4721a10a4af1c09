"""Quantize the weights of a float TFLite file with Google's ai-edge-quantizer: no calibration data are needed."""

import dataclasses
import importlib.metadata
import pathlib
import struct
from collections.abc import Callable, Mapping
from typing import ClassVar

from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import ComputePrecision, OpQuantizationConfig, QuantGranularity, TensorDataType, TensorQuantizationConfig, TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from edgekit.artifact import Artifact, File, Form
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.steps import tflite_file
from edgekit.task import SplitName
from edgekit.value import nearest

_ALL = TFLOperationName.ALL_SUPPORTED


def _half(quantizer: Quantizer) -> None:
    """float16 weights; each gets a DEQUANTIZE, and the runtime computes in what it likes."""
    weights = TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT)
    config = OpQuantizationConfig(weight_tensor_config=weights, compute_precision=ComputePrecision.FLOAT, explicit_dequantize=True)
    quantizer.update_quantization_recipe(regex=".*", operation_name=_ALL, op_config=config, algorithm_key=AlgorithmName.FLOAT_CASTING)


def _dynamic(quantizer: Quantizer) -> None:
    """int8 weights, activations scaled while the network runs.

    One scale a channel for convolutions, one for all in FULLY_CONNECTED: with one a channel there, tflite-runtime 2.14
    loads the file and computes nonsense (accuracy at chance); with one for all in CONV_2D, LiteRT 2.3 does.
    """
    quantizer.add_dynamic_config(".*", _ALL, 8)
    quantizer.add_dynamic_config(".*", TFLOperationName.FULLY_CONNECTED, 8, QuantGranularity.TENSORWISE)


RECIPES: Mapping[str, Callable[[Quantizer], None]] = {"fp16": _half, "w8-dynamic": _dynamic}


@dataclasses.dataclass(frozen=True)
class QuantizeTflite:
    """Writes ``<part>.tflite`` with 16-bit float (``fp16``) or int8 weights (``w8-dynamic``); inputs and outputs stay float."""

    scheme: str

    takes: ClassVar[tuple[Form, ...]] = ("tflite",)
    gives: ClassVar[Form] = "tflite"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-quantizer", "ai-edge-litert")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A scheme that this step has, and a file that is not quantized yet."""
        if self.scheme not in RECIPES:
            raise StepError(f"quantize_tflite has no scheme {self.scheme!r}; {nearest(self.scheme, RECIPES)}",
                            fix="w8a8-static is made by quantize_torch, before the export")  # fmt: skip
        for part in artifact.parts:
            if any(spec.quantization for spec in (*part.signature.inputs, *part.signature.outputs)):
                raise StepError(f"{part.name} is quantized already; {self.scheme} starts from a float file.", fix="take the scheme 'float' before this step")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Quantize every part; the notes tell how many layers have int8 weights."""
        parts, notes = [], {}
        for part in artifact.parts:
            path = context.folder / f"{part.name}.tflite"
            _quantize(artifact.path(part), path, RECIPES[self.scheme])
            found = tflite_file.arithmetic(path)
            notes[part.name] = {"int8_weights": found.int8_weights, "float_weights": found.float_weights}
            parts.append(part.model_copy(update={"files": {"model": File(path=path.name)}, "signature": tflite_file.described(path, part.signature)}))
        maker = f"ai-edge-quantizer {importlib.metadata.version('ai-edge-quantizer')}"
        return Artifact(form="tflite", parts=tuple(parts), folder=context.folder, notes={"quantizer": maker, "parts": notes})

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Weights changed: int8 layers for w8-dynamic, half-precision tensors for fp16."""
        for part in after.parts:
            path = after.path(part)
            done = tflite_file.arithmetic(path).int8_weights if self.scheme == "w8-dynamic" else tflite_file.half_tensors(path)
            if not done:
                raise StepError(f"{part.name}: {self.scheme} changed no weights; no layer of this network can have it.", fix="take the scheme 'float'")


def _quantize(source: pathlib.Path, path: pathlib.Path, recipe: Callable[[Quantizer], None]) -> None:
    try:
        quantizer = Quantizer(str(source))
        recipe(quantizer)
        result = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError, struct.error, NotImplementedError) as error:
        raise StepError(f"{source.name}: ai-edge-quantizer failed: {type(error).__name__}: {str(error)[:300]}",
                        fix="take the scheme 'float' or 'w8a8-static' for this target") from error  # fmt: skip
    path.write_bytes(result.quantized_model)
