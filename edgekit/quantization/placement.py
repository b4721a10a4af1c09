"""Which operators of a traced graph compute in int8, and why the others stay in float.

``operators.py`` contains what is possible for each operator; this module decides for the
operators of one graph. A weighted operator quantizes its inputs. All others are int8 only
if their inputs are int8 already, or enter the network there.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch.fx import GraphModule, Node

from edgekit.formats import kernels_of
from edgekit.quantization.capture import module_of
from edgekit.quantization.graph_edit import constant_value
from edgekit.quantization.operators import (
    BOUNDS,
    FUSED,
    LINEARS,
    OPERATORS,
    SPLIT,
    TFLITE,
    WEIGHTED,
    A,
    Kind,
    Operator,
    operator_name,
)
from edgekit.quantization.settings import Settings

KEPT = "kept in float"
#: Clips that TFLite has as operators; the bounds of any other would be rounded to the steps
#: of the input.
_TFLITE_CLIPS = ((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0))
#: A probability is stored in steps of 1/256: over more values than this, most would be 0.
_LONGEST_SOFTMAX = 256
#: Elementwise operators that include the activation after them.
_ELEMENTWISE = {A.add.Tensor, A.mul.Tensor, A.sub.Tensor}
_MOVING_KINDS = ("passthrough", "shared-inputs")
_TWO_INPUT_KINDS = ("binary", "shared-inputs")
#: Parts of the names of operators that reshape.
_RESHAPES = ("view", "reshape", "flatten", "select", "squeeze")
_FLOAT_INPUT: Mapping[str, str] = {
    "binary": "one operand is float",
    "shared-inputs": "one of its inputs is float",
}
_DEFAULT = Settings()


@dataclasses.dataclass(frozen=True)
class QuantizedNode:
    """One operator that computes in int8.

    ``tail`` is the node whose output is quantized: the activation that follows, or the node
    itself.
    """

    node: Node
    tail: Node
    kind: Kind
    inputs: tuple[Node, ...]
    #: False if all readers of the output are float, and it stays in float.
    quantizes_output: bool = True


@dataclasses.dataclass(frozen=True)
class FloatNode:
    """One operator that stays in float, and the reason."""

    node: Node
    reason: str

    @property
    def row(self) -> tuple[str, str, str]:
        """The operator, its module, the reason."""
        target = str(self.node.target).removeprefix("aten.")
        return target, module_of(self.node), self.reason


def place(
    graph: GraphModule, settings: Settings = _DEFAULT
) -> Iterator[QuantizedNode | FloatNode]:
    """Decide for every operator of a graph, in execution order."""
    placement = _Placement(graph, settings)
    decisions: list[QuantizedNode | FloatNode] = []
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in placement.tails:
            continue
        decision = placement.decide(node)
        if decision is not None:
            decisions.append(decision)
    int8_inputs: set[Node] = set()
    for decision in decisions:
        if isinstance(decision, QuantizedNode):
            int8_inputs.update(decision.inputs)
    for decision in decisions:
        if not isinstance(decision, QuantizedNode):
            yield decision
        elif _keeps_float_output(decision, int8_inputs, settings):
            yield dataclasses.replace(decision, quantizes_output=False)
        else:
            yield decision


class _Placement:
    """One pass over a graph: which nodes are int8 so far."""

    def __init__(self, graph: GraphModule, settings: Settings) -> None:
        self._graph = graph
        self._settings = settings
        #: Concatenations, and what moves them, that stay in float with an output.
        self._float_outputs: set[Node] = set()
        if settings.split_outputs:
            self._float_outputs = _concatenated_outputs(graph)
        #: Nodes whose output is quantized.
        self._quantized: set[Node] = set()
        self.tails: set[Node] = set()

    def decide(self, node: Node) -> QuantizedNode | FloatNode | None:
        """The decision for one operator; None if the report need not list it."""
        row = OPERATORS.get(node.target)  # type: ignore[arg-type]
        if row is None:
            return None
        linear_only = self._settings.placement == "linear"
        if linear_only and row.kind != "weighted" and not row.reason:
            return None
        decision = self._decide(node, row)
        if isinstance(decision, QuantizedNode) and self._is_kept(node):
            decision = (
                FloatNode(node, KEPT)
                if decision.kind != "passthrough"
                else None
            )
        if isinstance(decision, QuantizedNode):
            self.tails.add(decision.tail)
            if decision.quantizes_output:
                self._quantized.add(decision.tail)
        return decision

    def _decide(
        self, node: Node, row: Operator
    ) -> QuantizedNode | FloatNode | None:
        if row.kind in ("float", "decomposed"):
            return FloatNode(node, row.reason) if row.reason else None
        if not _is_float(node):
            return None
        if row.kind == "weighted":
            return self._decide_weighted(node, row)
        if self._settings.placement == "linear":
            return None
        inputs = _tensor_inputs(node, row)
        if not inputs or not all(self._can_be_int8(item) for item in inputs):
            reason = _FLOAT_INPUT.get(row.kind)
            return FloatNode(node, reason) if reason else None
        reason = self._reason_for_float(node, row)
        if reason:
            return FloatNode(node, reason)
        tail = self._tail(node) if node.target in _ELEMENTWISE else node
        return QuantizedNode(node, tail, row.kind, inputs)

    def _reason_for_float(self, node: Node, row: Operator) -> str:
        runtime = self._settings.runtime
        if not row.runs_in(runtime):
            return f"{runtime} has no int8 kernel for it"
        if node in self._float_outputs or node.meta.get(SPLIT):
            if row.kind == "shared-inputs":
                return "its inputs have separate scales"
            return "it only moves an output that stays float"
        return _float_reason(node, row, self._settings)

    def _decide_weighted(
        self, node: Node, row: Operator
    ) -> QuantizedNode | FloatNode:
        first, weight = node.args[:2]
        if (
            not isinstance(first, Node)
            or constant_value(self._graph, weight) is None
        ):
            return FloatNode(
                node, "its weights are computed while the network runs"
            )
        runtime = self._settings.runtime
        if not row.runs_in(runtime):
            place = runtime or "not in every runtime"
            return FloatNode(node, f"{place}: {row.reason}")
        if self._settings.placement == "linear" and node.target in LINEARS:
            return QuantizedNode(
                node, node, "weighted", (first,), quantizes_output=False
            )
        return QuantizedNode(node, self._tail(node), "weighted", (first,))

    def _tail(self, node: Node) -> Node:
        """The activation that follows and belongs to the operator, or the operator itself."""
        users = list(node.users)
        if (
            len(users) != 1
            or users[0].target not in FUSED
            or self._is_kept(users[0])
        ):
            return node
        return users[0]

    def _can_be_int8(self, node: Node) -> bool:
        """Whether a tensor is int8, or is a float input or constant of the network."""
        if node in self._quantized:
            return True
        if node.op == "placeholder":
            return _is_float(node)
        value = constant_value(self._graph, node)
        return value is not None and value.dtype == torch.float32

    def _is_kept(self, node: Node) -> bool:
        return self._settings.keeps(module_of(node))


def _tensor_inputs(node: Node, row: Operator) -> tuple[Node, ...]:
    """The tensors that an operator reads; empty if one of them is not part of the graph."""
    if isinstance(node.args[0], list | tuple):
        return tuple(item for item in node.args[0] if isinstance(item, Node))
    count = 2 if row.kind in _TWO_INPUT_KINDS else 1
    inputs = [item for item in node.args[:count] if isinstance(item, Node)]
    return tuple(inputs) if len(inputs) == len(node.args[:count]) else ()


def _float_reason(node: Node, row: Operator, settings: Settings) -> str:
    """Why an operator with int8 inputs stays in float; the empty string if it does not."""
    if settings.runtime in TFLITE:
        reason = _tflite_reason(node)
        if reason:
            return reason
    if row.kind == "binary" and node.kwargs.get("alpha", 1) != 1:
        return "one operand is multiplied by alpha"
    if row.kind == "fixed-range" and _needs_zero_point(node, settings):
        return "in TFLite its zero point is -128"
    if node.target is A.pad.default and not _pads_with_zeros(node):
        return "only padding with zeros is the same in int8"
    if node.target is A.softmax.int:
        return _softmax_reason(node)
    if "adaptive_avg_pool" in operator_name(
        node.target
    ) and not _has_even_windows(node):
        return "its windows differ in size"
    return ""


def _tflite_reason(node: Node) -> str:
    if node.target in _ELEMENTWISE:
        if all(_is_reshape(item) for item in node.all_input_nodes):
            return "TFLite's converter fails if both operands are reshaped"
    elif node.target is A.hardtanh.default:
        bounds = node.args[1:3] or (-1, 1)
        if bounds not in _TFLITE_CLIPS:
            return "its bounds are not steps of the input"
    return ""


def _needs_zero_point(node: Node, settings: Settings) -> bool:
    """Whether TFLite's fixed quantization of an operator contradicts symmetric int8."""
    symmetric = settings.symmetric and settings.activation_bits == 8
    low, _ = BOUNDS[node.target]  # type: ignore[index]
    in_onnxruntime = "onnxruntime" in kernels_of(settings.runtime)
    return low == 0 and symmetric and not in_onnxruntime


