"""Which operators of a traced graph compute in int8, which only pass numbers on, and why the others stay float.

* weighted: convolutions and linear layers with constant weights; an activation that follows is part of them
* joining: add, mul, matmul of tensors that are int8 already; an activation that follows is part of add and mul
* sharing: pools, reshapes, concatenation: what comes out has the scale of what went in
* curved: elementwise functions with a scale of their own
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.capture import module_of
from edgekit.quantization.rewrite import CONVS, LINEARS, constant

A = torch.ops.aten
WEIGHTED = CONVS | LINEARS
_ELEMENTWISE = {A.add.Tensor, A.mul.Tensor}
JOINING = {*_ELEMENTWISE, A.matmul.default, A.bmm.default}
CONCATENATIONS = {A.cat.default}
SHARING = {
    A.max_pool1d.default, A.max_pool2d.default, A.max_pool3d.default, A.avg_pool1d.default, A.avg_pool2d.default, A.avg_pool3d.default,
    A.adaptive_avg_pool1d.default, A.adaptive_avg_pool2d.default, A.adaptive_avg_pool3d.default, A.adaptive_max_pool2d.default,
    A.mean.dim, A.flatten.using_ints, A.reshape.default, A.view.default, A.transpose.int, A.permute.default, A.squeeze.dim, A.squeeze.dims,
    A.squeeze.default, A.unsqueeze.default, A.slice.Tensor, A.select.int, A.contiguous.default, A.clone.default, A.expand.default,
    A.pixel_shuffle.default, A.upsample_nearest2d.vec, A.pad.default,
}  # fmt: skip
FUSED = {A.relu.default, A.relu6.default, A.hardtanh.default}
CURVED = {*FUSED, A.leaky_relu.default, A.hardswish.default, A.silu.default, A.hardsigmoid.default}
#: Elementwise functions whose range is known: (scale, zero point) of int8, as TFLite asks for.
BOUNDED = {A.sigmoid.default: (1 / 256, -128), A.tanh.default: (1 / 128, 0)}
#: Operators that are worth a word in the report where they stay float.
_HEAVY = {
    A.conv_transpose1d.default: "no runtime has a fast int8 transposed convolution",
    A.conv_transpose2d.input: "no runtime has a fast int8 transposed convolution",
    A.lstm.input: "recurrent layers stay float", A.gru.input: "recurrent layers stay float", A.rnn_tanh.input: "recurrent layers stay float",
    A.scaled_dot_product_attention.default: "attention products gain nothing in int8", A.addmm.default: "addmm is not quantized; use nn.Linear",
    A.batch_norm.default: "its statistics come from the batch, or it follows a transposed convolution",
}  # fmt: skip

Kind = Literal["weighted", "joining", "sharing", "concatenation", "curved"]


@dataclasses.dataclass(frozen=True)
class Placed:
    """One operator that computes in int8. ``tail`` is the node whose result is quantized: the activation that follows, or the node itself."""

    node: Node
    tail: Node
    kind: Kind
    inputs: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class Float:
    """One operator that stays float, and why."""

    node: Node
    reason: str

    @property
    def where(self) -> tuple[str, str, str]:
        """The operator, its module, the reason."""
        return str(self.node.target).removeprefix("aten."), module_of(self.node), self.reason


def place(graph: GraphModule) -> Iterator[Placed | Float]:
    """Decide for every operator, in the order in which they run."""
    done: set[Node] = set()  # nodes whose result is quantized
    tails: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in tails:
            continue
        placed = _decide(graph, node, done)
        if isinstance(placed, Placed):
            done.add(placed.tail)
            tails.add(placed.tail)
        if placed is not None:
            yield placed


def _decide(graph: GraphModule, node: Node, done: set[Node]) -> Placed | Float | None:
    if node.target in _HEAVY:
        return Float(node, _HEAVY[node.target])
    if not _is_float(node):
        return None
    if node.target in WEIGHTED:
        first, weight = node.args[:2]
        if not isinstance(first, Node) or constant(graph, weight) is None:
            return Float(node, "its weights are computed while the network runs")
        return Placed(node, _tail(node), "weighted", (first,))
    if node.target in JOINING:
        return _joining(graph, node, done)
    if node.target in CONCATENATIONS:
        listed = tuple(node.args[0]) if isinstance(node.args[0], list | tuple) else ()
        inputs = tuple(item for item in listed if isinstance(item, Node))
        if all(_ready(graph, item, done) for item in inputs):
            return Placed(node, node, "concatenation", inputs)
        return Float(node, "one of its inputs is float")
    if node.target in SHARING | CURVED | BOUNDED.keys() and isinstance(node.args[0], Node) and _ready(graph, node.args[0], done):
        if node.target is A.pad.default and not _pads_zeros(node):
            return Float(node, "only padding with zeros is the same in int8")
        return Placed(node, node, "sharing" if node.target in SHARING else "curved", (node.args[0],))
    return None


def _joining(graph: GraphModule, node: Node, done: set[Node]) -> Placed | Float:
    inputs = tuple(item for item in node.args[:2] if isinstance(item, Node))
    if len(inputs) < 2:
        return Float(node, "one operand is a plain number")
    if not all(_ready(graph, item, done) for item in inputs):
        return Float(node, "one operand is float")
    return Placed(node, _tail(node) if node.target in _ELEMENTWISE else node, "joining", inputs)


def _tail(node: Node) -> Node:
    """The activation that follows and belongs to the operator, or the operator itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in FUSED else node


def _ready(graph: GraphModule, node: Node, done: set[Node]) -> bool:
    """Whether a tensor is int8 already, or can be made so where it enters: an input or a constant of the network."""
    if node in done:
        return True
    if node.op == "placeholder":
        return _is_float(node)
    found = constant(graph, node)
    return found is not None and found.dtype == torch.float32


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _pads_zeros(node: Node) -> bool:
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else 0
    return mode in ("reflect", "replicate", "circular") or not value
