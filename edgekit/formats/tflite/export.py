"""Export torch networks to TFLite: batch 1, images channel-last, int8 if quantized."""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite import signatures as tflite_signatures
from edgekit.formats.tflite.channel_last import prefer_channel_last
from edgekit.formats.tflite.converter_errors import translate_error
from edgekit.formats.tflite.tflite_runtime_compat import (
    index_booleans_as_integers,
)
from edgekit.quantization.calibration import read
from edgekit.quantization.capture import capture, example_inputs
from edgekit.quantization.operators import RECURRENT
from edgekit.quantization.rewrite import rewrite
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.torch_reference import QUANTIZATION, rebuild
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class TorchToTflite:
    """Writes ``<part>.tflite`` with static shapes and batch 1 (a device runs single samples).

    More ``batches`` become more signatures of the file, named ``batch_8`` and so on, which
    share its weights; the first batch must be 1. Float inputs and outputs of four dims are
    channel-last, as the signature's ``axes`` state. A quantized network becomes int8
    throughout, including those of its inputs and outputs that the quantizer reached.
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
        """Distinct batches, 1 first; the batch is the only free dim, since shapes are fixed."""
        has_duplicates = len(set(self.batches)) < len(self.batches)
        if (
            list(self.batches[:1]) != [1]
            or has_duplicates
            or min(self.batches) < 1
        ):
            raise StepError(
                f"Invalid batches: {list(self.batches)}.",
                fix="list 1 first, and every further batch size once: [1, 8]",
            )
        for part in artifact.parts:
            for spec in part.signature.inputs:
                free = [dim for dim in spec.dims[1:] if isinstance(dim, str)]
                if free:
                    raise StepError(
                        f"{part.name}: the input {spec.name} has the free dims "
                        f"{', '.join(free)}; a TFLite file has fixed shapes.",
                        fix="use a fixed size for these dims in the model",
                    )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert every part; the notes contain what stays float."""
        networks = torch_storage.load(artifact, context.networks())
        context.progress.expect(len(artifact.parts))
        parts = []
        notes = {}
        for part in artifact.parts:
            exported, part_notes = self._export(
                artifact, part, networks[part.name], context.folder
            )
            parts.append(exported)
            notes[part.name] = part_notes
            context.progress.advance()
        version = importlib.metadata.version("litert-torch")
        return Artifact(
            format="tflite",
            parts=tuple(parts),
            folder=context.folder,
            notes={"converter": f"litert-torch {version}", "parts": notes},
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """All signatures agree, and a quantized part has int8 weights.

        More float layers than the quantizer left would mean that the converter failed
        silently.
        """
        for part, exported in zip(before.parts, after.parts, strict=True):
            path = after.path(exported)
            tflite_signatures.check(path, exported.name)
            if QUANTIZATION not in part.files:
                continue
            counts = tflite_file.count_layers(path)
            left_float = read(before.path(part, QUANTIZATION)).left_float * len(
                self.batches
            )
            # An unrolled loop has a layer for each step in time.
            is_unrolled = any(item.reason == RECURRENT for item in left_float)
            too_many_floats = (
                counts.float_weights > len(left_float) and not is_unrolled
            )
            if not counts.int8_weights or too_many_floats:
                layers = counts.int8_weights + counts.float_weights
                raise StepError(
                    f"{path.name} is not int8: {counts.float_weights} of {layers} layers "
                    f"compute in float, expected at most {len(left_float)}.",
                    fix="report it with the network; until then use the scheme 'float' or "
                    "'w8-dynamic' for this target",
                )

    def _export(
        self,
        artifact: Artifact,
        part: Part,
        network: torch.nn.Module,
        folder: pathlib.Path,
    ) -> tuple[Part, dict[str, Any]]:
        """Write the file of one part; return the part and its notes."""
        signatures = {}
        # The first batch last: the notes and the signature describe its graph.
        for batch in reversed(self.batches):
            static = with_batch(part.signature, batch)
            graph = _load_graph(artifact, part, network)
            traced, samples = with_static_shapes(graph, static, batch)
            rewritten = prefer_channel_last(traced)
            index_booleans_as_integers(traced)
            signatures[tflite_signatures.signature_name(batch)] = (
                traced,
                samples,
            )
        expected = _file_signature(static, traced)
        path = folder / f"{part.name}.tflite"
        quantized = QUANTIZATION in part.files
        litert_conversion.convert_several(
            dict(reversed(signatures.items())),
            path,
            quantized=quantized,
            channel_last_inputs=_positions_with_axes(expected.inputs),
            channel_last_outputs=_positions_with_axes(expected.outputs),
        )
        signature = _read_signature(path, expected, part.name)
        notes = {
            "rewritten_for_channel_last": rewritten,
            **litert.describe_runtime(path),
            **self._notes(path, signature, quantized),
        }
        files = {"model": File(path=path.name)}
        return Part(name=part.name, signature=signature, files=files), notes

    def _notes(
        self, path: pathlib.Path, signature: Signature, quantized: bool
    ) -> dict[str, Any]:
        notes: dict[str, Any] = {}
        if quantized:
            specs = (*signature.inputs, *signature.outputs)
            notes["float_operators"] = dict(
                tflite_file.count_layers(path).float_operators
            )
            notes["float_inputs_and_outputs"] = [
                spec.name for spec in specs if spec.dtype == "float32"
            ]
        if len(self.batches) > 1:
            notes["signatures"] = {
                tflite_signatures.signature_name(batch): f"{batch} samples"
                for batch in self.batches
            }
        return notes


def _load_graph(
    artifact: Artifact, part: Part, network: torch.nn.Module
) -> torch.nn.Module:
    """The network's graph with a free batch, quantized if the part is."""
    if QUANTIZATION in part.files:
        return rebuild(artifact, part, network, fold=False)
    graph = capture(network, part.signature).module(check_guards=False)
    rewrite(graph)
    return graph


def _read_signature(
    path: pathlib.Path, expected: Signature, where: str
) -> Signature:
    try:
        return litert.read_signature(path, expected)
    except (RuntimeError, ValueError) as error:
        # LiteRT rejects the file: an operator that only the converter supports.
        raise translate_error(error, where) from error


def with_static_shapes(
    graph: torch.nn.Module, static: Signature, batch: int = 1
) -> tuple[torch.fx.GraphModule, tuple[torch.Tensor, ...]]:
    """The graph traced again with a fixed batch, so that every node has a static shape.

    Also returns the samples that it was traced with.
    """
    samples = example_inputs(static, batch=batch)
    with litert_conversion.quiet(), torch.no_grad():
        network = litert_conversion.as_inference(graph)
        program = torch.export.export(network, samples, strict=False)
        traced = program.module(check_guards=False)
    assert isinstance(traced, torch.fx.GraphModule)
    return traced, samples


def with_batch(signature: Signature, batch: int) -> Signature:
    def fix_dims(spec: TensorSpec) -> TensorSpec:
        return spec.model_copy(update={"dims": spec.shape(batch)})

    return Signature(
        inputs=tuple(map(fix_dims, signature.inputs)),
        outputs=tuple(map(fix_dims, signature.outputs)),
    )


def _file_signature(
    static: Signature, graph: torch.fx.GraphModule
) -> Signature:
    """The signature in the file: dims from the traced graph, images channel-last."""
    outputs = [
        spec.model_copy(update={"dims": dims})
        for spec, dims in zip(static.outputs, _output_dims(graph), strict=True)
    ]
    return Signature(
        inputs=tuple(map(_set_axes, static.inputs)),
        outputs=tuple(map(_set_axes, outputs)),
    )


def _set_axes(spec: TensorSpec) -> TensorSpec:
    if len(spec.dims) == 4 and spec.dtype == "float32":
        return spec.model_copy(update={"axes": tflite_file.CHANNEL_LAST})
    return spec


def _positions_with_axes(specs: Sequence[TensorSpec]) -> list[int]:
    return [position for position, spec in enumerate(specs) if spec.axes]


def _output_dims(graph: torch.fx.GraphModule) -> list[tuple[int, ...]]:
    outputs = graph.graph.output_node().args[0]
    nodes: Any = outputs if isinstance(outputs, tuple | list) else [outputs]
    return [tuple(node.meta["val"].shape) for node in nodes]
