"""Prepare the linear layers of a float TFLite file for dynamic int8, on calibration data.

The file stays float. It is tuned instead of the PyTorch network because litert-torch moves
the scale of a layer norm into the linear layers after it, and with it any smoothing that
was done there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy
from ai_edge_litert.interpreter import Interpreter

from edgekit.arrays import Array, Feeds
from edgekit.artifact import Artifact, File, FormatName, Part, chain
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import edit as tflite_edit
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite.edit import LinearGroup
from edgekit.quantization.tuning import dynamic as dynamic_tuning
from edgekit.task import SplitName

#: Rows that are kept over all samples together, to measure errors on.
MAX_ROWS = 1024


@dataclasses.dataclass
class InputStatistics:
    """What calibration recorded of one tensor: some of its rows, (n, inputs) each, and the
    sum of x x^T over all rows, (inputs, inputs).
    """

    rows: list[Array]
    moments: Array = dataclasses.field(
        default_factory=lambda: numpy.zeros((), "float32")
    )

    def add(
        self, values: Array, keep: int, random: numpy.random.Generator
    ) -> None:
        """Record the rows of one sample; ``keep`` of them, chosen at random, are stored."""
        values = values.reshape(-1, values.shape[-1])
        # observe() reports infinite and undefined values.
        with numpy.errstate(over="ignore", invalid="ignore"):
            self.moments = self.moments + values.T @ values
        chosen = numpy.sort(random.permutation(len(values))[:keep])
        self.rows.append(values[chosen])


@dataclasses.dataclass(frozen=True)
class TuneTflite:
    """Writes ``<part>.tflite``: the same network in float, with weights on the int8 grid
    that quantize_tflite then chooses.

    ``smooth``: move outliers of a layer's input into its weights if that reduces the
    layer's error by a tenth or more; costs one MUL per input. ``rounding``: "learned"
    compensates the rounding error of a weight by other weights. ``correct_bias``: add the
    mean error of each output to the bias. ``keep``: paths of modules that stay unchanged.
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
        """At least one sample, and float files with one signature."""
        if self.samples < 1:
            raise StepError(
                f"Invalid number of calibration samples: {self.samples}.",
                fix="set samples to 100 or more",
            )
        for part in artifact.parts:
            path = artifact.path(part)
            if len(tflite_file.read(path).subgraphs) > 1:
                raise StepError(
                    f"{part.name} has several signatures, and tuning for one would change the "
                    "weights of all.",
                    fix="remove the step tune_tflite",
                )
            specs = (*part.signature.inputs, *part.signature.outputs)
            has_quantized_ends = any(spec.quantization for spec in specs)
            if has_quantized_ends or tflite_file.count_quantized_tensors(path):
                raise StepError(
                    f"{part.name} is already quantized; tuning requires a float file.",
                    fix="use the scheme 'float' before this step",
                )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Tune the parts in order, each on the outputs of those before.

        The notes contain the smoothing and the error of each group of layers.
        """
        data = context.task.need("calibration", "quantization")
        split = data.draw(self.samples, context.seed)
        context.progress.expect(len(artifact.parts))
        notes: dict[str, Any] = {}
        parts: list[Part] = []

        def tune_part(part: Part, feeds: Feeds) -> Feeds:
            model = tflite_file.read(artifact.path(part))
            groups = tflite_edit.find_linear_groups(model, self.keep)
            content = tflite_edit.add_outputs(
                artifact.path(part), [group.source for group in groups]
            )
            statistics, outputs = observe(
                content, part, groups, feeds, context.seed
            )
            rows = [
                self._tune(model, group, statistics[group.source])
                for group in reversed(groups)
            ]
            notes[part.name] = rows[::-1]
            path = context.folder / f"{part.name}.tflite"
            tflite_file.write(model, path)
            parts.append(
                part.model_copy(
                    update={"files": {"model": File(path=path.name)}}
                )
            )
            context.progress.advance(note=part.name)
            return outputs

        chain(artifact.parts, tune_part, dict(split.inputs))
        return Artifact(
            format="tflite",
            parts=tuple(parts),
            folder=context.folder,
            notes={"samples": len(split), "parts": notes},
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The files are still float, and LiteRT loads them."""
        for old, part in zip(before.parts, after.parts, strict=True):
            old_counts = tflite_file.count_layers(before.path(old))
            counts = tflite_file.count_layers(after.path(part))
            if counts.int8_weights != old_counts.int8_weights:
                raise StepError(
                    f"{part.name}: tuning changed the dtype of weights.",
                    fix="report it with the network",
                )
            litert.read_signature(after.path(part), part.signature)

    def _tune(
        self, model: Any, group: LinearGroup, statistics: InputStatistics
    ) -> dict[str, Any]:
        """Change the layers of a group in the object tree and return a row for the notes."""
        rows = numpy.concatenate(statistics.rows)
        moments = statistics.moments
        weights = [
            tflite_edit.get_weight(model, operator)
            for operator in group.operators
        ]
        alpha, factor = None, None
        if self.smooth:
            alpha, factor = dynamic_tuning.find_smoothing(rows, weights)
        if factor is not None:
            moments = moments * numpy.outer(factor, factor)
        error_after = 0.0
        for operator, weight in zip(group.operators, weights, strict=True):
            new_weight = weight if factor is None else weight / factor
            if self.rounding == "learned":
                new_weight = dynamic_tuning.round_weight(new_weight, moments)
            stored = dynamic_tuning.quantize_weight(new_weight)
            added_bias = None
            if self.correct_bias:
                added_bias = dynamic_tuning.bias_correction(
                    rows, weight, factor, stored
                )
            error_after += dynamic_tuning.remaining_error(
                rows, weight, factor, stored, added_bias
            )
            tflite_edit.set_weight(model, operator, new_weight, added_bias)
        if factor is not None:
            tflite_edit.scale_input(model, group, factor)
        return {
            "module": group.module,
            "layers": len(weights),
            "alpha": alpha,
            "error_before": dynamic_tuning.output_error(rows, weights, None),
            "error_after": error_after,
        }


