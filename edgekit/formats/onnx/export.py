"""PyTorch to ONNX: one small, checked file a part, float or Q/DQ, with a free batch dim."""

import ast
import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy
import onnx
import torch
from onnxscript.optimizer import fold_constants

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.quantization.capture import capture, plain_path, quiet
from edgekit.signature import Signature, TensorSpec
from edgekit.steps import torch_storage
from edgekit.steps.torch_reference import QUANTIZATION, rebuilt
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
#: Nodes that are worth a name in reports; the rest only carry numbers.
_UNNAMED = {"QuantizeLinear", "DequantizeLinear", "Cast", "Constant"}
#: Operators that only move numbers: of constants they are done once, at export. (Numbers of
#: elements.)
_REARRANGING = {"Slice", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Split"}
LARGEST = 2**31


@dataclasses.dataclass(frozen=True)
class TorchToOnnx:
    """Export every part to ONNX. A quantized part becomes a Q/DQ graph with int8 weights."""

    opset: int = 20
    takes: ClassVar[tuple[FormatName, ...]] = ("torch",)
    gives: ClassVar[FormatName] = "onnx"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchao", "onnx", "onnxscript")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError for an opset that has no per-channel Q/DQ, or that the exporter
        cannot write.
        """
        if not 18 <= self.opset <= 23:
            raise StepError(
                f"The opset {self.opset} cannot be written; 18 to 23 can.",
                fix="leave opset at 20",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write ``<part>.onnx`` for every part."""
        networks = torch_storage.load(artifact, context.networks())
        parts, operators = [], {}
        for part in artifact.parts:
            network = networks[part.name].eval()
            if QUANTIZATION in part.files:
                network = rebuilt(artifact, part, network, fold=True)
            file = f"{part.name}.onnx"
            model = export(network, part.signature, self.opset)
            onnx_graph.write(model, context.folder / file)
            operators[part.name] = onnx_graph.operators(model.graph)
            parts.append(
                Part(
                    name=part.name,
                    signature=part.signature,
                    files={"model": File(path=file)},
                )
            )
        return Artifact(
            format="onnx",
            parts=tuple(parts),
            notes={"opset": self.opset, "operators": operators},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Names, dtypes and dims of the files are those of the signature, and the batch dim
        is free.
        """
        for part in after.parts:
            check_interface(after.path(part), part.signature)


def export(
    network: torch.nn.Module, signature: Signature, opset: int = 20
) -> onnx.ModelProto:
    """The network as an ONNX model, or StepError with the operator that ONNX cannot
    express.
    """
    program = capture(network, signature)
    inputs, outputs = (
        [spec.name for spec in signature.inputs],
        [spec.name for spec in signature.outputs],
    )
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                optimize=True,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
                verify=False,
                external_data=False,
            )
            assert exported is not None
            # The exporter folds small constants only; the weights of an LSTM would be cut
            # and joined again at every inference.
            fold_constants(
                exported.model,
                input_size_limit=LARGEST,
                output_size_limit=LARGEST,
                should_fold=lambda node: node.op_type in _REARRANGING,
            )
    except (
        Exception
    ) as error:  # the exporter raises whatever one of its translations raises
        raise _translated(error) from error
    model = exported.model_proto
    _name_nodes(model.graph)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _pool_instead_of_mean(model.graph)
    _constant_shapes(model.graph)
    onnx_graph.sweep(model.graph)
    onnx_graph.share_constants(model.graph)
    onnx_graph.shorten(model)
    _set_dims(model.graph, signature)
    return model


def check_interface(path: pathlib.Path, signature: Signature) -> None:
    """Raise StepError unless the file's inputs and outputs are those of the signature."""
    graph = onnx.load(str(path), load_external_data=False).graph
    for values, specs in (
        (graph.input, signature.inputs),
        (graph.output, signature.outputs),
    ):
        found = [
            (value.name, value.type.tensor_type.elem_type, _dims(value)) for value in values
        ]
        wanted = [(spec.name, _DTYPES[spec.dtype], list(spec.dims)) for spec in specs]
        if found != wanted:
            told = f"{path.name} has the interface {found}, not the signature's {wanted}."
            raise StepError(
                told, fix="let the network return tensors of the signature's dtypes"
            )


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _translated(error: Exception) -> StepError:
    """One sentence for the exporter's long answer."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(chain)
    missing = re.search(
        r"OpOverload\(op='([\w.:]+)'|No decompositions registered for.*?([\w]+[.:]+[\w.]+)|target ?= ?([\w.:]+)",
        text,
    )
    if missing:
        operator = (
            next(found for found in missing.groups() if found)
            .removeprefix("torch.ops.")
            .removesuffix(".default")
        )
        fix = "replace that operation in the network, or write it with plain tensor operations"
        return StepError(f"ONNX has no translation of the operator {operator}.", fix=fix)
    return StepError(
        f"The network cannot be exported to ONNX: {onnx_graph.first_line(error)}",
        fix="simplify the operation named in the message",
    )


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name a node ``module.path/Operator``, so that every later report can say which
    PyTorch module it came from.
    """
    used: dict[str, int] = {}
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _UNNAMED:
            node.name = ""
            continue
        name = f"{_module(node, stored)}/{node.op_type}"
        used[name] = used.get(name, 0) + 1
        node.name = name if used[name] == 1 else f"{name}.{used[name]}"


def _module(node: onnx.NodeProto, stored: set[str]) -> str:
    """The owner of the node's weights (a folded batch normalization has the node's own
    scope), else its scope.
    """
    if (
        len(node.input) > 1
        and node.input[1] in stored
        and node.input[1].endswith(".weight")
    ):
        return plain_path(node.input[1].removesuffix(".weight"))
    scopes = next(
        (
            entry.value
            for entry in node.metadata_props
            if entry.key == "pkg.torch.onnx.name_scopes"
        ),
        "",
    )
    path = ast.literal_eval(scopes) if scopes else []
    return plain_path(path[-2]) if len(path) > 1 else ""


def _pool_instead_of_mean(graph: onnx.GraphProto) -> None:
    """The mean over all places of an image is GlobalAveragePool: the runtimes have an int8
    kernel for that and none for ReduceMean.
    """
    constants = onnx_graph.constants(graph)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
    }
    for node in graph.node:
        if (
            node.op_type != "ReduceMean"
            or len(node.input) < 2
            or node.input[1] not in constants
        ):
            continue
        rank = ranks.get(node.input[0], 0)
        axes = (
            sorted(int(axis) % rank for axis in constants[node.input[1]].ravel())
            if rank > 2
            else []
        )
        if (
            axes
            and axes == list(range(2, rank))
            and onnx_graph.attributes(node).get("keepdims", 1)
        ):
            node.op_type = "GlobalAveragePool"
            node.name = node.name.replace("ReduceMean", "GlobalAveragePool")
            del node.input[1:], node.attribute[:]


def _constant_shapes(graph: onnx.GraphProto) -> None:
    """A Reshape of which only one dim is free gets a constant shape with -1 there:
    computing it takes four nodes, and hides the rest from fusions.
    """
    constants = onnx_graph.constants(graph)
    known = {
        value.name: [
            dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim
        ]
        for value in (*graph.value_info, *graph.input)
    }
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        dims = _target(known.get(node.input[0], []), known.get(node.output[0], []))
        if dims:
            node.input[1] = onnx_graph.add_constant(
                graph, "shape_" + "_".join(map(str, dims)), numpy.array(dims, numpy.int64)
            )


def _target(before: Sequence[int | str], after: Sequence[int | str]) -> list[int]:
    """The shape ``after`` with -1 for its only free dim, which ``before`` has too; a second
    unknown dim follows from the number of elements. Else empty.
    """
    free = [dim for dim in before if isinstance(dim, str)]
    unknown = [dim for dim in after if isinstance(dim, str)]
    if len(free) == 1 and len(unknown) == 2 and unknown.count(free[0]) == 1:
        elements, rest = (
            math.prod(dim for dim in dims if isinstance(dim, int))
            for dims in (before, after)
        )
        if rest and elements % rest == 0:
            after = [
                dim if isinstance(dim, int) or dim == free[0] else elements // rest
                for dim in after
            ]
            unknown = [free[0]]
    return (
        [dim if isinstance(dim, int) else -1 for dim in after]
        if len(unknown) == 1 and 0 not in after
        else []
    )


def _set_dims(graph: onnx.GraphProto, signature: Signature) -> None:
    """Write the signature's names for the free dims; the exporter numbers them."""
    for values, specs in (
        (graph.input, signature.inputs),
        (graph.output, signature.outputs),
    ):
        for value, spec in zip(values, specs, strict=True):
            _check_rank(value, spec)
            for dim, wanted in zip(
                value.type.tensor_type.shape.dim, spec.dims, strict=True
            ):
                if isinstance(wanted, str):
                    if not dim.dim_param:
                        told = f"The network fixes the dim {wanted!r} of {spec.name} at {dim.dim_value}."
                        raise StepError(
                            told, fix="keep forward() free of fixed batch sizes"
                        )
                    dim.dim_param = wanted


def _check_rank(value: onnx.ValueInfoProto, spec: TensorSpec) -> None:
    rank = len(value.type.tensor_type.shape.dim)
    if rank != len(spec.dims):
        raise StepError(
            f"The network's {spec.name} has {rank} dims; its signature says {len(spec.dims)}.",
            fix="correct the model's signature",
        )
