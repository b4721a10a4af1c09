"""Quantize a TFLite file to 8-bit weights and 16-bit activations on calibration data, with
Google's ai-edge-quantizer.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from edgekit.arrays import Array, Feeds
from edgekit.artifact import Artifact, FormatName, Part, chain
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite import quantizer as tflite_quantizer
from edgekit.task import SplitName


def _set_recipe(quantizer: Quantizer) -> None:
    quantizer.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 16, 8)


@dataclasses.dataclass(frozen=True)
class CalibrateTflite:
    """Writes ``<part>.tflite`` that computes in integers; its inputs and outputs are int16.

    ``keep``: paths of modules that stay in float.
    """

    scheme: str = "w8a16-static"
    samples: int = 128
    keep: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "tflite"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = (
        "ai-edge-quantizer",
        "ai-edge-litert",
    )
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """The one scheme of this step, at least one sample, a float file, one signature."""
        if self.scheme != "w8a16-static":
            raise StepError(
                f"calibrate_tflite does not support the scheme {self.scheme!r}.",
                fix="use w8a16-static, or quantize_torch or quantize_tflite for other schemes",
            )
        if self.samples < 1:
            raise StepError(
                f"Invalid number of calibration samples: {self.samples}.",
                fix="set samples to 100 or more",
            )
        tflite_quantizer.require_float(artifact, self.scheme)
        for part in artifact.parts:
            if len(tflite_file.read(artifact.path(part)).subgraphs) > 1:
                raise StepError(
                    f"{part.name} has several signatures; calibration supports one.",
                    fix="export the file with batches: [1]",
                )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate and quantize the parts in order, each on the outputs of those before."""
        data = context.task.need("calibration", "quantization")
        split = data.draw(self.samples, context.seed)
        context.progress.expect(len(artifact.parts))

        def quantize_part(part: Part, feeds: Feeds) -> Feeds:
            samples = [
                _encode(part, feeds, index) for index in range(len(split))
            ]
            path = context.folder / f"{part.name}.tflite"
            source = artifact.path(part)
            tflite_quantizer.quantize(
                source, path, _set_recipe, self.keep, samples
            )
            litert.require_loadable(path)
            context.progress.advance(note=part.name)
            return run_part(artifact, part, samples)

        chain(artifact.parts, quantize_part, dict(split.inputs))
        quantized = tflite_quantizer.collect(artifact, context.folder)
        notes = {**quantized.notes, "samples": len(split)}
        return quantized.model_copy(update={"notes": notes})

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Some weights have 8 bits."""
        for part in after.parts:
            if not tflite_file.count_quantized_tensors(after.path(part)):
                raise NothingToDo(
                    f"{part.name}: {self.scheme} changed no weights; it supports no layer of "
                    "this network.",
                    fix="use the scheme 'float'",
                )


def _encode(part: Part, feeds: Feeds, index: int) -> dict[str, Array]:
    return {
        f"args_{number}": spec.encode(feeds[spec.name][index : index + 1])
        for number, spec in enumerate(part.signature.inputs)
    }


def run_part(
    artifact: Artifact, part: Part, samples: Sequence[tflite_quantizer.Sample]
) -> dict[str, Array]:
    """The outputs of the float part for these samples, by name: the next part's inputs."""
    interpreter = Interpreter(str(artifact.path(part)), num_threads=1)
    interpreter.allocate_tensors()
    inputs = litert.sort_details(interpreter.get_input_details())
    outputs = litert.sort_details(interpreter.get_output_details())
    collected: dict[str, list[Array]] = {
        spec.name: [] for spec in part.signature.outputs
    }
    for sample in samples:
        litert.set_inputs(interpreter, inputs, sample.values())
        interpreter.invoke()
        for spec, detail in zip(part.signature.outputs, outputs, strict=True):
            value = interpreter.get_tensor(detail["index"])
            collected[spec.name].append(spec.decode(value))
    return {
        name: numpy.concatenate(values) for name, values in collected.items()
    }
