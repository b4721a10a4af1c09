"""Which operators of a TFLite file the Edge TPU could run: a prediction from Google's
published rules, without its compiler.

The compiler maps one subgraph: everything up to the first operator that it cannot map; all
operators after that run on the CPU. It may reject more than these rules
(``edgekit.formats.edgetpu.rules``) state, so the prediction is an upper bound.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from edgekit.formats.edgetpu.rules import RULES, VERSIONS, Rule
from edgekit.formats.tflite.graph import FLOATS, Graph, Operator

#: The statuses in the compiler's own words.
MAPPED = "Mapped to Edge TPU"
UNSUPPORTED = "Operation not supported"
DTYPE = "Operation is working on an unsupported data type"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
VERSION = "Operation version not supported"
SUBGRAPH = "More than one subgraph is not supported"
LIMITATION = "Operation is otherwise supported, but not mapped due to some unspecified limitation"


@dataclasses.dataclass(frozen=True)
class MappingResult:
    """Whether one operator is mapped: the compiler's status, and edgekit's reason."""

    status: str
    reason: str = ""

    @property
    def mapped(self) -> bool:
        """Whether the operator runs on the Edge TPU."""
        return self.status == MAPPED


def predict(graph: Graph, *, optimistic: bool = False) -> list[MappingResult]:
    """The result for every operator, in the graph's order.

    The graph is partitioned into subgraphs that one device can run at once, as TensorFlow
    Lite does for a delegate; the compiler maps the first one that the Edge TPU supports.
    ``optimistic``: operators that only some compilers map, or that are mapped in some sizes
    only, count as mapped.
    """
    results = [
        judge(operator, optimistic=optimistic) for operator in graph.operators
    ]
    subgraphs = _partition(graph, [result.mapped for result in results])
    mappable = [
        subgraph for subgraph in subgraphs if results[subgraph[0]].mapped
    ]
    for subgraph in mappable[1:]:
        for index in subgraph:
            results[index] = MappingResult(
                SUBGRAPH, "an operator before it runs on the CPU"
            )
    return results


def count_subgraphs(graph: Graph) -> int:
    """How many subgraphs the Edge TPU supports.

    The compiler's option -a maps all of them (experimental; each one costs a transfer to
    the device and back).
    """
    supported = [judge(operator).mapped for operator in graph.operators]
    return sum(
        supported[subgraph[0]] for subgraph in _partition(graph, supported)
    )


def _partition(graph: Graph, supported: Sequence[bool]) -> list[list[int]]:
    """Indices of operators that run together.

    Each subgraph consists of all operators of one kind, supported or not, that are ready
    (TensorFlow Lite's graph_info.cc, greedily in order).
    """
    producers = {
        tensor.index: operator.index
        for operator in graph.operators
        for tensor in operator.outputs
    }
    predecessors = [
        _predecessors(operator, producers) for operator in graph.operators
    ]
    remaining = list(range(len(graph.operators)))
    done: set[int] = set()
    subgraphs: list[list[int]] = []
    while remaining:
        kind = supported[remaining[0]]
        subgraph: list[int] = []
        for index in remaining:
            if supported[index] == kind and predecessors[index] <= done:
                subgraph.append(index)
                done.add(index)
        remaining = [index for index in remaining if index not in done]
        subgraphs.append(subgraph)
    return subgraphs


def _predecessors(operator: Operator, producers: dict[int, int]) -> set[int]:
    indices = {tensor.index for tensor in operator.inputs if tensor is not None}
    return {producers[index] for index in indices if index in producers}


def judge(operator: Operator, *, optimistic: bool = False) -> MappingResult:
    """The result for one operator on its own.

    An operator that is mapped with a reason may stay on the CPU because of it.
    """
    rule = RULES.get(operator.op)
    if rule is None:
        return MappingResult(
            UNSUPPORTED, f"{operator.op} is in no published table"
        )
    newest = VERSIONS[operator.op]
    if operator.version > newest:
        reason = f"it has version {operator.version}, the compiler supports up to {newest}"
        return MappingResult(VERSION, reason)
    return (
        _check_constants(operator, rule)
        or _check_tensors(operator)
        or _check_rule(operator, rule, optimistic)
    )


def _check_constants(operator: Operator, rule: Rule) -> MappingResult | None:
    computed = []
    for position in rule.constants:
        if position >= len(operator.inputs):
            continue
        tensor = operator.inputs[position]
        if tensor is not None and not tensor.stored:
            computed.append(str(position))
    if not computed:
        return None
    return MappingResult(
        LIMITATION,
        f"its input {', '.join(computed)} is computed at run time; it must be stored",
    )


def _check_tensors(operator: Operator) -> MappingResult | None:
    dtypes = [tensor.dtype for tensor in operator.activations]
    other = [dtype for dtype in dtypes if dtype not in ("int8", "uint8")]
    if other and not (operator.op == "QUANTIZE" and other[0] in FLOATS):
        return MappingResult(DTYPE, f"it works on {other[0]}")
    for tensor in operator.activations:
        if any(dim > 1 for dim in tensor.shape[:-3]):
            return MappingResult(
                RANK, f"a tensor has the shape {list(tensor.shape)}"
            )
    return None


def _check_rule(
    operator: Operator, rule: Rule, optimistic: bool
) -> MappingResult:
    checks = list(rule.checks)
    if rule.doubt is not None and not optimistic:
        checks.append(rule.doubt)
    for check in checks:
        reason = check(operator)
        if reason is not None:
            return MappingResult(LIMITATION, reason)
    return MappingResult(MAPPED, rule.caution)


def parameter_bytes(operators: Iterable[Operator]) -> int:
    """Bytes of the weights that these operators read, each counted once."""
    sizes = {
        tensor.index: tensor.bytes
        for operator in operators
        for tensor in operator.constants
    }
    return sum(sizes.values())
