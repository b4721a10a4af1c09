"""PyTorch to ONNX: one small, checked file per part, float or Q/DQ, with a free batch dim."""

import dataclasses
import pathlib
import re
from typing import ClassVar

import onnx
import torch
from onnxscript.optimizer import fold_constants

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError, condense
from edgekit.formats.onnx import compact as onnx_compact
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.exported import (
    fix_shapes,
    name_nodes,
    pool_instead_of_mean,
)
from edgekit.quantization.capture import capture, quiet
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.torch_reference import QUANTIZATION, rebuild
from edgekit.task import SplitName

_DTYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "int16": onnx.TensorProto.INT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}
#: Operators that only move numbers: of constants they are computed once, at export.
_REARRANGING = {
    "Slice",
    "Concat",
    "Unsqueeze",
    "Squeeze",
    "Transpose",
    "Reshape",
    "Split",
}
#: The most elements of a constant that is rearranged at export.
LARGEST = 2**31
#: How PyTorch's exporter names the operator that ONNX lacks.
_MISSING_OPERATOR = re.compile(
    r"OpOverload\(op='([\w.:]+)'"
    r"|No decompositions registered for.*?([\w]+[.:]+[\w.]+)"
    r"|target ?= ?([\w.:]+)"
)


@dataclasses.dataclass(frozen=True)
class TorchToOnnx:
    """Export every part to ONNX. A quantized part becomes a Q/DQ graph with int8 weights."""

    opset: int = 20
    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = (
        "torch",
        "torchao",
        "onnx",
        "onnxscript",
    )
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError for an opset that has no per-channel Q/DQ, or that the exporter
        cannot write.
        """
        if not 18 <= self.opset <= 23:
            raise StepError(
                f"The opset {self.opset} is not supported; expected 18 to 23.",
                fix="leave opset at 20",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write ``<part>.onnx`` for every part."""
        networks = torch_storage.load(artifact, context.networks())
        parts: list[Part] = []
        operators: dict[str, dict[str, int]] = {}
        for part in artifact.parts:
            network = networks[part.name].eval()
            if QUANTIZATION in part.files:
                network = rebuild(artifact, part, network, fold=True)
            file = File(path=f"{part.name}.onnx")
            model = export(network, part.signature, self.opset)
            onnx_graph.write(model, context.folder / file.path)
            operators[part.name] = onnx_graph.operators(model.graph)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": file},
                )
            )
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"opset": self.opset, "operators": operators},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError unless names, dtypes and dims of the files match the signature, with
        a free batch dim.
        """
        for part in after.parts:
            check_interface(after.path(part), part.signature)


def export(
    network: torch.nn.Module, signature: Signature, opset: int = 20
) -> onnx.ModelProto:
    """Return the network as an ONNX model.

    Raises StepError with the operator that ONNX cannot express.
    """
    model = _run_exporter(network, signature, opset)
    name_nodes(model.graph)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    pool_instead_of_mean(model.graph)
    fix_shapes(model.graph)
    onnx_graph.sweep(model.graph)
    onnx_compact.share_constants(model.graph)
    onnx_compact.shorten(model)
    _set_dims(model.graph, signature)
    return model


def check_interface(path: pathlib.Path, signature: Signature) -> None:
    """Raise StepError unless the file's inputs and outputs match the signature."""
    graph = onnx.load(str(path), load_external_data=False).graph
    for values, specs in (
        (graph.input, signature.inputs),
        (graph.output, signature.outputs),
    ):
        actual = [
            (value.name, value.type.tensor_type.elem_type, _dims(value))
            for value in values
        ]
        expected = [
            (spec.name, _DTYPES[spec.dtype], list(spec.dims)) for spec in specs
        ]
        if actual != expected:
            raise StepError(
                f"{path.name} has the interface {actual}, not the signature's {expected}.",
                fix="let the network return tensors of the signature's dtypes",
            )


def _run_exporter(
    network: torch.nn.Module, signature: Signature, opset: int
) -> onnx.ModelProto:
    program = capture(network, signature)
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=True,
                opset_version=opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                verbose=False,
                verify=False,
                external_data=False,
            )
            assert exported is not None
            # The exporter folds small constants only; the weights of an LSTM would be split
            # and concatenated again at every inference.
            fold_constants(
                exported.model,
                input_size_limit=LARGEST,
                output_size_limit=LARGEST,
                should_fold=lambda node: node.op_type in _REARRANGING,
            )
    except (
        Exception
    ) as error:  # the exporter raises whatever a translation raises
        raise _export_error(error) from error
    return exported.model_proto


def _export_error(error: Exception) -> StepError:
    """Condense the exporter's long message, and those of its causes, to one sentence."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__
    match = _MISSING_OPERATOR.search("\n".join(messages))
    if match is None:
        return StepError(
            f"The network cannot be exported to ONNX: {condense(error)}",
            fix="simplify the operation named in the message",
        )
    name = next(group for group in match.groups() if group)
    operator = name.removeprefix("torch.ops.").removesuffix(".default")
    return StepError(
        f"ONNX has no translation of the operator {operator}.",
        fix="replace that operation in the network, or write it with plain tensor operations",
    )


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        dim.dim_param or dim.dim_value
        for dim in value.type.tensor_type.shape.dim
    ]


def _set_dims(graph: onnx.GraphProto, signature: Signature) -> None:
    """Write the signature's names of the free dims; the exporter numbers them."""
    values = (*graph.input, *graph.output)
    specs = (*signature.inputs, *signature.outputs)
    for value, spec in zip(values, specs, strict=True):
        dims = value.type.tensor_type.shape.dim
        _check_rank(len(dims), spec)
        for dim, expected in zip(dims, spec.dims, strict=True):
            if isinstance(expected, int):
                continue
            if not dim.dim_param:
                raise StepError(
                    f"The network fixes the dim {expected!r} of {spec.name} at"
                    f" {dim.dim_value}.",
                    fix="keep forward() free of fixed batch sizes",
                )
            dim.dim_param = expected


def _check_rank(rank: int, spec: TensorSpec) -> None:
    if rank != len(spec.dims):
        raise StepError(
            f"The network's {spec.name} has {rank} dims; its signature has"
            f" {len(spec.dims)}.",
            fix="correct the model's signature",
        )
