"""Quantize a float TFLite file without calibration data, with Google's ai-edge-quantizer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import (
    ComputePrecision,
    OpQuantizationConfig,
    QuantGranularity,
    TensorDataType,
    TensorQuantizationConfig,
    TFLOperationName,
)
from ai_edge_quantizer.quantizer import Quantizer

from edgekit.artifact import Artifact, FormatName
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError, suggest
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import quantizer as tflite_quantizer
from edgekit.formats.tflite import signatures as tflite_signatures
from edgekit.task import SplitName

_ALL = TFLOperationName.ALL_SUPPORTED


def _set_half(quantizer: Quantizer) -> None:
    """float16 weights, each with a DEQUANTIZE; the runtime chooses its arithmetic."""
    weights = TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT)
    config = OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    quantizer.update_quantization_recipe(
        regex=".*",
        operation_name=_ALL,
        op_config=config,
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )


def _set_dynamic(quantizer: Quantizer) -> None:
    """int8 weights with per-channel scales; LiteRT computes a scale for each row of the
    activations at run time.
    """
    quantizer.add_dynamic_config(".*", _ALL, 8)


def _set_dynamic_tensor(quantizer: Quantizer) -> None:
    """int8 weights: per-channel scales in convolutions, per-tensor in FULLY_CONNECTED.

    With per-channel scales in FULLY_CONNECTED, tflite-runtime 2.14 loads the file and
    computes nonsense (accuracy at chance); with per-tensor scales in CONV_2D, LiteRT 2.3
    does.
    """
    quantizer.add_dynamic_config(".*", _ALL, 8)
    quantizer.add_dynamic_config(
        ".*", TFLOperationName.FULLY_CONNECTED, 8, QuantGranularity.TENSORWISE
    )


def _set_weight_only(quantizer: Quantizer) -> None:
    """int8 weights that are dequantized before they are used: all arithmetic is float."""
    quantizer.add_weight_only_config(".*", _ALL, 8)


def _set_weight_only_4bit(quantizer: Quantizer) -> None:
    """As ``_set_weight_only``, with per-channel 4-bit weights in FULLY_CONNECTED.

    Convolutions and embeddings, which lose most with 4 bits, keep 8.
    """
    quantizer.add_weight_only_config(".*", _ALL, 8)
    quantizer.add_weight_only_config(
        ".*",
        TFLOperationName.FULLY_CONNECTED,
        4,
        algorithm_key=AlgorithmName.MSE,
    )


RECIPES: Mapping[str, Callable[[Quantizer], None]] = {
    "fp16": _set_half,
    "w8-dynamic": _set_dynamic,
    "w8-dynamic-tensor": _set_dynamic_tensor,
    "w8-weight": _set_weight_only,
    "w4-weight": _set_weight_only_4bit,
}


@dataclasses.dataclass(frozen=True)
class QuantizeTflite:
    """Writes ``<part>.tflite`` with smaller weights; inputs and outputs stay float.

    ``keep``: paths of modules that stay in float.
    """

    scheme: str
    keep: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "tflite"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (
        "ai-edge-quantizer",
        "ai-edge-litert",
    )
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A scheme of this step, and a file that is not quantized yet."""
        if self.scheme not in RECIPES:
            suggestion = suggest(self.scheme, RECIPES)
            raise StepError(
                f"quantize_tflite does not support the scheme {self.scheme!r}. {suggestion}",
                fix="use quantize_torch, before the export, for w8a8-static, and "
                "calibrate_tflite for w8a16-static",
            )
        tflite_quantizer.require_float(artifact, self.scheme)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Quantize every part; the notes contain how many layers have int8 weights."""
        for part in artifact.parts:
            path = context.folder / f"{part.name}.tflite"
            tflite_quantizer.quantize(
                artifact.path(part), path, RECIPES[self.scheme], self.keep
            )
        return tflite_quantizer.collect(artifact, context.folder)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Weights changed, and all signatures of a file produce the same.

        fp16 must store half-precision tensors, the other schemes tensors of 4 or 8 bits.
        """
        is_dynamic = self.scheme.startswith("w8-dynamic")
        for part in after.parts:
            path = after.path(part)
            tflite_signatures.check(path, part.name, dynamic=is_dynamic)
            if self.scheme == "fp16":
                changed = tflite_file.count_half_tensors(path)
            else:
                changed = tflite_file.count_quantized_tensors(path)
            if not changed:
                raise NothingToDo(
                    f"{part.name}: {self.scheme} changed no weights; it supports no layer of "
                    "this network.",
                    fix="use the scheme 'float'",
                )
