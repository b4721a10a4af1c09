"""What a TFLite file will execute: which operators compute in int8, which in float, what
only moves numbers.

audit(artifact, limits)        # every part of an artifact
audit_file(path, limits)       # any .tflite file
"""

import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.formats.ethosu import vela
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite import names as tflite_names
from edgekit.formats.tflite.graph import FLOATS, INTEGERS, Graph, Operator
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.target import Limits

#: The custom operators of compiled files -> for what they were compiled.
COMPILED: Mapping[str, str] = {
    vela.CUSTOM: "an Ethos-U",
    "CUSTOM:edgetpu-custom-op": "an Edge TPU",
}
_QUANTIZING = ("QUANTIZE", "DEQUANTIZE")
#: Newest operator versions that tflite-runtime 2.14 (the last one, 2023) loads, where
#: exporters write newer ones. Measured there.
OLD_RUNTIME_VERSIONS: Mapping[str, int] = {"FULLY_CONNECTED": 11, "GATHER_ND": 4, "ADD": 5}
#: The arithmetic of one operator. dynamic: int8 weights, float activations that the runtime
#: quantizes as it goes.
INT8, DYNAMIC, FLOAT, INT16, OTHER = "int8", "int8 weights", "float32", "int16", "other"

Row = Mapping[str, Any]
#: So many modules are named in a warning.
_NAMED = 4


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """The audit of all parts of an artifact together."""
    return audit_graphs(
        {part.name: tflite_graph.read(artifact.path(part)) for part in artifact.parts},
        limits,
    )


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """The audit of one file, made by edgekit or not.

    Raises ModelError where it is no TFLite file.
    """
    return audit_graphs({path.stem: tflite_graph.read(path)}, limits)


def audit_graphs(graphs: Mapping[str, Graph], limits: Limits) -> Audit:
    """Measurements over all graphs, a row for each operator, and what is wrong with each
    graph.
    """
    where = "the flatbuffer of " + ", ".join(graph.path.name for graph in graphs.values())
    operators = [operator for graph in graphs.values() for operator in graph.operators]
    float_operators = [operator for operator in operators if is_float(operator)]
    transposes = [operator for operator in operators if operator.op == "TRANSPOSE"]
    ends = [operator for operator in operators if is_conversion(operator)]
    measurements = [
        int8_share(operators, where),
        _count(
            "float_ops",
            float_operators,
            where,
            "operators that read or write float tensors while the network runs, QUANTIZE and DEQUANTIZE not counted",
        ),
        _count("transposes", transposes, where, "TRANSPOSE operators"),
        _count(
            "qdq_pairs",
            ends,
            where,
            "QUANTIZE and DEQUANTIZE operators between float and integer tensors",
        ),
    ]
    rows = [
        row(operator, name)
        for name, graph in graphs.items()
        for operator in graph.operators
    ]
    return Audit(
        measurements,
        rows,
        [
            f"{name}: {text}"
            for name, graph in graphs.items()
            for text in warnings(graph, limits)
        ],
    )


def arithmetic(operator: Operator) -> str:
    """How an operator computes: ``int8``, ``int8 weights``, ``float32``, ``int16`` or
    ``other`` (index arithmetic, booleans).
    """
    dtypes = {tensor.dtype for tensor in operator.activations}
    weights = operator.weights
    if operator.op not in _QUANTIZING and dtypes & set(FLOATS):
        dynamic = weights is not None and weights.stored and weights.dtype in INTEGERS
        return DYNAMIC if dynamic else FLOAT
    if "int16" in dtypes:
        return INT16
    return INT8 if dtypes & set(INTEGERS) else OTHER


def is_float(operator: Operator) -> bool:
    """True for an operator with float activations that is no QUANTIZE or DEQUANTIZE."""
    return arithmetic(operator) in (FLOAT, DYNAMIC)


def is_conversion(operator: Operator) -> bool:
    """True for a QUANTIZE or DEQUANTIZE between float and integer that runs with every
    inference (not on stored weights).
    """
    dtypes = {tensor.dtype for tensor in operator.activations}
    return (
        operator.op in _QUANTIZING
        and bool(dtypes & set(FLOATS))
        and bool(dtypes & set(INTEGERS))
    )


def row(operator: Operator, part: str) -> dict[str, Any]:
    """One operator as a row of the report."""
    output = operator.outputs[0] if operator.outputs else None
    return {
        "op": operator.op,
        "name": "" if output is None else output.name,
        "dtype": arithmetic(operator),
        "macs": operator.macs,
        "module": module(operator),
        "shape": [] if output is None else list(output.shape),
        "version": operator.version,
        "part": part,
    }


def int8_share(operators: Sequence[Operator], where: str) -> Measurement:
    """Share of multiply-accumulates with int8 factors; for dynamic quantization the runtime
    makes the second factor int8.
    """
    macs: Counter[str] = Counter()
    for operator in operators:
        macs[arithmetic(operator)] += operator.macs
    total = sum(macs.values())
    if not total:
        return unmeasured(
            "int8_mac_share",
            "share",
            where,
            "the file has no convolution and no matrix product",
        )
    how = "multiply-accumulates of convolutions and matrix products whose weights and activations are integers, of all"
    if macs[DYNAMIC]:
        how += "; with int8 weights and float activations they are counted as int8 (LiteRT quantizes the activations as it runs)"
    if layers := unpacked(operators):
        how += f"; {len(layers)} layers whose integer weights are made float first are counted as float"
    share = (macs[INT8] + macs[DYNAMIC]) / total
    return Measurement(
        name="int8_mac_share",
        value=share,
        unit="share",
        n=len(operators),
        where=where,
        how=how,
        detail={key: count for key, count in macs.items() if count},
    )


