"""What a TFLite file will execute: which operators compute in int8, which in float, and
which only move data.

    audit(artifact, limits)        # every part of an artifact
    audit_file(path, limits)       # any .tflite file
"""

import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite import names as tflite_names
from edgekit.formats.tflite.graph import (
    EDGE_TPU,
    ETHOS_U,
    FLOATS,
    INTEGERS,
    Graph,
    Operator,
)
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.target import Limits

#: The custom operators of compiled files, and the device they are compiled for.
COMPILED: Mapping[str, str] = {ETHOS_U: "an Ethos-U", EDGE_TPU: "an Edge TPU"}
_QUANTIZING = ("QUANTIZE", "DEQUANTIZE")
#: Newest operator versions that tflite-runtime 2.14 (the last one, 2023) loads, for operators
#: of which exporters write newer versions. Measured with that runtime.
OLD_RUNTIME_VERSIONS: Mapping[str, int] = {
    "FULLY_CONNECTED": 11,
    "GATHER_ND": 4,
    "ADD": 5,
}
#: The arithmetic of an operator. DYNAMIC: int8 weights, and float activations that the
#: runtime quantizes at run time.
INT8, DYNAMIC, FLOAT, INT16, OTHER = (
    "int8",
    "int8 weights",
    "float32",
    "int16",
    "other",
)
#: At most this many modules are named in a warning.
_MAX_MODULES = 4

