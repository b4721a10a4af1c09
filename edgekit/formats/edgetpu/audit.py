"""What a file will do on an Edge TPU: the audit of its TFLite graph, and the part of it
that the device runs.

If Google's compiler was run (role ``compiled``), its own result counts; otherwise the
published rules give an upper bound.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgekit.artifact import Artifact, Part
from edgekit.contracts import Audit
from edgekit.errors import ModelError
from edgekit.formats.edgetpu import mapper as edgetpu_mapper
from edgekit.formats.edgetpu.mapper import MAPPED, SUBGRAPH, MappingResult
from edgekit.formats.edgetpu.rules import FIXES
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite.graph import Graph, Operator
from edgekit.measurement import Measurement, unmeasured
from edgekit.target import Limits

#: How many bytes of weights the Edge TPU stores. coral.ai states "roughly 8 MB" for weights
#: and the program; the compiler's logs have from 6.06 MiB (google-coral/edgetpu issue 211,
#: large images) to 7.47 MiB (issue 147), most 6.9 to 7.1 MiB (issues 60, 512, 671). The
#: rest is streamed.
CACHE_BYTES = (round(6.06 * 2**20), round(7.47 * 2**20))
STREAMED = "does not fit on chip; weights are streamed over USB/PCIe for each inference"
ESTIMATED = (
    "estimate: the stored bytes of the weights that the predicted part reads; the compiler "
    "pads them and adds its program (logs: 0.97 to 1.16 of the file)"
)
PREDICTED = "static prediction, upper bound; edgetpu_compiler not run"
COMPILED = "edgetpu_compiler's own result: the operators left for the CPU in the compiled file"
_NOTHING_TO_MAP = "the file has no convolution and no matrix product"

Results = Mapping[str, Sequence[MappingResult]]


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Audit all parts of an artifact of the format ``edgetpu``.

    Raises ModelError if a file or a compiler log cannot be read.
    """
    graphs = {
        part.name: tflite_graph.read(artifact.path(part))
        for part in artifact.parts
    }
    base = audit_tflite.audit_graphs(graphs, limits)
    if not all("compiled" in part.files for part in artifact.parts):
        return _add_prediction(base, graphs)
    left = [
        tflite_graph.read(artifact.path(part, "compiled"))
        for part in artifact.parts
    ]
    logs = {part.name: _read_log(artifact, part) for part in artifact.parts}
    share = _compiled_share(
        sum(graph.macs for graph in graphs.values()),
        sum(graph.macs for graph in left),
        logs,
    )
    return Audit(
        [*base.measurements, share, _logged_bytes(logs)],
        base.rows,
        [*base.warnings, *_log_warnings(logs)],
    )


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """Audit one int8 .tflite file, written by any tool, with the predicted mapping.

    Raises ModelError if it is not a TFLite file.
    """
    graphs = {path.stem: tflite_graph.read(path)}
    return _add_prediction(audit_tflite.audit_graphs(graphs, limits), graphs)


def _add_prediction(base: Audit, graphs: Mapping[str, Graph]) -> Audit:
    results = {
        name: edgetpu_mapper.predict(graph) for name, graph in graphs.items()
    }
    flat = [
        result for graph_results in results.values() for result in graph_results
    ]
    rows = [
        {**row, "status": result.status, "reason": result.reason}
        for row, result in zip(base.rows, flat, strict=True)
    ]
    files = ", ".join(graph.path.name for graph in graphs.values())
    where = f"the published rules applied to {files}"
    weights = _predicted_bytes(graphs, results, where)
    warnings = list(base.warnings)
    for name, graph in graphs.items():
        warnings += [
            f"{name}: {text}"
            for text in _mapping_warnings(graph, results[name])
        ]
    warnings += _memory_warnings(weights)
    share = _predicted_share(graphs, results, where)
    return Audit([*base.measurements, share, weights], rows, warnings)


def _predicted_share(
    graphs: Mapping[str, Graph], results: Results, where: str
) -> Measurement:
    total = sum(graph.macs for graph in graphs.values())
    if not total:
        return unmeasured("tpu_mapped_share", "share", where, _NOTHING_TO_MAP)
    mapped = list(_all_mapped(graphs, results))
    optimistic = {
        name: edgetpu_mapper.predict(graph, optimistic=True)
        for name, graph in graphs.items()
    }
    supported = {
        name: [edgetpu_mapper.judge(operator) for operator in graph.operators]
        for name, graph in graphs.items()
    }
    share = _count_macs(mapped) / total
    high = _count_macs(_all_mapped(graphs, optimistic)) / total
    statuses = Counter(
        result.status for group in results.values() for result in group
    )
    how = f"{PREDICTED}; share of multiply-accumulates"
    if high != share:
        how += (
            "; the interval's upper end includes what only some compilers map"
        )
    return Measurement(
        name="tpu_mapped_share",
        value=share,
        # An upper bound can fail a gate, but never pass one: its interval starts at zero.
        low=0.0,
        high=max(share, high),
        unit="share",
        n=statuses.total(),
        where=where,
        how=how,
        detail={
            "statuses": dict(statuses),
            "mapped_operators": len(mapped),
            "operators": statuses.total(),
            "subgraphs": sum(
                map(edgetpu_mapper.count_subgraphs, graphs.values())
            ),
            "share_of_all_subgraphs": _count_macs(
                _all_mapped(graphs, supported)
            )
            / total,
        },
    )


