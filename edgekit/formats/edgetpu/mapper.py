"""Which operators of a TFLite file the Edge TPU could run: a prediction from Google's
published rules, without its compiler.

The compiler maps one piece of the graph: up to the first operator that it cannot map; all
that follows runs on the CPU. It may refuse more than these rules say
(``edgekit.formats.edgetpu.rules``), so the prediction is an upper bound.
"""

import dataclasses
from collections.abc import Sequence

from edgekit.formats.edgetpu.rules import RULES, VERSIONS
from edgekit.formats.tflite.graph import FLOATS, Graph, Operator, Tensor

#: The compiler's own words.
MAPPED = "Mapped to Edge TPU"
UNSUPPORTED = "Operation not supported"
DTYPE = "Operation is working on an unsupported data type"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
VERSION = "Operation version not supported"
SUBGRAPH = "More than one subgraph is not supported"
LIMITATION = (
    "Operation is otherwise supported, but not mapped due to some unspecified limitation"
)


@dataclasses.dataclass(frozen=True)
class Fate:
    """What happens to one operator: the compiler's status word, and the reason in ours."""

    status: str
    reason: str = ""


def predict(graph: Graph, *, trusting: bool = False) -> list[Fate]:
    """The fate of every operator, in the graph's order.

    The graph falls into pieces that one device can run in one go, as TensorFlow Lite cuts
    it for a delegate; the compiler maps the first of the Edge TPU's pieces ("more than one
    subgraph"). ``trusting``: what only some compilers take, or take in some sizes, counts
    as taken.
    """
    fates = [judge(operator, trusting=trusting) for operator in graph.operators]
    pieces = _pieces(graph, [fate.status == MAPPED for fate in fates])
    first = next((piece for piece in pieces if fates[piece[0]].status == MAPPED), [])
    later = {
        index for piece in pieces for index in piece if fates[index].status == MAPPED
    } - set(first)
    return [
        Fate(SUBGRAPH, "an operator before it runs on the CPU") if index in later else fate
        for index, fate in enumerate(fates)
    ]


def pieces(graph: Graph) -> int:
    """How many pieces of the graph the Edge TPU could run, which the compiler's option -a
    maps all (experimental; each one is a way there and back).
    """
    able = [judge(operator).status == MAPPED for operator in graph.operators]
    return sum(able[piece[0]] for piece in _pieces(graph, able))


def _pieces(graph: Graph, able: Sequence[bool]) -> list[list[int]]:
    """Operators that run together: each piece takes all that is ready, of one kind
    (TensorFlow Lite's graph_info.cc, greedily in order).
    """
    made_by = {
        tensor.index: index
        for index, operator in enumerate(graph.operators)
        for tensor in operator.outputs
    }
    needs = [
        {
            made_by[tensor.index]
            for tensor in operator.inputs
            if tensor is not None and tensor.index in made_by
        }
        for operator in graph.operators
    ]
    left, done, found = list(range(len(graph.operators))), set[int](), list[list[int]]()
    while left:
        kind, piece = able[left[0]], list[int]()
        for index in left:
            if able[index] == kind and needs[index] <= done:
                piece.append(index)
                done.add(index)
        left = [index for index in left if index not in done]
        found.append(piece)
    return found


def judge(operator: Operator, *, trusting: bool = False) -> Fate:
    """The fate of one operator on its own.

    What is mapped with a reason may stay on the CPU for it.
    """
    rule = RULES.get(operator.op)
    if rule is None:
        return Fate(UNSUPPORTED, f"{operator.op} is in no published table")
    if operator.version > VERSIONS[operator.op]:
        return Fate(
            VERSION,
            f"it has version {operator.version}, the compiler knows {VERSIONS[operator.op]}",
        )
    computed = [
        position
        for position in rule.stored
        if position < len(operator.inputs) and not _fixed(operator, position)
    ]
    if computed:
        return Fate(
            LIMITATION,
            f"its input {', '.join(map(str, computed))} is computed while the network runs; it must be stored",
        )
    wrong = next(
        (
            tensor
            for tensor in operator.activations
            if tensor.dtype not in ("int8", "uint8")
        ),
        None,
    )
    if wrong is not None and not (operator.op == "QUANTIZE" and wrong.dtype in FLOATS):
        return Fate(DTYPE, f"it works on {wrong.dtype}")
    deep = next(
        (
            tensor
            for tensor in operator.activations
            if any(dim > 1 for dim in tensor.shape[:-3])
        ),
        None,
    )
    if deep is not None:
        return Fate(RANK, f"a tensor has the shape {list(deep.shape)}")
    reason = next(
        (found for test in rule.tests if (found := test(operator)) is not None), None
    )
    if reason is None and rule.doubt is not None and not trusting:
        reason = rule.doubt(operator)
    return Fate(MAPPED, rule.caution) if reason is None else Fate(LIMITATION, reason)


def _fixed(operator: Operator, position: int) -> bool:
    tensor = operator.inputs[position]
    return tensor is None or tensor.stored


def parameter_bytes(operators: Sequence[Operator]) -> int:
    """Bytes of the weights that these operators read, each counted once."""
    stored: dict[int, Tensor] = {
        tensor.index: tensor
        for operator in operators
        for tensor in operator.inputs
        if tensor is not None and tensor.stored
    }
    return sum(tensor.bytes for tensor in stored.values())
