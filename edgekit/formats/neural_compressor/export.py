"""PyTorch to ONNX with neural-compressor: static int8 with its tuning loop, or its 4-bit
weights in blocks, unchanged.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy
import torch
from torch import nn

from edgekit import registry
from edgekit.artifact import Artifact, File, FormatName, Part, chain
from edgekit.contracts import Context, Read
from edgekit.errors import StepError
from edgekit.formats.neural_compressor import blocks, nodes, static
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import check_interface, export
from edgekit.scheme import find
from edgekit.steps import torch_chain, torch_storage
from edgekit.task import Split, Task

BATCH_SIZE = 64
#: Samples that are scored in each trial, and the fewest that make a score meaningful.
SCORED, FEWEST = 512, 50
Batches = Mapping[str, list[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class NeuralCompressorToOnnx:
    """Quantize with neural-compressor and export.

    ``accuracy_drop``: what its tuning may lose, in the metric's own unit.
    """

    scheme: str = "w8a8-static-inc"
    samples: int = 256
    accuracy_drop: float = 0.01
    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = (
        "torch",
        "torchao",
        "onnx",
        "onnxscript",
        "neural-compressor",
        "transformers",
    )
    reads: ClassVar[tuple[Read, ...]] = ("train", "calibration", "metric")

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError for other schemes, no samples, and quantized networks."""
        if find(self.scheme).provider != "neural-compressor":
            raise StepError(
                f"The scheme {self.scheme!r} is not neural-compressor's.",
                fix="use w8a8-static-inc, w4-weight-rtn, w4-weight-awq or w4-weight-hqq",
            )
        if self.samples < 1:
            raise StepError(
                f"Calibration on {self.samples} samples is not possible.",
                fix="set samples to 100 or more",
            )
        quantized = [
            part.name for part in artifact.parts if "quantization" in part.files
        ]
        if quantized:
            raise StepError(
                f"The network is already quantized ({', '.join(quantized)}).",
                fix="quantize once",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write ``<part>.onnx`` for every part."""
        networks = torch_storage.load(artifact, context.networks())
        context.progress.expect(len(artifact.parts))
        if find(self.scheme).method == "static":
            notes = self._quantize_static(artifact, networks, context)
        else:
            notes = self._quantize_blocks(artifact, networks, context)
        parts = [
            Part(
                name=part.name,
                signature=part.signature,
                files={"model": File(path=f"{part.name}.onnx")},
            )
            for part in artifact.parts
        ]
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"scheme": self.scheme, "parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError unless the files have the signature's interface and integer weights."""
        kind = (
            "DequantizeLinear"
            if find(self.scheme).method == "static"
            else "MatMulNBits"
        )
        operators = [
            onnx_graph.operators(onnx_graph.read(after.path(part)).graph)
            for part in after.parts
        ]
        for part in after.parts:
            check_interface(after.path(part), part.signature)
        if not any(kind in counts for counts in operators):
            raise StepError(
                f"The files of {self.scheme} contain no {kind}: nothing was quantized.",
                fix="report this as a bug",
            )

    def _quantize_static(
        self,
        artifact: Artifact,
        networks: dict[str, nn.Module],
        context: Context,
    ) -> dict[str, Any]:
        split = context.task.need("calibration", "quantization").draw(
            self.samples, context.seed
        )
        held = held_out(context.task, split, context.seed)
        quantized: dict[str, nn.Module] = {}
        notes: dict[str, Any] = {}

        def quantize_part(part: Part, feeds: Batches) -> Batches:
            network = networks[part.name]
            rows = _rows(part, feeds)

            def score(model: nn.Module) -> float:
                assert held is not None
                # The parts before are already quantized, as they will be in the file; those
                # after it are still float.
                mixed = {**networks, **quantized, part.name: model}
                return mean_score(mixed, artifact.parts, context.task, held)

            tuned = static.quantize(
                network,
                part.signature,
                rows,
                score if held is not None else None,
                self.accuracy_drop,
            )
            quantized[part.name] = tuned.graph
            onnx_graph.write(
                export(tuned.graph, part.signature),
                context.folder / f"{part.name}.onnx",
            )
            notes[part.name] = {
                "chosen": dict(tuned.chosen),
                "float_score": tuned.float_score,
                "scores": list(tuned.scores),
                "scored_samples": 0 if held is None else len(held),
            }
            context.progress.advance(note=part.name)
            return _outputs(network, part, rows)

        chain(artifact.parts, quantize_part, _batches(split))
        return notes

    def _quantize_blocks(
        self,
        artifact: Artifact,
        networks: dict[str, nn.Module],
        context: Context,
    ) -> dict[str, Any]:
        notes: dict[str, Any] = {}
        feeds: dict[str, list[torch.Tensor]] = {}
        if self.scheme.endswith("awq"):
            feeds = _batches(
                context.task.need("calibration", "AWQ").draw(
                    self.samples, context.seed
                )
            )

        def quantize_part(part: Part, part_feeds: Batches) -> Batches:
            network = networks[part.name]
            rows = _rows(part, part_feeds) if part_feeds else []
            outputs = _outputs(network, part, rows) if rows else {}
            grids = self._grids(network, rows)
            model = export(network, part.signature)
            count = nodes.write_grids(model, grids.values())
            onnx_graph.write(model, context.folder / f"{part.name}.onnx")
            notes[part.name] = {"layers": list(grids), "nodes": count}
            context.progress.advance(note=part.name)
            return outputs

        if feeds:
            chain(artifact.parts, quantize_part, feeds)
        else:
            for part in artifact.parts:
                quantize_part(part, {})
        if not any(part["nodes"] for part in notes.values()):
            raise StepError(
                "This network has no linear layer whose weights could be stored in 4 bits.",
                fix="use the scheme w8a8-static",
            )
        return notes

    def _grids(
        self, network: nn.Module, rows: list[tuple[torch.Tensor, ...]]
    ) -> blocks.Grids:
        if not any(type(module) is nn.Linear for module in network.modules()):
            return {}
        if self.scheme.endswith("awq"):

            def run() -> None:
                for row in rows:
                    network(*row)

            return blocks.awq(network, run)
        return (
            blocks.hqq(network)
            if self.scheme.endswith("hqq")
            else blocks.rtn(network)
        )


def held_out(task: Task, used: Split, seed: int) -> Split | None:
    """Return labelled training samples that calibration does not use, or None if there are too
    few to score. Never test data.
    """
    train = task.split("train")
    if train is None or train.labels is None:
        return None
    taken = {_bytes(used, index) for index in range(len(used))}
    order = numpy.random.default_rng(seed).permutation(len(train))
    free = [
        int(index) for index in order if _bytes(train, int(index)) not in taken
    ]
    return train.rows(free[:SCORED]) if len(free) >= FEWEST else None


def mean_score(
    networks: Mapping[str, nn.Module],
    parts: tuple[Part, ...],
    task: Task,
    split: Split,
) -> float:
    """Return the mean of the task's metric over a split."""
    model = torch_chain.Chain(networks, parts)
    outputs: dict[str, list[torch.Tensor]] = {}
    feeds = torch_chain.input_tensors(split)
    with torch.no_grad():
        for start in range(0, len(split), BATCH_SIZE):
            batch = {
                key: tensor[start : start + BATCH_SIZE]
                for key, tensor in feeds.items()
            }
            for name, value in model(batch).items():
                outputs.setdefault(name, []).append(value)
    arrays = {
        name: torch.cat(values).numpy() for name, values in outputs.items()
    }
    return float(
        registry.METRICS.load("scores")(
            arrays, split.labels, task.metric
        ).mean()
    )


def _bytes(split: Split, index: int) -> bytes:
    return b"".join(
        split.inputs[name][index].tobytes() for name in sorted(split.inputs)
    )


def _batches(split: Split) -> dict[str, list[torch.Tensor]]:
    return {
        name: list(torch.split(tensor, BATCH_SIZE))
        for name, tensor in torch_chain.input_tensors(split).items()
    }


def _rows(part: Part, feeds: Batches) -> list[tuple[torch.Tensor, ...]]:
    return list(
        zip(*(feeds[spec.name] for spec in part.signature.inputs), strict=True)
    )


def _outputs(
    network: nn.Module, part: Part, rows: list[tuple[torch.Tensor, ...]]
) -> dict[str, list[torch.Tensor]]:
    """The outputs of the float part for each batch: the inputs of the parts that follow."""
    names = [spec.name for spec in part.signature.inputs]
    outputs: dict[str, list[torch.Tensor]] = {
        spec.name: [] for spec in part.signature.outputs
    }
    with torch.no_grad():
        for row in rows:
            feeds = dict(zip(names, row, strict=True))
            for name, value in torch_chain.call(
                network, part.signature, feeds
            ).items():
                outputs[name].append(value)
    return outputs
