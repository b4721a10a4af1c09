"""Make the linear layers of a float TFLite file fit for dynamic int8, on calibration data.

The file stays float.

Done on the file, not on the PyTorch network: litert-torch moves the scale of a layer norm
into the linear layers behind it, and with it whatever was smoothed there.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy
from ai_edge_litert.interpreter import Interpreter

from edgekit.artifact import Artifact, File, FormatName, Part, chain
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import edit as tflite_edit
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite.edit import Group
from edgekit.quantization.tuning import dynamic as dynamic_tuning
from edgekit.task import SplitName

#: Rows that are kept of all samples together, to measure errors on.
ROWS = 1024
Array = dynamic_tuning.Array


@dataclasses.dataclass
class Seen:
    """What calibration saw of one tensor: some of its rows, and the sum of x x^T over all
    of them.
    """

    rows: list[Array]
    moments: Array = dataclasses.field(default_factory=lambda: numpy.zeros((), "float32"))

    def add(self, values: Array, keep: int, random: numpy.random.Generator) -> None:
        """Take in one sample's rows; ``keep`` of them, drawn by chance, are stored."""
        values = values.reshape(-1, values.shape[-1])
        with numpy.errstate(over="ignore", invalid="ignore"):  # told by observe
            self.moments = self.moments + values.T @ values
        self.rows.append(values[numpy.sort(random.permutation(len(values))[:keep])])


@dataclasses.dataclass(frozen=True)
class TuneTflite:
    """Writes ``<part>.tflite``: the same network in float, whose weights lie on the int8
    grid that quantize_tflite then finds.

    ``smooth``: outliers of a layer's input move into its weights where that lessens the
    layer's error by a tenth or more; costs one MUL for each input. ``rounding``: learned
    makes one weight's rounding error good by others. ``correct_bias``: the mean error of
    each output goes into the bias. ``keep``: modules, by path, that are left as they are.
    """

    smooth: bool = True
    rounding: Literal["nearest", "learned"] = "learned"
    correct_bias: bool = True
    keep: tuple[str, ...] = ()
    samples: int = 256

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "tflite"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert",)
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """A float file, some samples, and something to do."""
        if self.samples < 1:
            raise StepError(
                f"Calibration on {self.samples} samples is not possible.",
                fix="set samples to 100 or more",
            )
        for part in artifact.parts:
            if len(tflite_file.read(artifact.path(part)).subgraphs) > 1:
                raise StepError(
                    f"{part.name} has several signatures, and tuning would change the weights of all for one.",
                    fix="leave tune_tflite out",
                )
            ends = any(
                spec.quantization
                for spec in (*part.signature.inputs, *part.signature.outputs)
            )
            if ends or tflite_file.small_tensors(artifact.path(part)):
                raise StepError(
                    f"{part.name} is quantized already; tuning starts from a float file.",
                    fix="take the scheme 'float' before this step",
                )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Run every part on the calibration data and write it anew; the notes tell each
        layer's smoothing and error.
        """
        split = context.task.need("calibration", "quantization").draw(
            self.samples, context.seed
        )
        context.progress.expect(len(artifact.parts))
        notes: dict[str, Any] = {}
        parts: list[Part] = []

        def part_after_part(part: Part, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            model = tflite_file.read(artifact.path(part))
            groups = tflite_edit.groups(model, self.keep)
            seen, outputs = observe(artifact.path(part), part, groups, feeds, context.seed)
            notes[part.name] = [
                self._tune(model, group, seen[group.source]) for group in reversed(groups)
            ][::-1]
            path = context.folder / f"{part.name}.tflite"
            tflite_file.write(model, path)
            parts.append(part.model_copy(update={"files": {"model": File(path=path.name)}}))
            context.progress.advance(note=part.name)
            return outputs

        chain(artifact.parts, part_after_part, dict(split.inputs))
        return Artifact(
            format="tflite",
            parts=tuple(parts),
            folder=context.folder,
            notes={"samples": len(split), "parts": notes},
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The files are still float and load."""
        for old, part in zip(before.parts, after.parts, strict=True):
            if (
                tflite_file.arithmetic(after.path(part)).int8_weights
                != tflite_file.arithmetic(before.path(old)).int8_weights
            ):
                raise StepError(
                    f"{part.name}: tuning changed the type of weights.",
                    fix="report it with the network",
                )
            tflite_file.described(after.path(part), part.signature)

    def _tune(self, model: Any, group: Group, seen: Seen) -> dict[str, Any]:
        rows, weights = (
            numpy.concatenate(seen.rows),
            [tflite_edit.weight(model, operator) for operator in group.operators],
        )
        alpha, factor = (
            dynamic_tuning.smoothing(rows, weights) if self.smooth else (None, None)
        )
        before, after = dynamic_tuning.output_error(rows, weights, None), 0.0
        moments = (
            seen.moments if factor is None else seen.moments * numpy.outer(factor, factor)
        )
        changed: dict[int, tuple[Array, Array | None]] = {}
        for operator, weight in zip(group.operators, weights, strict=True):
            scaled = weight if factor is None else weight / factor
            new = (
                dynamic_tuning.rounded(scaled, moments)
                if self.rounding == "learned"
                else scaled
            )
            stored = dynamic_tuning.quantized_weight(new)
            added = (
                dynamic_tuning.bias_correction(rows, weight, factor, stored)
                if self.correct_bias
                else None
            )
            after += dynamic_tuning.remaining(rows, weight, factor, stored, added)
            changed[id(operator)] = (new, added)
        for operator in group.operators:
            tflite_edit.set_weight(model, operator, *changed[id(operator)])
        if factor is not None:
            tflite_edit.scale_input(model, group, factor)
        return {
            "module": group.module,
            "layers": len(weights),
            "alpha": alpha,
            "error_before": before,
            "error_after": after,
        }


