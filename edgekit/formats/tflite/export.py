"""torch to TFLite: one sample at a time, images channel-last, int8 where the network was
quantized.
"""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import signatures as tflite_signatures
from edgekit.formats.tflite.channel_last import prefer_channel_last
from edgekit.formats.tflite.tflite_runtime_compat import gather_as_integers
from edgekit.quantization.calibration import read
from edgekit.quantization.capture import capture, example
from edgekit.quantization.operators import RECURRENT
from edgekit.quantization.rewrite import rewrite
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.torch_reference import QUANTIZATION, rebuilt
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class TorchToTflite:
    """Writes ``<part>.tflite`` with static shapes and batch 1 (TFLite runs one sample on a
    device).

    More ``batches`` are more signatures of the file, called ``batch_8`` and so on, which
    share its weights; the first must be 1. Float inputs and outputs of four dims are
    channel-last; the signature's ``axes`` says so. A quantized network becomes int8
    throughout, its inputs and outputs too, where the quantizer has reached them.
    """

    batches: Sequence[int] = (1,)

    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "tflite"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (
        "litert-torch",
        "litert-converter",
        "ai-edge-litert",
        "torch",
        "torchao",
    )
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Every free dim must be the number of samples: the file's shapes are fixed."""
        if (
            not self.batches
            or self.batches[0] != 1
            or len(set(self.batches)) < len(self.batches)
            or min(self.batches) < 1
        ):
            raise StepError(
                f"The batches {list(self.batches)} cannot be made.",
                fix="name 1 first, and each further number once: [1, 8]",
            )
        for part in artifact.parts:
            for spec in part.signature.inputs:
                free = [dim for dim in spec.dims[1:] if isinstance(dim, str)]
                if free:
                    raise StepError(
                        f"{part.name}: the input {spec.name} has the free dims {', '.join(free)}; a TFLite file has fixed shapes.",
                        fix="give the model a fixed size there",
                    )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert every part; the notes tell what stays float."""
        networks = torch_storage.load(artifact, context.networks())
        context.progress.expect(len(artifact.parts))
        parts, notes = [], {}
        for part in artifact.parts:
            made, notes[part.name] = self._export(
                artifact, part, networks[part.name], context
            )
            parts.append(made)
            context.progress.advance()
        return Artifact(
            format="tflite",
            parts=tuple(parts),
            folder=context.folder,
            notes={
                "converter": f"litert-torch {importlib.metadata.version('litert-torch')}",
                "parts": notes,
            },
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """A quantized part has int8 weights: more float layers than the quantizer left
        would mean that the converter failed silently.
        """
        for part, made in zip(before.parts, after.parts, strict=True):
            tflite_signatures.check(after.path(made), made.name)
            if QUANTIZATION not in part.files:
                continue
            found = tflite_file.arithmetic(after.path(made))
            left = read(before.path(part, QUANTIZATION)).left_float * len(self.batches)
            unrolled = any(
                item.reason == RECURRENT for item in left
            )  # one layer for each step in time
            if not found.int8_weights or (found.float_weights > len(left) and not unrolled):
                raise StepError(
                    f"{made.files['model'].path} is not int8: {found.float_weights} of {found.int8_weights + found.float_weights} layers compute in float, "
                    f"{len(left)} operators were left in float on purpose.",
                    fix="report it with the network; until then take the scheme 'float' or 'w8-dynamic' for this target",
                )

    def _export(
        self, artifact: Artifact, part: Part, network: torch.nn.Module, context: Context
    ) -> tuple[Part, dict[str, Any]]:
        quantized = QUANTIZATION in part.files
        signatures, changed = {}, 0
        for batch in reversed(
            self.batches
        ):  # so that what is found of the graph at the end is of the first
            static = _fixed(part.signature, batch)
            graph, samples = _with_static_shapes(
                _graph(artifact, part, network), static, batch
            )
            changed = prefer_channel_last(graph)
            gather_as_integers(graph)
            signatures[tflite_signatures.name(batch)] = graph, samples
        wanted = Signature(
            inputs=tuple(_channel_last(spec) for spec in static.inputs),
            outputs=tuple(
                _channel_last(spec.model_copy(update={"dims": dims}))
                for spec, dims in zip(static.outputs, _output_dims(graph), strict=True)
            ),
        )
        path = context.folder / f"{part.name}.tflite"
        litert_conversion.convert_several(
            dict(reversed(signatures.items())),
            path,
            quantized=quantized,
            channel_last_inputs=[k for k, spec in enumerate(wanted.inputs) if spec.axes],
            channel_last_outputs=[k for k, spec in enumerate(wanted.outputs) if spec.axes],
        )
        signature = _described(path, wanted, part.name)
        notes: dict[str, Any] = {
            "rewritten_for_channel_last": changed,
            **tflite_file.runtime(path),
        }
        if quantized:
            notes["float_operators"] = dict(tflite_file.arithmetic(path).float_operators)
            notes["float_inputs_and_outputs"] = [
                spec.name
                for spec in (*signature.inputs, *signature.outputs)
                if spec.dtype == "float32"
            ]
        if len(self.batches) > 1:
            notes["signatures"] = {
                tflite_signatures.name(batch): f"{batch} samples" for batch in self.batches
            }
        return Part(
            name=part.name, signature=signature, files={"model": File(path=path.name)}
        ), notes


def _graph(artifact: Artifact, part: Part, network: torch.nn.Module) -> torch.nn.Module:
    """The network's graph, quantized where the part is; its batch is free."""
    if QUANTIZATION in part.files:
        return rebuilt(artifact, part, network, fold=False)
    graph = capture(network, part.signature).module(check_guards=False)
    rewrite(graph)
    return graph


def _described(path: Any, wanted: Signature, where: str) -> Signature:
    try:
        return tflite_file.described(path, wanted)
    except StepError:
        raise
    except (
        RuntimeError,
        ValueError,
    ) as error:  # LiteRT refuses the file: an operator that only the converter knows
        raise litert_conversion.translated(error, where) from error


def _with_static_shapes(
    graph: torch.nn.Module, static: Signature, batch: int = 1
) -> tuple[torch.fx.GraphModule, tuple[torch.Tensor, ...]]:
    """The graph traced again with so many samples, so that every node knows its numbers of
    rows and columns.
    """
    samples = example(static, batch=batch)
    with litert_conversion.quiet(), torch.no_grad():
        traced = torch.export.export(
            litert_conversion.inference(graph), samples, strict=False
        ).module(check_guards=False)
    assert isinstance(traced, torch.fx.GraphModule)
    return traced, samples


def _fixed(signature: Signature, batch: int) -> Signature:
    def fixed(spec: TensorSpec) -> TensorSpec:
        return spec.model_copy(update={"dims": spec.shape(batch)})

    return Signature(
        inputs=tuple(map(fixed, signature.inputs)),
        outputs=tuple(map(fixed, signature.outputs)),
    )


def _channel_last(spec: TensorSpec) -> TensorSpec:
    image = len(spec.dims) == 4 and spec.dtype == "float32"
    return spec.model_copy(update={"axes": tflite_file.CHANNEL_LAST}) if image else spec


def _output_dims(graph: torch.fx.GraphModule) -> list[tuple[int, ...]]:
    outputs = graph.graph.output_node().args[0]
    nodes: Any = outputs if isinstance(outputs, tuple | list) else [outputs]
    return [tuple(node.meta["val"].shape) for node in nodes]
