"""Improve a graph as PyTorch's exporter writes it: names of nodes, pooling, shapes."""

import math
from collections.abc import Sequence

import numpy
import onnx

from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.provenance import module_in_scopes, scopes
from edgekit.quantization.capture import plain_path

#: A dim is a number, or the name of a free one.
Dims = Sequence[int | str]

#: Nodes that only carry numbers, and need no name in reports.
_UNNAMED = {"QuantizeLinear", "DequantizeLinear", "Cast", "Constant"}


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name a node ``module.path/Operator``, so that every later report can state which PyTorch
    module it came from.
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


def pool_instead_of_mean(graph: onnx.GraphProto) -> None:
    """Replace the mean over all positions of an image by GlobalAveragePool: the runtimes have
    an int8 kernel for that and none for ReduceMean.
    """
    constants = onnx_graph.constants(graph)
    values = (*graph.value_info, *graph.input)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in values
    }
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2:
            continue
        rank = ranks.get(node.input[0], 0)
        if node.input[1] not in constants or rank < 3:
            continue
        axes = sorted(
            int(axis) % rank for axis in constants[node.input[1]].ravel()
        )
        if axes == list(range(2, rank)) and onnx_graph.attributes(node).get(
            "keepdims", 1
        ):
            node.op_type = "GlobalAveragePool"
            node.name = node.name.replace("ReduceMean", "GlobalAveragePool")
            del node.input[1:], node.attribute[:]


def fix_shapes(graph: onnx.GraphProto) -> None:
    """Store the shape of a Reshape with one free dim, as -1: computing it takes four nodes, and
    hides the other dims from fusions.
    """
    constants = onnx_graph.constants(graph)
    dims_of = {
        value.name: _dims(value) for value in (*graph.value_info, *graph.input)
    }
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        before = dims_of.get(node.input[0], [])
        after = dims_of.get(node.output[0], [])
        shape = _constant_shape(before, after)
        if shape:
            name = "shape_" + "_".join(map(str, shape))
            values = numpy.array(shape, numpy.int64)
            node.input[1] = onnx_graph.add_constant(graph, name, values)


def _module(node: onnx.NodeProto, stored: set[str]) -> str:
    """The owner of the node's weights (a folded batch normalization has another scope),
    else the node's scope.
    """
    weight = node.input[1] if len(node.input) > 1 else ""
    if weight in stored and weight.endswith(".weight"):
        return plain_path(weight.removesuffix(".weight"))
    path = module_in_scopes(scopes(node))
    return plain_path(path) if path else ""


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        dim.dim_value or dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]


def _constant_shape(before: Dims, after: Dims) -> list[int]:
    """Return the shape ``after`` with -1 for its only free dim; empty if it has more.

    ``before`` has that free dim too; a second unknown dim of ``after`` follows from the number
    of elements.
    """
    free = [dim for dim in before if isinstance(dim, str)]
    unknown = [dim for dim in after if isinstance(dim, str)]
    if len(free) == 1 and len(unknown) == 2 and unknown.count(free[0]) == 1:
        solved = _solve(before, after, free[0])
        after = after if solved is None else solved
        unknown = [dim for dim in after if isinstance(dim, str)]
    if len(unknown) != 1 or 0 in after:
        return []
    return [dim if isinstance(dim, int) else -1 for dim in after]


def _solve(before: Dims, after: Dims, free: str) -> list[int | str] | None:
    """Return ``after`` with the dim that is neither known nor ``free`` computed, or None if
    the numbers of elements do not divide.
    """
    elements = math.prod(dim for dim in before if isinstance(dim, int))
    known_part = math.prod(dim for dim in after if isinstance(dim, int))
    if not known_part or elements % known_part:
        return None
    missing = elements // known_part
    return [
        dim if isinstance(dim, int) or dim == free else missing for dim in after
    ]