def observe(
    content: bytes,
    part: Part,
    groups: Sequence[LinearGroup],
    feeds: Feeds,
    seed: int,
) -> tuple[dict[int, InputStatistics], dict[str, Array]]:
    """Run a file on every sample; return statistics by tensor, and the part's outputs.

    ``content`` is the part's file with the inputs of ``groups`` as additional outputs.
    Raises StepError if one of them is infinite or undefined.
    """
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    own_outputs = interpreter.get_output_details()[
        : len(part.signature.outputs)
    ]
    inputs = litert.sort_details(interpreter.get_input_details())
    outputs = litert.sort_details(own_outputs)
    random = numpy.random.default_rng(seed)
    statistics = {group.source: InputStatistics([]) for group in groups}
    collected: dict[str, list[Array]] = {
        spec.name: [] for spec in part.signature.outputs
    }
    arrays = [feeds[spec.name] for spec in part.signature.inputs]
    count = len(arrays[0])
    for index in range(count):
        pairs = zip(part.signature.inputs, arrays, strict=True)
        sample = [
            spec.encode(array[index : index + 1]) for spec, array in pairs
        ]
        litert.set_inputs(interpreter, inputs, sample)
        interpreter.invoke()
        for source, statistic in statistics.items():
            statistic.add(
                interpreter.get_tensor(source),
                max(1, MAX_ROWS // count),
                random,
            )
        for spec, detail in zip(part.signature.outputs, outputs, strict=True):
            value = interpreter.get_tensor(detail["index"])
            collected[spec.name].append(spec.decode(value))
    _require_finite(groups, statistics)
    results = {
        name: numpy.concatenate(values) for name, values in collected.items()
    }
    return statistics, results


def _require_finite(
    groups: Sequence[LinearGroup], statistics: dict[int, InputStatistics]
) -> None:
    for group in groups:
        if not numpy.isfinite(statistics[group.source].moments).all():
            layer = group.module or f"tensor {group.source}"
            raise StepError(
                f"Calibration produced infinite or undefined values at the input of {layer}.",
                fix="mask with a finite number, or leave this network in float",
            )