def observe(
    path: pathlib.Path,
    part: Part,
    groups: list[Group],
    feeds: Mapping[str, Array],
    seed: int,
) -> tuple[dict[int, Seen], dict[str, Array]]:
    """Run the file on every sample: what the groups' inputs held, and the part's outputs by
    name.
    """
    sources = [group.source for group in groups]
    running = Interpreter(
        model_content=tflite_edit.with_outputs(path, sources), num_threads=1
    )
    running.allocate_tensors()
    inputs = sorted(
        running.get_input_details(),
        key=lambda detail: tflite_file.by_number(str(detail["name"])),
    )
    outputs = sorted(
        running.get_output_details()[: len(part.signature.outputs)],
        key=lambda detail: tflite_file.by_number(str(detail["name"])),
    )
    random, seen = numpy.random.default_rng(seed), {source: Seen([]) for source in sources}
    arrays = [feeds[spec.name] for spec in part.signature.inputs]
    found: dict[str, list[Array]] = {spec.name: [] for spec in part.signature.outputs}
    for index in range(len(arrays[0])):
        for spec, detail, array in zip(part.signature.inputs, inputs, arrays, strict=True):
            running.set_tensor(detail["index"], spec.encode(array[index : index + 1]))
        running.invoke()
        for source in sources:
            seen[source].add(
                running.get_tensor(source), max(1, ROWS // len(arrays[0])), random
            )
        for spec, detail in zip(part.signature.outputs, outputs, strict=True):
            found[spec.name].append(spec.decode(running.get_tensor(detail["index"])))
    wrong = [
        group.module or str(group.source)
        for group in groups
        if not numpy.isfinite(seen[group.source].moments).all()
    ]
    if wrong:
        raise StepError(
            f"Calibration met infinite or undefined numbers before {wrong[0]}.",
            fix="mask with a finite number, or leave this network in float",
        )
    return seen, {name: numpy.concatenate(values) for name, values in found.items()}
