"""Quantize a float TFLite file with Google's ai-edge-quantizer, without calibration data."""

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


def _half(quantizer: Quantizer) -> None:
    """float16 weights; each gets a DEQUANTIZE, and the runtime computes in what it likes."""
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


def _dynamic(quantizer: Quantizer) -> None:
    """int8 weights with one scale a channel; LiteRT scales every row of the activations
    while the network runs.
    """
    quantizer.add_dynamic_config(".*", _ALL, 8)


def _dynamic_tensor(quantizer: Quantizer) -> None:
    """int8 weights: one scale a channel for convolutions, one for all in FULLY_CONNECTED.

    With one a channel there, tflite-runtime 2.14 loads the file and computes nonsense
    (accuracy at chance); with one for all in CONV_2D, LiteRT 2.3 does.
    """
    quantizer.add_dynamic_config(".*", _ALL, 8)
    quantizer.add_dynamic_config(
        ".*", TFLOperationName.FULLY_CONNECTED, 8, QuantGranularity.TENSORWISE
    )


def _weight(quantizer: Quantizer) -> None:
    """int8 weights that are made float again before they are used: all arithmetic is float."""
    quantizer.add_weight_only_config(".*", _ALL, 8)


def _weight4(quantizer: Quantizer) -> None:
    """As ``_weight``, with 4 bits in FULLY_CONNECTED, one scale a channel.

    Convolutions and embeddings, which 4 bits hurt most, have 8.
    """
    quantizer.add_weight_only_config(".*", _ALL, 8)
    quantizer.add_weight_only_config(
        ".*", TFLOperationName.FULLY_CONNECTED, 4, algorithm_key=AlgorithmName.MSE
    )


RECIPES: Mapping[str, Callable[[Quantizer], None]] = {
    "fp16": _half,
    "w8-dynamic": _dynamic,
    "w8-dynamic-tensor": _dynamic_tensor,
    "w8-weight": _weight,
    "w4-weight": _weight4,
}


@dataclasses.dataclass(frozen=True)
class QuantizeTflite:
    """Writes ``<part>.tflite`` with smaller weights; inputs and outputs stay float.

    ``keep``: modules, by path, that stay in float.
    """

    scheme: str
    keep: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "tflite"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-quantizer", "ai-edge-litert")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A scheme that this step has, and a file that is not quantized yet."""
        if self.scheme not in RECIPES:
            raise StepError(
                f"quantize_tflite has no scheme {self.scheme!r}. {suggest(self.scheme, RECIPES)}",
                fix="w8a8-static is made by quantize_torch, before the export; w8a16-static by calibrate_tflite",
            )
        tflite_quantizer.require_float(artifact, self.scheme)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Quantize every part; the notes tell how many layers have int8 weights."""
        for part in artifact.parts:
            tflite_quantizer.quantize(
                artifact.path(part),
                context.folder / f"{part.name}.tflite",
                RECIPES[self.scheme],
                self.keep,
            )
        return tflite_quantizer.finished(artifact, context.folder)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Weights changed: tensors of 4 or 8 bits, or half-precision tensors for fp16; all
        signatures of a file give the same.
        """
        for part in after.parts:
            path = after.path(part)
            tflite_signatures.check(
                path, part.name, dynamic=self.scheme.startswith("w8-dynamic")
            )
            done = (
                tflite_file.half_tensors(path)
                if self.scheme == "fp16"
                else tflite_file.small_tensors(path)
            )
            if not done:
                raise NothingToDo(
                    f"{part.name}: {self.scheme} changed no weights; no layer of this network can have it.",
                    fix="take the scheme 'float'",
                )
