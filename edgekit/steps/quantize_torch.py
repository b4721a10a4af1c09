"""Calibrate int8 on the PyTorch graph, once for every backend: the weights stay as they are, the ranges become a file."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from edgekit.artifact import Artifact, File, Form, Part, chain
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.quantization.graph import Calibration, calibrate, read
from edgekit.quantization.settings import Settings
from edgekit.scheme import find
from edgekit.steps import torch_chain, torch_storage
from edgekit.task import SplitName

BATCH_SIZE = 64
_ROLE = "quantization"
#: One tensor for each batch, by the tensor's name.
Batches = Mapping[str, list[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class QuantizeTorch:
    """Find the int8 ranges on calibration data. ``symmetric`` makes every activation's zero point 0, as TensorRT asks for."""

    scheme: str = "w8a8-static"
    symmetric: bool = False
    samples: int = 256
    takes: ClassVar[tuple[Form, ...]] = ("torch",)
    gives: ClassVar[Form] = "torch"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchao", "safetensors")
    reads: ClassVar[tuple[SplitName, ...]] = ("calibration",)

    def requires(self, artifact: Artifact) -> None:
        """A float network, a scheme that is calibrated, and some samples."""
        known = find(self.scheme)
        if not known.calibrated or (known.weight_bits, known.activation_bits) != (8, 8):
            raise StepError(f"The scheme {self.scheme!r} is not made on the PyTorch graph.", fix="use w8a8-static here; other schemes are made after export")
        if self.samples < 1:
            raise StepError(f"Calibration on {self.samples} samples is not possible.", fix="set samples to 100 or more")
        done = [part.name for part in artifact.parts if _ROLE in part.files]
        if done:
            raise StepError(f"The network is quantized already ({', '.join(done)}).", fix="quantize once")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Copy every part and write its calibration beside it."""
        split = context.task.need("calibration", "quantization").draw(self.samples, context.seed)
        networks = torch_storage.load(artifact, context.networks())
        found: dict[str, Calibration] = {}
        context.progress.expect(len(artifact.parts))

        def part_after_part(part: Part, feeds: Batches) -> Batches:
            rows = list(zip(*(feeds[spec.name] for spec in part.signature.inputs), strict=True))
            network = networks[part.name].eval()
            found[part.name] = calibrate(network, rows, part.signature, Settings(symmetric=self.symmetric or find(self.scheme).symmetric))
            context.progress.advance(note=part.name)
            return _outputs(network, part, rows)

        inputs = torch_chain.input_tensors(split)
        chain(artifact.parts, part_after_part, {name: list(torch.split(tensor, BATCH_SIZE)) for name, tensor in inputs.items()})
        parts = tuple(_copied(artifact, part, found[part.name], context) for part in artifact.parts)
        notes = {"samples": len(split), "symmetric": self.symmetric, "parts": {name: _told(calibration) for name, calibration in found.items()}}
        return Artifact(form="torch", parts=parts, notes=notes, folder=context.folder)

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The weights are the same bytes as before, and every part has a calibration that can be read."""
        for old, new in zip(before.parts, after.parts, strict=True):
            if old.signature != new.signature or before.path(old, "weights").read_bytes() != after.path(new, "weights").read_bytes():
                raise StepError(f"Quantizing changed the weights or the signature of {new.name}.", fix="report this as a bug")
            read(after.path(new, _ROLE))


def _outputs(network: torch.nn.Module, part: Part, rows: list[tuple[torch.Tensor, ...]]) -> dict[str, list[torch.Tensor]]:
    """What the float part gives for each batch: the inputs of the parts that follow."""
    names = [spec.name for spec in part.signature.inputs]
    outputs: dict[str, list[torch.Tensor]] = {spec.name: [] for spec in part.signature.outputs}
    with torch.no_grad():
        for row in rows:
            for name, value in torch_chain.call(network, part.signature, dict(zip(names, row, strict=True))).items():
                outputs[name].append(value)
    return outputs


def _copied(artifact: Artifact, part: Part, calibration: Calibration, context: Context) -> Part:
    files = {}
    for role, file in part.files.items():
        shutil.copyfile(artifact.path(part, role), context.folder / file.path)
        files[role] = File(path=file.path)
    stored = context.folder / f"{part.name}.quantization.json"
    stored.write_text(calibration.model_dump_json(), encoding="utf-8")
    return Part(name=part.name, signature=part.signature, files={**files, _ROLE: File(path=stored.name)})


def _told(calibration: Calibration) -> dict[str, Any]:
    """For the report: how much is int8, what is not and why (equal lines counted)."""
    left = Counter((item.op, item.module, item.reason) for item in calibration.left_float)
    return {
        "quantized_ops": calibration.quantized_ops,
        "output_scales": list(calibration.output_scales),
        "left_float": [{"op": op, "module": module, "reason": reason, "times": times} for (op, module, reason), times in left.items()],
    }
