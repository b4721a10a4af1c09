"""What a file will do on an Edge TPU: the audit of its TFLite graph, and which part of it the device takes.

Where Google's compiler was run (role ``compiled``), its own result counts; else the published rules give an upper bound.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekit.artifact import Artifact, Part
from edgekit.checks import audit_tflite, edgetpu_mapper, tflite_graph
from edgekit.checks.edgetpu_mapper import MAPPED, SUBGRAPH, Fate
from edgekit.checks.tflite_graph import Graph
from edgekit.contracts import Audit
from edgekit.errors import ModelError
from edgekit.measurement import Measurement, unmeasured
from edgekit.target import Limits

#: What the Edge TPU's cache holds (coral.ai: "roughly 8 MB"; compiler logs show 6.8 to 7.8 MiB for weights). The rest is streamed over USB or PCIe.
CACHE_BYTES = 8 * 2**20
PREDICTED = "static prediction, upper bound; edgetpu_compiler not run"
COMPILED = "edgetpu_compiler's own result: the operators left for the CPU in the compiled file"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """The audit of all parts of an artifact of the form ``edgetpu``."""
    graphs = {part.name: tflite_graph.read(artifact.path(part)) for part in artifact.parts}
    base = audit_tflite.audit_graphs(graphs, limits)
    if all("compiled" in part.files for part in artifact.parts):
        left = {part.name: tflite_graph.read(artifact.path(part, "compiled")) for part in artifact.parts}
        logs = {part.name: _log(artifact, part) for part in artifact.parts}
        found = _mapped(sum(graph.macs for graph in graphs.values()), sum(graph.macs for graph in left.values()), logs)
        return Audit([*base.measurements, found], base.rows, [*base.warnings, *_log_warnings(logs)])
    return _predicted(base, graphs, limits)


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """The audit of one int8 .tflite file, made by edgekit or not, with the prediction of what the device takes."""
    graphs = {path.stem: tflite_graph.read(path)}
    return _predicted(audit_tflite.audit_graphs(graphs, limits), graphs, limits)


def _predicted(base: Audit, graphs: Mapping[str, Graph], limits: Limits) -> Audit:
    fates = {name: edgetpu_mapper.predict(graph) for name, graph in graphs.items()}
    flat = [fate for fate_list in fates.values() for fate in fate_list]
    rows = [{**row, "status": fate.status, "reason": fate.reason} for row, fate in zip(base.rows, flat, strict=True)]
    where = "the published rules applied to " + ", ".join(graph.path.name for graph in graphs.values())
    warnings = [f"{name}: {text}" for name, graph in graphs.items() for text in _warnings(graph, fates[name], limits)]
    return Audit([*base.measurements, _share(graphs, fates, where)], rows, [*base.warnings, *warnings])


def _share(graphs: Mapping[str, Graph], fates: Mapping[str, Sequence[Fate]], where: str) -> Measurement:
    pairs = [(operator, fate) for name, graph in graphs.items() for operator, fate in zip(graph.operators, fates[name], strict=True)]
    total = sum(operator.macs for operator, _ in pairs)
    if not total:
        return unmeasured("tpu_mapped_share", "share", where, "the file has no convolution and no matrix product")
    mapped = [operator for operator, fate in pairs if fate.status == MAPPED]
    size = edgetpu_mapper.parameter_bytes(mapped)
    detail = {"statuses": dict(Counter(fate.status for _, fate in pairs)), "mapped_operators": len(mapped), "operators": len(pairs),
              "parameter_bytes": size, "cache_bytes": CACHE_BYTES, "fits_on_chip": size <= CACHE_BYTES}  # fmt: skip
    share = sum(operator.macs for operator in mapped) / total
    # An upper bound can break a gate, and never hold one: so its interval reaches down to nothing.
    return Measurement(name="tpu_mapped_share", value=share, low=0.0, high=share, unit="share", n=len(pairs),
                       where=where, how=PREDICTED + "; share of multiply-accumulates", detail=detail)  # fmt: skip


def _warnings(graph: Graph, fates: Sequence[Fate], limits: Limits) -> Iterable[str]:
    for operator, fate in zip(graph.operators, fates, strict=True):
        if fate.status not in (MAPPED, SUBGRAPH):
            yield f"operator {operator.index} of {len(graph.operators)} ({operator.op}) runs on the CPU: {fate.status} ({fate.reason})"
    after = sum(fate.status == SUBGRAPH for fate in fates)
    if after:
        yield f"{after} operators after it could run on the Edge TPU, but the compiler maps one piece of a graph only"
    size = edgetpu_mapper.parameter_bytes([operator for operator, fate in zip(graph.operators, fates, strict=True) if fate.status == MAPPED])
    if size > CACHE_BYTES and limits.memory_bytes is None:
        yield f"weights take {size} bytes, the Edge TPU caches about {CACHE_BYTES}: the rest is streamed with every inference (an estimate)"


def _mapped(total: int, left: int, logs: Mapping[str, Mapping[str, Any]]) -> Measurement:
    versions = ", ".join(dict.fromkeys(str(log["version"]) for log in logs.values()))
    where = f"edgetpu_compiler {versions}"
    if not total:
        return unmeasured("tpu_mapped_share", "share", where, "the file has no convolution and no matrix product")
    statuses: Counter[str] = Counter()
    for log in logs.values():
        for row in log["rows"]:
            statuses[row["status"]] += row["count"]
    detail = {"statuses": dict(statuses), "mapped_operators": statuses[MAPPED], "operators": sum(statuses.values()), "logs": dict(logs)}
    return Measurement(name="tpu_mapped_share", value=1 - left / total, unit="share", n=sum(statuses.values()), where=where, how=COMPILED, detail=detail)


def _log(artifact: Artifact, part: Part) -> dict[str, Any]:
    try:
        log: dict[str, Any] = json.loads(artifact.path(part, "log").read_text(encoding="utf-8"))
        for key in ("version", "rows", "off_chip_bytes"):
            log[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The compiler's log of {part.name!r} cannot be read: {error}", fix="make the edgetpu file again") from error
    return log


def _log_warnings(logs: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, log in logs.items():
        for row in log["rows"]:
            if row["status"] != MAPPED:
                yield f"{name}: {row['count']} {row['op']} on the CPU: {row['status']}"
        if log["off_chip_bytes"]:
            yield f"{name}: {log['off_chip_bytes']} bytes of weights do not fit on the chip and are streamed with every inference"
