"""Post-training quantization of the PyTorch graph, once for all backends.

Ranges are stored in one file, and weights that a tuning changes in another.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from edgekit.artifact import Artifact, FormatName
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.quantization.calibration import Calibration, read
from edgekit.quantization.settings import Settings
from edgekit.quantization.tuning.adapt import adapt
from edgekit.scheme import Tuning, find
from edgekit.steps import torch_storage
from edgekit.steps.calibration_data import draw_samples, iterate_inputs
from edgekit.steps.quantized_parts import copy_with_calibration
from edgekit.steps.torch_reference import QUANTIZATION
from edgekit.target import Runtime
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class QuantizeTorch:
    """Find the ranges of activations on calibration data.

    ``symmetric`` sets the zero point of every activation to 0, as TensorRT requires.
    ``tuning`` contains the fields of ``edgekit.scheme.Tuning`` that differ from its
    defaults.
    """

    scheme: str = "w8a8-static"
    symmetric: bool = False
    samples: int = 256
    #: What will run the file: an operator without an int8 kernel there stays in float.
    #: None: any runtime.
    runtime: Runtime | None = None
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 3
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchao", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """A float network, and at least one sample."""
        scheme = find(self.scheme)
        is_int8 = scheme.calibrated and scheme.weight_bits == 8
        if not is_int8 or scheme.provider != "edgekit":
            raise StepError(
                f"The scheme {self.scheme!r} is not available on the PyTorch graph.",
                fix="use w8a8-static here; other schemes are applied after export",
            )
        if self.samples < 1:
            raise StepError(
                f"Calibration on {self.samples} samples is not possible.",
                fix="set samples to 100 or more",
            )
        quantized = [
            part.name for part in artifact.parts if QUANTIZATION in part.files
        ]
        if quantized:
            raise StepError(
                f"The network is quantized already ({', '.join(quantized)}).",
                fix="quantize once",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Copy every part and write its calibration next to it."""
        split = context.task.need("calibration", "quantization")
        samples = draw_samples(split, self.samples, context.seed)
        networks = torch_storage.load(artifact, context.networks())
        context.progress.expect(len(artifact.parts))
        parts = []
        descriptions = {}
        for index, part in enumerate(artifact.parts):
            chain = artifact.parts[: index + 1]
            batches = functools.partial(
                iterate_inputs, split, samples, chain, networks
            )
            network = networks[part.name].eval()
            calibration, constants = adapt(
                network, batches, part.signature, self.settings, self._tuning
            )
            parts.append(
                copy_with_calibration(
                    artifact, part, calibration, constants, context
                )
            )
            descriptions[part.name] = describe(calibration)
            context.progress.advance(note=part.name)
        notes = {
            "samples": len(samples),
            "tuning": dict(self.tuning),
            "parts": descriptions,
        }
        return Artifact(
            format="torch",
            parts=tuple(parts),
            notes=notes,
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The network's own weights are unchanged, and every part has a calibration."""
        for old, new in zip(before.parts, after.parts, strict=True):
            old_weights = before.path(old, "weights").read_bytes()
            new_weights = after.path(new, "weights").read_bytes()
            if old.signature != new.signature or old_weights != new_weights:
                raise StepError(
                    f"Quantizing changed the weights or the signature of {new.name}.",
                    fix="report this as a bug",
                )
            read(after.path(new, QUANTIZATION))

    @property
    def _tuning(self) -> Tuning:
        return Tuning.model_validate(dict(self.tuning))

    @property
    def settings(self) -> Settings:
        """The settings of the quantizer."""
        scheme = find(self.scheme)
        tuning = self._tuning
        return Settings(
            symmetric=self.symmetric or scheme.symmetric,
            per_channel=scheme.per_channel,
            activation_bits=16 if scheme.activation_bits == 16 else 8,
            observer=tuning.observer,
            placement=scheme.placement,
            keep=tuning.keep,
            split_outputs=tuning.split_outputs,
            runtime=self.runtime,
        )


def describe(calibration: Calibration) -> dict[str, Any]:
    """The report's description of a calibration, as JSON values.

    How much is int8, what stays in float and why (equal entries are counted), and how
    weights were changed.
    """
    counts = Counter(
        (item.op, item.module, item.reason) for item in calibration.left_float
    )
    left_float = [
        {"op": op, "module": module, "reason": reason, "times": times}
        for (op, module, reason), times in counts.items()
    ]
    return {
        "quantized_ops": calibration.quantized_ops,
        "output_scales": list(calibration.output_scales),
        "left_float": left_float,
        "changes": list(calibration.changes),
    }