def _count(
    name: MeasurementName, operators: Sequence[Operator], where: str, how: str
) -> Measurement:
    kinds = dict(Counter(operator.op for operator in operators))
    return Measurement(
        name=name,
        value=len(operators),
        unit="operators",
        where=where,
        how=how,
        detail=kinds,
    )


def warnings(graph: Graph, limits: Limits) -> list[str]:
    """Known signs that a file is slow, or that a device cannot run it."""
    return [text for check in _CHECKS for text in check(graph, limits)]


def _float_islands(graph: Graph, limits: Limits) -> Iterable[str]:
    integer = any(
        arithmetic(operator) == INT8 and operator.multiplies for operator in graph.operators
    )
    found = [operator for operator in graph.operators if is_float(operator)]
    islands = Counter(operator.op for operator in found)
    if integer and islands:
        yield f"{len(found)} operators compute in float inside an int8 graph ({told(islands)}){_places(found)}"
    elif islands and limits.arithmetic == "integer":
        yield f"{sum(islands.values())} operators compute in float; the device runs integer arithmetic only"


def _weight_only(graph: Graph, limits: Limits) -> Iterable[str]:
    found = Counter(operator.op for operator in unpacked(graph.operators))
    if found:
        yield f"{sum(found.values())} layers store integer weights but multiply in float ({told(found)}): smaller, not faster"


def unpacked(operators: Sequence[Operator]) -> list[Operator]:
    """The layers whose weights are stored as integers and made float before they are used."""
    made = {tensor: operator for operator in operators for tensor in operator.outputs}
    found = []
    for operator in operators:
        maker = made.get(operator.weights) if operator.weights is not None else None
        if (
            maker is not None
            and maker.op == "DEQUANTIZE"
            and maker.input(0).stored
            and maker.input(0).dtype in INTEGERS
        ):
            found.append(operator)
    return found


def _conversions(graph: Graph, limits: Limits) -> Iterable[str]:
    first, last = (
        {tensor.index for tensor in graph.inputs},
        {tensor.index for tensor in graph.outputs},
    )
    inner = [
        operator
        for operator in graph.operators
        if is_conversion(operator)
        and operator.input(0).index not in first
        and operator.outputs[0].index not in last
    ]
    if inner:
        yield f"{len(inner)} QUANTIZE or DEQUANTIZE operators in the middle of the graph: it leaves int8 and comes back"


def _moves(graph: Graph, limits: Limits) -> Iterable[str]:
    count = sum(operator.op == "TRANSPOSE" for operator in graph.operators)
    if count and limits.arithmetic == "integer":
        yield f"{count} TRANSPOSE operators: accelerators for int8 seldom run them"


def _old_runtime(graph: Graph, limits: Limits) -> Iterable[str]:
    new = Counter(
        operator.op
        for operator in graph.operators
        if operator.op.startswith("STABLEHLO_") or operator.op.startswith("BUILTIN_")
    )
    if new:
        yield f"operators that no tflite-runtime package knows, only newer LiteRT: {told(new)}"
    for op, newest in OLD_RUNTIME_VERSIONS.items():
        found = max(
            (operator.version for operator in graph.operators if operator.op == op),
            default=0,
        )
        if found > newest:
            yield f"{op} has version {found}; tflite-runtime 2.14 loads {newest} at most"


def _ends(graph: Graph, limits: Limits) -> Iterable[str]:
    wrong = (
        sorted(
            {
                tensor.dtype
                for tensor in (*graph.inputs, *graph.outputs)
                if tensor.dtype != limits.io
            }
        )
        if limits.io != "any"
        else []
    )
    if wrong:
        yield f"inputs or outputs are {', '.join(wrong)}; the device wants {limits.io}"
    if limits.shapes == "static" and any(
        dim < 1 for tensor in graph.inputs for dim in tensor.shape
    ):
        yield "an input has no fixed shape; the device wants static shapes"
    if limits.memory_bytes is not None and graph.stored_bytes > limits.memory_bytes:
        yield f"weights take {graph.stored_bytes} bytes, the device has {limits.memory_bytes}"


def _compiled(graph: Graph, limits: Limits) -> Iterable[str]:
    for op in dict.fromkeys(
        operator.op for operator in graph.operators if operator.op in COMPILED
    ):
        yield f"the file is compiled for {COMPILED[op]}: what its operator {op} does is not in the file; inspect the one that it was made from"


def _others(graph: Graph, limits: Limits) -> Iterable[str]:
    if graph.others:
        yield f"the file has {graph.others} more graphs (signatures or branches); only the first is audited"


_CHECKS: tuple[Callable[[Graph, Limits], Iterable[str]], ...] = (
    _float_islands,
    _weight_only,
    _conversions,
    _moves,
    _old_runtime,
    _ends,
    _compiled,
    _others,
)


def told(kinds: Mapping[str, int]) -> str:
    """``CONV_2D 3, ADD 1``, the most frequent first."""
    return ", ".join(
        f"{op} {count}"
        for op, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )


def module(operator: Operator) -> str:
    """The PyTorch module of an operator, as far as the file tells.

    Weights are named after it alone; fused operators have several names.
    """
    constants = [
        tensor for tensor in operator.inputs if tensor is not None and tensor.stored
    ]
    tensors = (
        (*constants, *operator.outputs)
        if operator.multiplies
        else (*operator.outputs, *constants)
    )
    return next(
        (path for tensor in tensors if (path := tflite_names.module_of(tensor.name))), ""
    )


def _places(operators: Iterable[Operator]) -> str:
    """`` at head.exp, 2 more``: the modules of some operators, none where the file tells
    none.
    """
    found = list(
        dict.fromkeys(path for operator in operators if (path := module(operator)))
    )
    more = f", {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f" at {', '.join(found[:_NAMED])}{more}" if found else ""