Row = Mapping[str, Any]


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Audit all parts of an artifact together. Raises ModelError for an invalid file."""
    graphs = {
        part.name: tflite_graph.read(artifact.path(part))
        for part in artifact.parts
    }
    return audit_graphs(graphs, limits)


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """Audit one file, written by any tool. Raises ModelError if it is not a TFLite file."""
    return audit_graphs({path.stem: tflite_graph.read(path)}, limits)


def audit_graphs(graphs: Mapping[str, Graph], limits: Limits) -> Audit:
    """Measurements over all graphs, a row per operator, and the warnings of each graph."""
    files = ", ".join(graph.path.name for graph in graphs.values())
    where = f"the flatbuffer of {files}"
    operators = [
        operator for graph in graphs.values() for operator in graph.operators
    ]
    measurements = [
        measure_int8_share(operators, where),
        _count(
            "float_ops",
            [operator for operator in operators if is_float(operator)],
            where,
            "operators that read or write float tensors while the network runs, without "
            "QUANTIZE and DEQUANTIZE",
        ),
        _count(
            "transposes",
            [operator for operator in operators if operator.op == "TRANSPOSE"],
            where,
            "TRANSPOSE operators",
        ),
        _count(
            "qdq_pairs",
            [operator for operator in operators if is_conversion(operator)],
            where,
            "QUANTIZE and DEQUANTIZE operators between float and integer tensors",
        ),
    ]
    rows: list[Row] = []
    warnings: list[str] = []
    for name, graph in graphs.items():
        rows += [report_row(operator, name) for operator in graph.operators]
        warnings += [
            f"{name}: {warning}" for warning in find_warnings(graph, limits)
        ]
    return Audit(measurements, rows, warnings)


def classify_arithmetic(operator: Operator) -> str:
    """How an operator computes: ``int8``, ``int8 weights``, ``float32``, ``int16`` or
    ``other`` (index arithmetic, booleans).
    """
    dtypes = {tensor.dtype for tensor in operator.activations}
    weights = operator.weights
    if operator.op not in _QUANTIZING and dtypes & set(FLOATS):
        dynamic = (
            weights is not None and weights.stored and weights.dtype in INTEGERS
        )
        return DYNAMIC if dynamic else FLOAT
    if "int16" in dtypes:
        return INT16
    return INT8 if dtypes & set(INTEGERS) else OTHER


def is_float(operator: Operator) -> bool:
    """Whether an operator other than QUANTIZE and DEQUANTIZE has float activations."""
    return classify_arithmetic(operator) in (FLOAT, DYNAMIC)


def is_conversion(operator: Operator) -> bool:
    """Whether an operator converts between float and integer in every inference.

    True for QUANTIZE and DEQUANTIZE of activations, false for those of stored weights.
    """
    if operator.op not in _QUANTIZING:
        return False
    dtypes = {tensor.dtype for tensor in operator.activations}
    return bool(dtypes & set(FLOATS)) and bool(dtypes & set(INTEGERS))


def report_row(operator: Operator, part: str) -> dict[str, Any]:
    """One operator as a row of the report."""
    name = ""
    shape: list[int] = []
    if operator.outputs:
        name = operator.outputs[0].name
        shape = list(operator.outputs[0].shape)
    return {
        "op": operator.op,
        "name": name,
        "dtype": classify_arithmetic(operator),
        "macs": operator.macs,
        "module": module_path(operator),
        "shape": shape,
        "version": operator.version,
        "part": part,
    }


def measure_int8_share(
    operators: Sequence[Operator], where: str
) -> Measurement:
    """The share (0 to 1) of multiply-accumulates that compute in int8.

    Layers with int8 weights and float activations count: LiteRT quantizes the activations
    at run time.
    """
    macs: Counter[str] = Counter()
    for operator in operators:
        macs[classify_arithmetic(operator)] += operator.macs
    total = macs.total()
    if not total:
        reason = "the file has no convolution and no matrix product"
        return unmeasured("int8_mac_share", "share", where, reason)
    how = (
        "multiply-accumulates of convolutions and matrix products whose weights and "
        "activations are integers, relative to all"
    )
    if macs[DYNAMIC]:
        how += (
            "; layers with int8 weights and float activations are counted as int8 (LiteRT "
            "quantizes the activations at run time)"
        )
    if layers := find_dequantized_layers(operators):
        how += f"; {len(layers)} layers with dequantized weights are counted as float"
    return Measurement(
        name="int8_mac_share",
        value=(macs[INT8] + macs[DYNAMIC]) / total,
        unit="share",
        n=len(operators),
        where=where,
        how=how,
        detail={
            arithmetic: count for arithmetic, count in macs.items() if count
        },
    )


def _count(
    name: MeasurementName, operators: Sequence[Operator], where: str, how: str
) -> Measurement:
    return Measurement(
        name=name,
        value=len(operators),
        unit="operators",
        where=where,
        how=how,
        detail=dict(Counter(operator.op for operator in operators)),
    )


def find_warnings(graph: Graph, limits: Limits) -> list[str]:
    """Signs that a file is slow, or that a device with these limits cannot run it."""
    return [warning for check in _CHECKS for warning in check(graph, limits)]


def _check_float_operators(graph: Graph, limits: Limits) -> Iterable[str]:
    has_int8_layers = any(
        operator.multiplies and classify_arithmetic(operator) == INT8
        for operator in graph.operators
    )
    floats = [operator for operator in graph.operators if is_float(operator)]
    if floats and has_int8_layers:
        counts = format_counts(Counter(operator.op for operator in floats))
        modules = _format_modules(floats)
        yield f"{len(floats)} operators compute in float inside an int8 graph ({counts}){modules}"
    elif floats and limits.arithmetic == "integer":
        yield (
            f"{len(floats)} operators compute in float; the device supports integer "
            "arithmetic only"
        )


def _check_dequantized_weights(graph: Graph, limits: Limits) -> Iterable[str]:
    layers = find_dequantized_layers(graph.operators)
    if layers:
        counts = format_counts(Counter(operator.op for operator in layers))
        yield (
            f"{len(layers)} layers store integer weights but multiply in float ({counts}): "
            "smaller, not faster"
        )


def find_dequantized_layers(operators: Sequence[Operator]) -> list[Operator]:
    """The layers whose stored integer weights are dequantized before they are used."""
    producers = {
        tensor: operator
        for operator in operators
        for tensor in operator.outputs
    }
    layers = []
    for operator in operators:
        if operator.weights is None:
            continue
        producer = producers.get(operator.weights)
        if producer is None or producer.op != "DEQUANTIZE":
            continue
        source = producer.input(0)
        if source.stored and source.dtype in INTEGERS:
            layers.append(operator)
    return layers


def _check_conversions(graph: Graph, limits: Limits) -> Iterable[str]:
    inputs = {tensor.index for tensor in graph.inputs}
    outputs = {tensor.index for tensor in graph.outputs}
    inner = [
        operator
        for operator in graph.operators
        if is_conversion(operator)
        and operator.input(0).index not in inputs
        and operator.outputs[0].index not in outputs
    ]
    if inner:
        yield (
            f"{len(inner)} QUANTIZE or DEQUANTIZE operators in the middle of the graph: it "
            "leaves int8 and returns to it"
        )


def _check_transposes(graph: Graph, limits: Limits) -> Iterable[str]:
    count = sum(operator.op == "TRANSPOSE" for operator in graph.operators)
    if count and limits.arithmetic == "integer":
        yield f"{count} TRANSPOSE operators: int8 accelerators seldom support them"


def _check_old_runtime(graph: Graph, limits: Limits) -> Iterable[str]:
    unsupported = Counter(
        operator.op
        for operator in graph.operators
        if operator.op.startswith(("STABLEHLO_", "BUILTIN_"))
    )
    if unsupported:
        counts = format_counts(unsupported)
        yield f"operators that no tflite-runtime package supports, only newer LiteRT: {counts}"
    for op, newest in OLD_RUNTIME_VERSIONS.items():
        versions = [
            operator.version
            for operator in graph.operators
            if operator.op == op
        ]
        version = max(versions, default=0)
        if version > newest:
            yield f"{op} has version {version}; tflite-runtime 2.14 loads {newest} at most"


def _check_inputs_and_outputs(graph: Graph, limits: Limits) -> Iterable[str]:
    dtypes = {tensor.dtype for tensor in (*graph.inputs, *graph.outputs)}
    if limits.io != "any" and dtypes - {limits.io}:
        other = ", ".join(sorted(dtypes - {limits.io}))
        yield f"inputs or outputs are {other}; the device requires {limits.io}"
    dims = [dim for tensor in graph.inputs for dim in tensor.shape]
    if limits.shapes == "static" and min(dims, default=1) < 1:
        yield "an input has no fixed shape; the device requires static shapes"
    if (
        limits.memory_bytes is not None
        and graph.stored_bytes > limits.memory_bytes
    ):
        yield (
            f"weights need {graph.stored_bytes} bytes, the device has {limits.memory_bytes}"
        )


def _check_compiled(graph: Graph, limits: Limits) -> Iterable[str]:
    compiled = [
        operator.op for operator in graph.operators if operator.op in COMPILED
    ]
    for op in dict.fromkeys(compiled):
        yield (
            f"the file is compiled for {COMPILED[op]}, and does not show what its operator {op} "
            "executes; inspect the file that it was compiled from"
        )


def _check_extra_graphs(graph: Graph, limits: Limits) -> Iterable[str]:
    if graph.extra_graphs:
        yield (
            f"the file has {graph.extra_graphs} more graphs (signatures or branches); only the "
            "first is audited"
        )


_CHECKS: tuple[Callable[[Graph, Limits], Iterable[str]], ...] = (
    _check_float_operators,
    _check_dequantized_weights,
    _check_conversions,
    _check_transposes,
    _check_old_runtime,
    _check_inputs_and_outputs,
    _check_compiled,
    _check_extra_graphs,
)


def format_counts(counts: Mapping[str, int]) -> str:
    """``CONV_2D 3, ADD 1``: the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{op} {count}" for op, count in ordered)


def module_path(operator: Operator) -> str:
    """The path of an operator's PyTorch module; empty if the file does not name it.

    Weights are named after the module alone, while outputs of fused operators have several
    names.
    """
    if operator.multiplies:
        tensors = (*operator.constants, *operator.outputs)
    else:
        tensors = (*operator.outputs, *operator.constants)
    paths = (tflite_names.module_of(tensor.name) for tensor in tensors)
    return next(filter(None, paths), "")


def _format_modules(operators: Iterable[Operator]) -> str:
    """`` at head.exp, 2 more``: the modules of some operators; empty if there are none."""
    paths = list(dict.fromkeys(filter(None, map(module_path, operators))))
    if not paths:
        return ""
    more = ""
    if len(paths) > _MAX_MODULES:
        more = f", {len(paths) - _MAX_MODULES} more"
    return f" at {', '.join(paths[:_MAX_MODULES])}{more}"
