"""8-bit weights and 16-bit activations in a TFLite file, by Google's ai-edge-quantizer, on
calibration data.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from edgekit.artifact import Artifact, FormatName, Part, chain
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import quantizer as tflite_quantizer
from edgekit.task import SplitName

Array = Any


def _integers(quantizer: Quantizer) -> None:
    quantizer.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 16, 8)


@dataclasses.dataclass(frozen=True)
class CalibrateTflite:
    """Writes ``<part>.tflite`` that computes in integers, its inputs and outputs int16.

    ``keep``: modules, by path, that stay in float.
    """

    scheme: str = "w8a16-static"
    samples: int = 128
    keep: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "tflite"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-quantizer", "ai-edge-litert")
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """The one scheme that this step has, some samples, a float file."""
        if self.scheme != "w8a16-static":
            raise StepError(
                f"calibrate_tflite has no scheme {self.scheme!r}.",
                fix="w8a16-static is made here; others by quantize_torch or quantize_tflite",
            )
        if self.samples < 1:
            raise StepError(
                f"Calibration on {self.samples} samples is not possible.",
                fix="set samples to 100 or more",
            )
        tflite_quantizer.require_float(artifact, self.scheme)
        for part in artifact.parts:
            if len(tflite_file.read(artifact.path(part)).subgraphs) > 1:
                raise StepError(
                    f"{part.name} has several signatures, and calibration knows one.",
                    fix="make the file with batches: [1]",
                )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate and quantize part after part."""
        split = context.task.need("calibration", "quantization").draw(
            self.samples, context.seed
        )
        context.progress.expect(len(artifact.parts))

        def part_after_part(part: Part, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            rows = [_encoded(part, feeds, index) for index in range(len(split))]
            path = context.folder / f"{part.name}.tflite"
            tflite_quantizer.quantize(artifact.path(part), path, _integers, self.keep, rows)
            tflite_file.require_loadable(path)
            context.progress.advance(note=part.name)
            return outputs(artifact, part, rows)

        chain(artifact.parts, part_after_part, dict(split.inputs))
        made = tflite_quantizer.finished(artifact, context.folder)
        return made.model_copy(update={"notes": {**made.notes, "samples": len(split)}})

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Some weights have 8 bits."""
        for part in after.parts:
            if not tflite_file.small_tensors(after.path(part)):
                raise NothingToDo(
                    f"{part.name}: {self.scheme} changed no weights; no layer of this network can have it.",
                    fix="take the scheme 'float'",
                )


def _encoded(part: Part, feeds: Mapping[str, Array], index: int) -> dict[str, Array]:
    return {
        f"args_{number}": spec.encode(feeds[spec.name][index : index + 1])
        for number, spec in enumerate(part.signature.inputs)
    }


def outputs(
    artifact: Artifact, part: Part, rows: list[dict[str, Array]]
) -> dict[str, Array]:
    """What the float part gives for these samples, by name, for the parts behind it."""
    running = Interpreter(str(artifact.path(part)), num_threads=1)
    running.allocate_tensors()
    inputs, ends = (
        sorted(ends, key=lambda end: tflite_file.by_number(str(end["name"])))
        for ends in (running.get_input_details(), running.get_output_details())
    )
    found: dict[str, list[Array]] = {spec.name: [] for spec in part.signature.outputs}
    for row in rows:
        for detail, value in zip(inputs, row.values(), strict=True):
            running.set_tensor(detail["index"], value)
        running.invoke()
        for spec, detail in zip(part.signature.outputs, ends, strict=True):
            found[spec.name].append(spec.decode(running.get_tensor(detail["index"])))
    return {name: numpy.concatenate(values) for name, values in found.items()}
