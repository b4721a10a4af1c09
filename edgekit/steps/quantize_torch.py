"""Quantize on the PyTorch graph, once for every backend: ranges become a file, and weights
that a remedy changes another.
"""

import dataclasses
import functools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy
import torch

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.quantization.calibration import Calibration, Constants, read, write
from edgekit.quantization.settings import Settings
from edgekit.quantization.tuning.adapt import adapt
from edgekit.scheme import Tuning, find
from edgekit.steps import torch_chain, torch_storage
from edgekit.steps.torch_reference import QUANTIZATION
from edgekit.target import Runtime
from edgekit.task import Split, SplitName

#: Samples that are calibrated at once. Memory does not grow with the number of samples.
BATCH_SIZE = 32
Row = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class QuantizeTorch:
    """Find the ranges of activations on calibration data.

    ``symmetric`` makes every activation's zero point 0, as TensorRT asks for.

    ``tuning`` holds the fields of ``edgekit.scheme.Tuning`` that differ from its defaults.
    """

    scheme: str = "w8a8-static"
    symmetric: bool = False
    samples: int = 256
    #: What will run the file: what it has no int8 kernel for stays float. None: any
    #: runtime.
    runtime: Runtime | None = None
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "torch"
    version: ClassVar[int] = 3
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchao", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """A float network, and some samples."""
        known = find(self.scheme)
        if not known.calibrated or known.weight_bits != 8 or known.provider != "edgekit":
            raise StepError(
                f"The scheme {self.scheme!r} is not made on the PyTorch graph.",
                fix="use w8a8-static here; other schemes are made after export",
            )
        if self.samples < 1:
            raise StepError(
                f"Calibration on {self.samples} samples is not possible.",
                fix="set samples to 100 or more",
            )
        done = [part.name for part in artifact.parts if QUANTIZATION in part.files]
        if done:
            raise StepError(
                f"The network is quantized already ({', '.join(done)}).",
                fix="quantize once",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Copy every part and write its calibration beside it."""
        split = context.task.need("calibration", "quantization")
        order = drawn(split, self.samples, context.seed)
        networks = torch_storage.load(artifact, context.networks())
        context.progress.expect(len(artifact.parts))
        parts, told = [], {}
        for place, part in enumerate(artifact.parts):
            rows = functools.partial(
                rows_of, split, order, artifact.parts[: place + 1], networks
            )
            found, constants = adapt(
                networks[part.name].eval(),
                rows,
                part.signature,
                self.settings,
                self._tuning,
            )
            parts.append(copied(artifact, part, (found, constants), context))
            told[part.name] = describe(found)
            context.progress.advance(note=part.name)
        notes = {"samples": len(order), "tuning": dict(self.tuning), "parts": told}
        return Artifact(
            format="torch", parts=tuple(parts), notes=notes, folder=context.folder
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The network's own weights are the same bytes as before, and every part has a
        calibration that can be read.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            if (
                old.signature != new.signature
                or before.path(old, "weights").read_bytes()
                != after.path(new, "weights").read_bytes()
            ):
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
        """What the quantizer is told."""
        known, tuning = find(self.scheme), self._tuning
        return Settings(
            symmetric=self.symmetric or known.symmetric,
            per_channel=known.per_channel,
            activation_bits=16 if known.activation_bits == 16 else 8,
            observer=tuning.observer,
            placement=known.placement,
            keep=tuning.keep,
            split_outputs=tuning.split_outputs,
            runtime=self.runtime,
        )


def drawn(split: Split, count: int, seed: int) -> Any:
    """The numbers of ``count`` samples in random order: data are often sorted by class."""
    return numpy.random.default_rng(seed).permutation(len(split))[:count]


def rows_of(
    split: Split,
    order: Any,
    parts: tuple[Part, ...],
    networks: Mapping[str, torch.nn.Module],
) -> Iterator[Row]:
    """The inputs of the last of ``parts``, batch after batch: those before it compute them
    anew, so that nothing is kept.
    """
    for start in range(0, len(order), BATCH_SIZE):
        known = torch_chain.input_tensors(split.rows(order[start : start + BATCH_SIZE]))
        with torch.no_grad():
            for part in parts[:-1]:
                known = {
                    **known,
                    **torch_chain.call(networks[part.name].eval(), part.signature, known),
                }
        yield tuple(known[spec.name] for spec in parts[-1].signature.inputs)


def copied(
    artifact: Artifact, part: Part, found: tuple[Calibration, Constants], context: Context
) -> Part:
    """A part with its files copied, and what quantizes it written beside them."""
    files = {}
    for role, file in part.files.items():
        shutil.copyfile(artifact.path(part, role), context.folder / file.path)
        files[role] = File(path=file.path)
    return part.model_copy(
        update={"files": {**files, **_stored(part.name, *found, context)}}
    )


def _stored(
    name: str, calibration: Calibration, constants: Constants, context: Context
) -> dict[str, File]:
    """Write what quantizes a part; its files by role."""
    written = write(calibration, constants, context.folder / f"{name}.quantization.json")
    return {
        role: File(path=path.name)
        for role, path in zip((QUANTIZATION, "constants"), written, strict=False)
    }


def describe(calibration: Calibration) -> dict[str, Any]:
    """For the report: how much is int8, what is not and why (equal lines counted), how
    weights were changed.
    """
    left = Counter((item.op, item.module, item.reason) for item in calibration.left_float)
    return {
        "quantized_ops": calibration.quantized_ops,
        "output_scales": list(calibration.output_scales),
        "left_float": [
            {"op": op, "module": module, "reason": reason, "times": times}
            for (op, module, reason), times in left.items()
        ],
        "changes": list(calibration.changes),
    }