def _all_mapped(
    graphs: Mapping[str, Graph], results: Results
) -> Iterator[Operator]:
    for name, graph in graphs.items():
        yield from _mapped_operators(graph, results[name])


def _mapped_operators(
    graph: Graph, results: Sequence[MappingResult]
) -> list[Operator]:
    pairs = zip(graph.operators, results, strict=True)
    return [operator for operator, result in pairs if result.mapped]


def _count_macs(operators: Iterable[Operator]) -> int:
    return sum(operator.macs for operator in operators)


def _predicted_bytes(
    graphs: Mapping[str, Graph], results: Results, where: str
) -> Measurement:
    """Bytes of the weights of the operators on the device.

    Each part of a network is a separate file, and parts share the cache only if compiled
    together.
    """
    size = sum(
        edgetpu_mapper.parameter_bytes(_mapped_operators(graph, results[name]))
        for name, graph in graphs.items()
    )
    low, high = CACHE_BYTES
    fits: bool | None = None
    if size <= low:
        fits = True
    elif size > high:
        fits = False
    return Measurement(
        name="tpu_weight_bytes",
        value=size,
        unit="bytes",
        where=where,
        how=ESTIMATED,
        detail={
            "fits_on_chip": fits,
            "usable_bytes": [low, high],
            "streamed_bytes": [max(0, size - high), max(0, size - low)],
        },
    )


def _memory_warnings(weights: Measurement) -> Iterable[str]:
    low, high = CACHE_BYTES
    sizes = (
        f"{weights.value:,.0f} bytes of weights; the Edge TPU stores {low:,} to {high:,} "
        "(an estimate)"
    )
    fits = weights.detail["fits_on_chip"]
    if fits is False:
        yield f"{STREAMED}: {sizes}"
    elif fits is None:
        yield f"may not fit on chip: {sizes}"


def _mapping_warnings(
    graph: Graph, results: Sequence[MappingResult]
) -> Iterable[str]:
    for operator, result in zip(graph.operators, results, strict=True):
        where = f"operator {operator.index} of {len(graph.operators)} ({operator.op})"
        if result.mapped and result.reason:
            yield f"{where}: {result.reason}"
        elif not result.mapped and result.status != SUBGRAPH:
            fix = f". Fix: {FIXES[operator.op]}" if operator.op in FIXES else ""
            yield f"{where} runs on the CPU: {result.status} ({result.reason}){fix}"
    later = sum(result.status == SUBGRAPH for result in results)
    if later:
        yield (
            f"{later} operators after it could run on the Edge TPU, but the compiler maps only "
            "one subgraph (its option -a maps all, which is often slower)"
        )
    if graph.extra_graphs:
        yield f"the file has {graph.extra_graphs} more graphs, which are not audited"


def _compiler(logs: Mapping[str, Mapping[str, Any]]) -> str:
    versions = dict.fromkeys(str(log["version"]) for log in logs.values())
    return f"edgetpu_compiler {', '.join(versions)}"


def _logged_bytes(logs: Mapping[str, Mapping[str, Any]]) -> Measurement:
    """Bytes of the weights that the compiler reports, on chip and streamed."""
    on_chip: list[Any] = [log.get("on_chip_bytes") for log in logs.values()]
    off_chip: list[Any] = [log["off_chip_bytes"] for log in logs.values()]
    if None in on_chip or None in off_chip:
        reason = "the compiler's log does not contain it"
        return unmeasured("tpu_weight_bytes", "bytes", _compiler(logs), reason)
    streamed = sum(off_chip)
    return Measurement(
        name="tpu_weight_bytes",
        value=sum(on_chip) + streamed,
        unit="bytes",
        where=_compiler(logs),
        how="the compiler's log, on chip and off chip",
        detail={
            "fits_on_chip": streamed == 0,
            "streamed_bytes": [streamed, streamed],
        },
    )


def _compiled_share(
    total: int, left: int, logs: Mapping[str, Mapping[str, Any]]
) -> Measurement:
    """The share of multiply-accumulates that the compiler mapped.

    ``total`` counts those of the network, ``left`` those that stay on the CPU.
    """
    if not total:
        return unmeasured(
            "tpu_mapped_share", "share", _compiler(logs), _NOTHING_TO_MAP
        )
    statuses: Counter[str] = Counter()
    for log in logs.values():
        for row in log["rows"]:
            statuses[row["status"]] += row["count"]
    return Measurement(
        name="tpu_mapped_share",
        value=1 - left / total,
        unit="share",
        n=statuses.total(),
        where=_compiler(logs),
        how=COMPILED,
        detail={
            "statuses": dict(statuses),
            "mapped_operators": statuses[MAPPED],
            "operators": statuses.total(),
            "logs": dict(logs),
        },
    )


def _read_log(artifact: Artifact, part: Part) -> dict[str, Any]:
    try:
        text = artifact.path(part, "log").read_text(encoding="utf-8")
        log: dict[str, Any] = json.loads(text)
        for key in ("version", "rows", "off_chip_bytes"):
            log[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The compiler's log of {part.name!r} cannot be read: {error}",
            fix="build the edgetpu file again",
        ) from error
    return log


def _log_warnings(logs: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, log in logs.items():
        for row in log["rows"]:
            if row["status"] != MAPPED:
                yield f"{name}: {row['count']} {row['op']} on the CPU: {row['status']}"
        streamed = log["off_chip_bytes"]
        if streamed:
            yield f"{name}: {STREAMED}: {streamed:,} bytes, according to the compiler's log"
