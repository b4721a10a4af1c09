"""What a file will do on an Edge TPU: the audit of its TFLite graph, and which part of it
the device takes.

Where Google's compiler was run (role ``compiled``), its own result counts; else the
published rules give an upper bound.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekit.artifact import Artifact, Part
from edgekit.contracts import Audit
from edgekit.errors import ModelError
from edgekit.formats.edgetpu import mapper as edgetpu_mapper
from edgekit.formats.edgetpu.mapper import MAPPED, SUBGRAPH, Fate
from edgekit.formats.edgetpu.rules import WAYS_OUT
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite.graph import Graph, Operator
from edgekit.measurement import Measurement, unmeasured
from edgekit.target import Limits

#: How many bytes of weights the Edge TPU keeps. coral.ai says "roughly 8 MB" for weights
#: and the program; the compiler's logs have from 6.06 MiB (google-coral/edgetpu issue 211,
#: large images) to 7.47 MiB (issue 147), most 6.9 to 7.1 MiB (issues 60, 512, 671). The
#: rest is streamed.
CACHE_BYTES = (round(6.06 * 2**20), round(7.47 * 2**20))
STREAMED = "does not fit on chip; weights are streamed over USB/PCIe for each inference"
ESTIMATED = "estimate: the stored bytes of the weights that the predicted part reads; the compiler pads and adds its program (logs: 0.97 to 1.16 of the file)"
PREDICTED = "static prediction, upper bound; edgetpu_compiler not run"
COMPILED = (
    "edgetpu_compiler's own result: the operators left for the CPU in the compiled file"
)


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """The audit of all parts of an artifact of the format ``edgetpu``."""
    graphs = {part.name: tflite_graph.read(artifact.path(part)) for part in artifact.parts}
    base = audit_tflite.audit_graphs(graphs, limits)
    if all("compiled" in part.files for part in artifact.parts):
        left = {
            part.name: tflite_graph.read(artifact.path(part, "compiled"))
            for part in artifact.parts
        }
        logs = {part.name: _log(artifact, part) for part in artifact.parts}
        found = _mapped(
            sum(graph.macs for graph in graphs.values()),
            sum(graph.macs for graph in left.values()),
            logs,
        )
        return Audit(
            [*base.measurements, found, _logged_bytes(logs)],
            base.rows,
            [*base.warnings, *_log_warnings(logs)],
        )
    return _predicted(base, graphs)


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """The audit of one int8 .tflite file, made by edgekit or not, with the prediction of
    what the device takes.
    """
    graphs = {path.stem: tflite_graph.read(path)}
    return _predicted(audit_tflite.audit_graphs(graphs, limits), graphs)


def _predicted(base: Audit, graphs: Mapping[str, Graph]) -> Audit:
    fates = {name: edgetpu_mapper.predict(graph) for name, graph in graphs.items()}
    flat = [fate for fate_list in fates.values() for fate in fate_list]
    rows = [
        {**row, "status": fate.status, "reason": fate.reason}
        for row, fate in zip(base.rows, flat, strict=True)
    ]
    where = "the published rules applied to " + ", ".join(
        graph.path.name for graph in graphs.values()
    )
    weights = _weights(graphs, fates, where)
    warnings = [
        f"{name}: {text}"
        for name, graph in graphs.items()
        for text in _warnings(graph, fates[name])
    ]
    return Audit(
        [*base.measurements, _share(graphs, fates, where), weights],
        rows,
        [*base.warnings, *warnings, *_fit(weights)],
    )


def _share(
    graphs: Mapping[str, Graph], fates: Mapping[str, Sequence[Fate]], where: str
) -> Measurement:
    total = sum(graph.macs for graph in graphs.values())
    if not total:
        return unmeasured(
            "tpu_mapped_share",
            "share",
            where,
            "the file has no convolution and no matrix product",
        )
    mapped = [
        operator
        for name, graph in graphs.items()
        for operator in _on_tpu(graph, fates[name])
    ]
    trusted = [
        operator
        for graph in graphs.values()
        for operator in _on_tpu(graph, edgetpu_mapper.predict(graph, trusting=True))
    ]
    able = [
        operator
        for graph in graphs.values()
        for operator in graph.operators
        if edgetpu_mapper.judge(operator).status == MAPPED
    ]
    statuses = Counter(fate.status for found in fates.values() for fate in found)
    detail = {
        "statuses": dict(statuses),
        "mapped_operators": len(mapped),
        "operators": sum(statuses.values()),
        "subgraphs": sum(edgetpu_mapper.pieces(graph) for graph in graphs.values()),
        "share_of_all_subgraphs": _macs(able) / total,
    }
    share, high = _macs(mapped) / total, _macs(trusted) / total
    doubts = (
        ""
        if high == share
        else "; the interval's upper end counts what only some compilers take"
    )
    # An upper bound can break a gate, and never hold one: so its interval reaches down to
    # nothing.
    return Measurement(
        name="tpu_mapped_share",
        value=share,
        low=0.0,
        high=max(share, high),
        unit="share",
        n=sum(statuses.values()),
        where=where,
        how=f"{PREDICTED}; share of multiply-accumulates{doubts}",
        detail=detail,
    )


def _on_tpu(graph: Graph, fates: Sequence[Fate]) -> list[Operator]:
    return [
        operator
        for operator, fate in zip(graph.operators, fates, strict=True)
        if fate.status == MAPPED
    ]


def _macs(operators: Sequence[Operator]) -> int:
    return sum(operator.macs for operator in operators)


def _weights(
    graphs: Mapping[str, Graph], fates: Mapping[str, Sequence[Fate]], where: str
) -> Measurement:
    """The weights of the part on the device; each part of a network is a file of its own,
    and all share the cache only if compiled together.
    """
    size = sum(
        edgetpu_mapper.parameter_bytes(_on_tpu(graph, fates[name]))
        for name, graph in graphs.items()
    )
    low, high = CACHE_BYTES
    fits = True if size <= low else False if size > high else None
    detail = {
        "fits_on_chip": fits,
        "usable_bytes": list(CACHE_BYTES),
        "streamed_bytes": [max(0, size - high), max(0, size - low)],
    }
    return Measurement(
        name="tpu_weight_bytes",
        value=size,
        unit="bytes",
        where=where,
        how=ESTIMATED,
        detail=detail,
    )


def _fit(weights: Measurement) -> Iterable[str]:
    fits, (low, high) = weights.detail["fits_on_chip"], CACHE_BYTES
    told = f"{weights.value:,.0f} bytes of weights, of which the Edge TPU keeps {low:,} to {high:,} (an estimate)"
    if fits is False:
        yield f"{STREAMED}: {told}"
    elif fits is None:
        yield f"may not fit on chip: {told}"


def _warnings(graph: Graph, fates: Sequence[Fate]) -> Iterable[str]:
    for operator, fate in zip(graph.operators, fates, strict=True):
        way = f". Fix: {WAYS_OUT[operator.op]}" if operator.op in WAYS_OUT else ""
        if fate.status not in (MAPPED, SUBGRAPH):
            yield f"operator {operator.index} of {len(graph.operators)} ({operator.op}) runs on the CPU: {fate.status} ({fate.reason}){way}"
        elif fate.status == MAPPED and fate.reason:
            yield f"operator {operator.index} of {len(graph.operators)} ({operator.op}): {fate.reason}"
    after = sum(fate.status == SUBGRAPH for fate in fates)
    if after:
        yield f"{after} operators after it could run on the Edge TPU, but the compiler maps one piece of a graph only (its option -a maps all, often slower)"
    if graph.extra_graphs:
        yield f"the file has {graph.extra_graphs} more graphs, which are not judged"


def _logged_bytes(logs: Mapping[str, Mapping[str, Any]]) -> Measurement:
    """What the compiler says of the weights: kept on the chip, and streamed."""
    where = "edgetpu_compiler " + ", ".join(
        dict.fromkeys(str(log["version"]) for log in logs.values())
    )
    kept: list[Any] = [log.get("on_chip_bytes") for log in logs.values()]
    streamed = [log["off_chip_bytes"] for log in logs.values()]
    if any(number is None for number in (*kept, *streamed)):
        return unmeasured(
            "tpu_weight_bytes", "bytes", where, "the compiler's log does not tell it"
        )
    total = sum(streamed)
    return Measurement(
        name="tpu_weight_bytes",
        value=sum(kept) + total,
        unit="bytes",
        where=where,
        how="the compiler's log, on chip and off chip",
        detail={"fits_on_chip": total == 0, "streamed_bytes": [total, total]},
    )


def _mapped(total: int, left: int, logs: Mapping[str, Mapping[str, Any]]) -> Measurement:
    versions = ", ".join(dict.fromkeys(str(log["version"]) for log in logs.values()))
    where = f"edgetpu_compiler {versions}"
    if not total:
        return unmeasured(
            "tpu_mapped_share",
            "share",
            where,
            "the file has no convolution and no matrix product",
        )
    statuses: Counter[str] = Counter()
    for log in logs.values():
        for row in log["rows"]:
            statuses[row["status"]] += row["count"]
    detail = {
        "statuses": dict(statuses),
        "mapped_operators": statuses[MAPPED],
        "operators": sum(statuses.values()),
        "logs": dict(logs),
    }
    return Measurement(
        name="tpu_mapped_share",
        value=1 - left / total,
        unit="share",
        n=sum(statuses.values()),
        where=where,
        how=COMPILED,
        detail=detail,
    )


def _log(artifact: Artifact, part: Part) -> dict[str, Any]:
    try:
        log: dict[str, Any] = json.loads(
            artifact.path(part, "log").read_text(encoding="utf-8")
        )
        for key in ("version", "rows", "off_chip_bytes"):
            log[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The compiler's log of {part.name!r} cannot be read: {error}",
            fix="make the edgetpu file again",
        ) from error
    return log


def _log_warnings(logs: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, log in logs.items():
        for row in log["rows"]:
            if row["status"] != MAPPED:
                yield f"{name}: {row['count']} {row['op']} on the CPU: {row['status']}"
        if log["off_chip_bytes"]:
            yield f"{name}: {STREAMED}: {log['off_chip_bytes']:,} bytes, by the compiler's log"
