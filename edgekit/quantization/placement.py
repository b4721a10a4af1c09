"""Which operators of a traced graph compute in int8, which only pass numbers on, and why
the others stay float.

``operators.py`` says what can be done with each operator; here it is decided for the
operators of one graph. A weighted operator quantizes what it reads; all others are int8
only where what they read is int8 already, or enters the network there.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from edgekit.formats import kernels_of
from edgekit.quantization.capture import module_of
from edgekit.quantization.operators import (
    BOUNDS,
    FUSED,
    OPERATORS,
    SPLIT,
    TFLITE,
    WEIGHTED,
    A,
    Kind,
    Operator,
    name,
)
from edgekit.quantization.rewrite import LINEARS, constant
from edgekit.quantization.settings import Settings

KEPT = "kept in float"
#: Clips that TFLite has as operators; the bounds of any other would be rounded to the steps
#: of what comes in.
_TFLITE_CLIPS = ((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0))
#: A probability is stored in steps of 1/256: of more numbers than this most would be zero.
_LONGEST_SOFTMAX = 256
#: Operators of two tensors that take the activation behind them along.
_WITH_TAIL = {A.add.Tensor, A.mul.Tensor, A.sub.Tensor}
_PLAIN = Settings()


@dataclasses.dataclass(frozen=True)
class Placed:
    """One operator that computes in int8.

    ``tail`` is the node whose result is quantized: the activation that follows, or the node
    itself.
    """

    node: Node
    tail: Node
    kind: Kind
    inputs: tuple[Node, ...]
    #: False where the result is read in float only, and is left so.
    result: bool = True


@dataclasses.dataclass(frozen=True)
class Float:
    """One operator that stays float, and why."""

    node: Node
    reason: str

    @property
    def where(self) -> tuple[str, str, str]:
        """The operator, its module, the reason."""
        return (
            str(self.node.target).removeprefix("aten."),
            module_of(self.node),
            self.reason,
        )


def place(graph: GraphModule, settings: Settings = _PLAIN) -> Iterator[Placed | Float]:
    """Decide for every operator, in the order in which they run."""
    placing = _Placing(graph, settings)
    found: list[Placed | Float] = []
    for node in graph.graph.nodes:
        if node.op == "call_function" and node not in placing.tails:
            placed = placing.decide(node)
            if placed is not None:
                found.append(placed)
    read = {
        item for placed in found if isinstance(placed, Placed) for item in placed.inputs
    }
    for placed in found:
        yield (
            dataclasses.replace(placed, result=False)
            if isinstance(placed, Placed) and _ends_float(placed, read, settings)
            else placed
        )


class _Placing:
    """One pass over a graph: what is int8 so far."""

    def __init__(self, graph: GraphModule, settings: Settings) -> None:
        self._graph, self._settings = graph, settings
        self._ends = _joined_outputs(graph) if settings.split_outputs else set()
        self._done: set[Node] = set()  # nodes whose result is quantized
        self.tails: set[Node] = set()

    def decide(self, node: Node) -> Placed | Float | None:
        """What becomes of one operator; None where it is not worth a word."""
        row = OPERATORS.get(node.target)  # type: ignore[arg-type]
        if row is None or (
            self._settings.placement == "linear"
            and row.kind != "weighted"
            and row.reason == ""
        ):
            return None
        placed = self._placed(node, row)
        if isinstance(placed, Placed) and self._is_kept(node):
            placed = Float(node, KEPT) if placed.kind != "sharing" else None
        if isinstance(placed, Placed):
            self.tails.add(placed.tail)
            if placed.result:
                self._done.add(placed.tail)
        return placed

    def _placed(self, node: Node, row: Operator) -> Placed | Float | None:
        if row.kind in ("float", "rewritten"):
            return Float(node, row.reason) if row.reason else None
        if not _is_float(node):
            return None
        if row.kind == "weighted":
            return self._weighted(node, row)
        if self._settings.placement == "linear":
            return None
        inputs = _inputs(node, row)
        if not inputs or not all(self._ready(item) for item in inputs):
            told = {
                "joining": "one operand is float",
                "uniting": "one of its inputs is float",
            }
            return Float(node, told[row.kind]) if row.kind in told else None
        if not row.runs_in(self._settings.runtime):
            return Float(node, f"{self._settings.runtime} has no int8 kernel for it")
        reason = _refused(node, row, self._settings)
        if node in self._ends or node.meta.get(SPLIT):
            reason = (
                "its pieces have scales of their own"
                if row.kind == "uniting"
                else "it only moves an output that stays float"
            )
        if reason:
            return Float(node, reason)
        elementwise = node.target in _WITH_TAIL
        return Placed(node, self._tail(node) if elementwise else node, row.kind, inputs)

    def _weighted(self, node: Node, row: Operator) -> Placed | Float:
        first, weight = node.args[:2]
        if not isinstance(first, Node) or constant(self._graph, weight) is None:
            return Float(node, "its weights are computed while the network runs")
        runtime = self._settings.runtime
        if not row.runs_in(runtime):
            return Float(
                node,
                f"{runtime}: {row.reason}"
                if runtime
                else f"not in every runtime: {row.reason}",
            )
        linear = self._settings.placement == "linear" and node.target in LINEARS
        return Placed(
            node,
            node if linear else self._tail(node),
            "weighted",
            (first,),
            result=not linear,
        )

    def _tail(self, node: Node) -> Node:
        """The activation that follows and belongs to the operator, or the operator itself."""
        users = list(node.users)
        if len(users) != 1 or users[0].target not in FUSED or self._is_kept(users[0]):
            return node
        return users[0]

    def _ready(self, node: Node) -> bool:
        """Whether a tensor is int8 already, or can be made so where it enters: an input or
        a constant of the network.
        """
        if node in self._done:
            return True
        if node.op == "placeholder":
            return _is_float(node)
        found = constant(self._graph, node)
        return found is not None and found.dtype == torch.float32

    def _is_kept(self, node: Node) -> bool:
        return self._settings.keeps(module_of(node))


def _inputs(node: Node, row: Operator) -> tuple[Node, ...]:
    """The tensors that an operator reads; none where one of them is not a tensor of the
    graph.
    """
    if isinstance(node.args[0], list | tuple):
        return tuple(item for item in node.args[0] if isinstance(item, Node))
    given = node.args[:2] if row.kind in ("joining", "uniting") else node.args[:1]
    return (
        tuple(item for item in given if isinstance(item, Node))
        if all(isinstance(item, Node) for item in given)
        else ()
    )


def _refused(node: Node, row: Operator, settings: Settings) -> str:
    """Why an operator whose inputs are int8 cannot be; the empty string where it can."""
    value = node.meta["val"]
    if (
        node.target in _WITH_TAIL
        and settings.runtime in TFLITE
        and all(_reshaped(item) for item in node.all_input_nodes)
    ):
        return "TFLite's converter fails where both operands are reshaped"
    if (
        node.target is A.hardtanh.default
        and settings.runtime in TFLITE
        and (node.args[1:3] or (-1, 1)) not in _TFLITE_CLIPS
    ):
        return "its bounds are no steps of what comes in"
    if row.kind == "joining" and node.kwargs.get("alpha", 1) != 1:
        return "one operand is multiplied by alpha"
    if (
        row.kind == "bounded"
        and BOUNDS[node.target][0] == 0  # type: ignore[index]
        and settings.symmetric
        and settings.activation_bits == 8
        and "onnxruntime" not in kernels_of(settings.runtime)
    ):
        return "in TFLite its zero point is -128"
    if node.target is A.pad.default and not _pads_zeros(node):
        return "only padding with zeros is the same in int8"
    if node.target is A.softmax.int:
        axis, length = int(str(node.args[1])), value.shape[-1]
        if axis not in (-1, value.dim() - 1):
            return "softmax is int8 over the last axis only"
        if not isinstance(length, int) or length > _LONGEST_SOFTMAX:
            return (
                f"most of its numbers would be zero: it gives more than {_LONGEST_SOFTMAX}"
            )
    if "adaptive_avg_pool" in name(node.target) and not _even_windows(node):
        return "its windows differ in size"
    return ""


def _reshaped(node: Node) -> bool:
    return any(
        word in name(node.target)
        for word in ("view", "reshape", "flatten", "select", "squeeze")
    )


def _even_windows(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = source.meta["val"].shape[2:], node.meta["val"].shape[2:]
    return all(
        new == 1 or (isinstance(old, int) and isinstance(new, int) and old % new == 0)
        for old, new in zip(before, after, strict=True)
    )


def _joined_outputs(graph: GraphModule) -> set[Node]:
    """The concatenations that lead to outputs only, with what lies between them and there."""
    moves = {
        target for target, row in OPERATORS.items() if row.kind in ("sharing", "uniting")
    }
    ends: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if (
            node.op == "call_function"
            and node.target in moves
            and all(user in ends or user.op == "output" for user in node.users)
        ):
            ends.add(node)
    behind: set[Node] = set()
    for node in graph.graph.nodes:
        if node in ends and (
            OPERATORS[node.target].kind == "uniting"
            or any(item in behind for item in node.all_input_nodes)
        ):
            behind.add(node)
    return behind


def _ends_float(placed: Placed, read: set[Node], settings: Settings) -> bool:
    """Whether the result is not worth quantizing: all its readers are float, and the
    runtime has a kernel that gives floats.
    """
    node = placed.node
    # A Gemm with a float bias and a float result does not fuse in ONNX Runtime; a MatMul
    # with an Add behind it does.
    fuses = node.target in LINEARS and (
        node.meta["val"].dim() > 2 or len(node.args) < 3 or node.args[2] is None
    )
    gives_floats = settings.runtime == "tensorrt" or (
        settings.runtime == "onnxruntime" and fuses
    )
    readers = placed.tail.users
    return (
        node.target in WEIGHTED
        and gives_floats
        and placed.tail not in read
        and bool(readers)
        and all(user.op != "output" for user in readers)
    )


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _pads_zeros(node: Node) -> bool:
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else 0
    return mode in ("reflect", "replicate", "circular") or not value