def _softmax_reason(node: Node) -> str:
    value = node.meta["val"]
    axis = int(str(node.args[1]))
    length = value.shape[-1]
    if axis not in (-1, value.dim() - 1):
        return "softmax is int8 over the last axis only"
    if not isinstance(length, int) or length > _LONGEST_SOFTMAX:
        return f"most of its outputs would be zero: it has more than {_LONGEST_SOFTMAX}"
    return ""


def _is_reshape(node: Node) -> bool:
    name = operator_name(node.target)
    return any(word in name for word in _RESHAPES)


def _has_even_windows(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    before = source.meta["val"].shape[2:]
    after = node.meta["val"].shape[2:]
    for old, new in zip(before, after, strict=True):
        divides = (
            isinstance(old, int) and isinstance(new, int) and old % new == 0
        )
        if new != 1 and not divides:
            return False
    return True


def _concatenated_outputs(graph: GraphModule) -> set[Node]:
    """Concatenations that lead to outputs only, with the operators from there to the output."""
    leads_to_output: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if not _moves_values(node):
            continue
        if all(
            user in leads_to_output or user.op == "output"
            for user in node.users
        ):
            leads_to_output.add(node)
    concatenated: set[Node] = set()
    for node in graph.graph.nodes:
        if node not in leads_to_output:
            continue
        is_concatenation = OPERATORS[node.target].kind == "shared-inputs"
        if is_concatenation or any(
            item in concatenated for item in node.all_input_nodes
        ):
            concatenated.add(node)
    return concatenated


def _moves_values(node: Node) -> bool:
    row = OPERATORS.get(node.target)  # type: ignore[arg-type]
    return (
        node.op == "call_function"
        and row is not None
        and row.kind in _MOVING_KINDS
    )


def _keeps_float_output(
    decision: QuantizedNode, int8_inputs: set[Node], settings: Settings
) -> bool:
    """Whether an int8 operator should return float.

    That is so if all readers are float and the runtime has a kernel with a float output.
    """
    node = decision.node
    if node.target not in WEIGHTED or not _has_float_kernel(node, settings):
        return False
    readers = decision.tail.users
    if not readers or decision.tail in int8_inputs:
        return False
    return all(user.op != "output" for user in readers)


def _has_float_kernel(node: Node, settings: Settings) -> bool:
    """Whether the runtime has an int8 kernel of this operator with a float output."""
    if settings.runtime == "tensorrt":
        return True
    if settings.runtime != "onnxruntime" or node.target not in LINEARS:
        return False
    # A Gemm with a float bias and a float output does not fuse in ONNX Runtime; a MatMul
    # followed by an Add does.
    has_bias = len(node.args) >= 3 and node.args[2] is not None
    return bool(node.meta["val"].dim() > 2) or not has_bias


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _pads_with_zeros(node: Node) -> bool:
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else 0
    return mode in ("reflect", "replicate", "circular") or not value
