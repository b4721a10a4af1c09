"""What a file will do on an Ethos-U: the audit of its TFLite graph, with Vela's own word on where each operator runs and what it costs.

audit(artifact, limits)        # the logs that the step tflite_to_ethosu has kept
audit_file(path, limits)       # any int8 .tflite file; it is compiled to a temporary folder
"""

import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit import vela
from edgekit.artifact import Artifact, Part
from edgekit.checks import audit_tflite, tflite_graph
from edgekit.checks.tflite_graph import Graph, Operator
from edgekit.contracts import Audit
from edgekit.errors import ModelError
from edgekit.measurement import Measurement, unmeasured
from edgekit.target import Limits
from edgekit.vela import Log

NPU, CPU = "NPU", "CPU"
#: An operator that Vela has no row for: it is part of another one, or needs no work.
JOINED = "joined to another"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """The audit of all parts of an artifact of the form ``ethosu``."""
    graphs = {part.name: tflite_graph.read(artifact.path(part)) for part in artifact.parts}
    return _audit(graphs, {part.name: _log(artifact, part) for part in artifact.parts if "log" in part.files}, limits)


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """The audit of one file, made by edgekit or not. Raises ModelError for one that Vela has compiled already."""
    graph = tflite_graph.read(path)
    if any(operator.op == vela.CUSTOM for operator in graph.operators):
        raise ModelError(f"{path} is compiled for an Ethos-U already: what its custom operator does is not in the file.",
                         fix="name the int8 .tflite file that it was made from")  # fmt: skip
    setting = vela.Setting(accelerator=limits.accelerator, system_config=limits.system_config, memory_mode=limits.memory_mode, sram_bytes=limits.sram_bytes)
    vela.require(setting)
    return _audit({path.stem: graph}, {path.stem: vela.compiled(path, setting)}, limits)


def _audit(graphs: Mapping[str, Graph], logs: Mapping[str, Log], limits: Limits) -> Audit:
    """Without a log (a float reference) the TFLite graph's own numbers, and none of Vela's."""
    base = audit_tflite.audit_graphs(graphs, limits.model_copy(update={"memory_bytes": None}))
    if set(logs) != set(graphs):
        return base
    places = {name: _places(graph, logs[name]) for name, graph in graphs.items()}
    rows = [_row(operator, name, places[name][operator.index], logs[name]) for name, graph in graphs.items() for operator in graph.operators]
    measurements = [
        _share(graphs, places, logs),
        *(row for row in base.measurements if row.name != "int8_mac_share"),
        *_estimates(logs), _fallen(logs, rows),
    ]  # fmt: skip
    return Audit(measurements, rows, [*base.warnings, *_warnings(measurements, rows, limits)])


def _places(graph: Graph, log: Log) -> list[str]:
    """Where each operator of the file runs."""
    rows: dict[int | None, set[str]] = {}
    for layer in log.layers:
        rows.setdefault(layer.operator, set()).add(layer.target)
    return [CPU if CPU in rows.get(operator.index, ()) else NPU if operator.index in rows else JOINED for operator in graph.operators]


def _row(operator: Operator, part: str, place: str, log: Log) -> dict[str, Any]:
    """One operator of the file: where it runs, and the sum of Vela's rows for it."""
    layers = [layer for layer in log.layers if layer.operator == operator.index]
    cycles, macs = sum(layer.cycles for layer in layers), sum(layer.macs for layer in layers)
    reason = next((row.reason for row in log.fall_backs if row.operator == operator.index), "")
    used = macs / (cycles * log.setting.macs_per_cycle) if cycles else None
    return {**audit_tflite.row(operator, part), "runs_on": place, "cycles": cycles if place == NPU else None,
            "utilisation": used if place == NPU else None, "reason": reason}  # fmt: skip


def _share(graphs: Mapping[str, Graph], places: Mapping[str, Sequence[str]], logs: Mapping[str, Log]) -> Measurement:
    """Share of multiply-accumulates that the NPU does in int8. What falls back to the CPU does not count, int8 or not."""
    macs: Counter[str] = Counter()
    for name, graph in graphs.items():
        for operator, place in zip(graph.operators, places[name], strict=True):
            kind = audit_tflite.arithmetic(operator)
            macs[kind if place != CPU else CPU] += operator.macs
    total, count = sum(macs.values()), sum(len(graph.operators) for graph in graphs.values())
    if not total:
        return unmeasured("int8_mac_share", "share", _where(logs), "the file has no convolution and no matrix product")
    how = "multiply-accumulates of the file's convolutions and matrix products that Vela places on the NPU and that are int8, of all"
    return Measurement(name="int8_mac_share", value=macs[audit_tflite.INT8] / total, unit="share", n=count, where=_where(logs), how=how,
                       detail={key: value for key, value in macs.items() if value})  # fmt: skip


def _estimates(logs: Mapping[str, Log]) -> Iterator[Measurement]:
    """Time and memory, as Vela estimates them. The parts of a network run one after the other."""
    where, found = _where(logs), list(logs.values())
    clocks = ", ".join(dict.fromkeys(f"{log.clock_hz / 1e6:g} MHz" for log in found))
    told = f"estimate by Vela at {clocks} ({found[0].setting.system_config}, {found[0].setting.memory_mode}), not measured"
    fallen = sum(len(log.fall_backs) for log in found)
    if not any(log.cycles for log in found):
        yield unmeasured("npu_time_ms", "ms", where, "nothing of the network runs on the NPU")
    else:
        missing = f"; the {fallen} operators on the CPU are not in it" if fallen else ""
        yield Measurement(name="npu_time_ms", value=sum(log.time_ms for log in found), unit="ms", where=where, how=told + missing,
                          detail={name: {"cycles": log.cycles, "clock_hz": log.clock_hz} for name, log in logs.items()})  # fmt: skip
    yield Measurement(name="sram_bytes", value=max(log.sram_bytes for log in found), unit="bytes", where=where,
                      how="estimate by Vela: the most SRAM that a part takes, its inputs and outputs included, the runtime's own memory not")  # fmt: skip
    kinds = ("off_chip_flash_bytes", "on_chip_flash_bytes", "dram_bytes")
    detail = {kind: sum(getattr(log, kind) for log in found) for kind in kinds}
    named = ", ".join(kind.removesuffix("_bytes").replace("_", " ") for kind in kinds if detail[kind]) or "none used"
    yield Measurement(name="flash_bytes", value=sum(detail.values()), unit="bytes", where=where,
                      how=f"estimate by Vela: memory beside the SRAM, for the weights ({named})", detail=detail)  # fmt: skip


def _fallen(logs: Mapping[str, Log], rows: Sequence[Mapping[str, Any]]) -> Measurement:
    left = [{key: row[key] for key in ("op", "module", "reason", "part")} for row in rows if row["runs_on"] == CPU]
    return Measurement(name="cpu_ops", value=len(left), unit="operators", n=len(rows), where=_where(logs),
                       how="operators of the file that Vela leaves to the CPU", detail={"operators": left})  # fmt: skip


def _warnings(measurements: Sequence[Measurement], rows: Sequence[Mapping[str, Any]], limits: Limits) -> Iterator[str]:
    value = {row.name: row.value or 0 for row in measurements}
    left: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["runs_on"] == CPU:
            left.setdefault((row["part"], row["op"], row["reason"]), []).append(row["module"] or "the top")
    for (part, op, reason), modules in left.items():
        yield f"{part}: {len(modules)} {op} left to the CPU at {', '.join(dict.fromkeys(modules))}: {reason}"
    if left:
        yield "the time of operators on the CPU is not in the NPU time"
    for name, limit, what in (("sram_bytes", limits.sram_bytes, "SRAM"), ("flash_bytes", limits.memory_bytes, "flash")):
        if limit is not None and value[name] > limit:  # type: ignore[index]
            yield f"the network needs {value[name]:.0f} bytes of {what}, the device has {limit}"  # type: ignore[index]


def _where(logs: Mapping[str, Log]) -> str:
    log = next(iter(logs.values()))
    return f"Vela {log.version}'s estimate for {log.setting.accelerator}"


def _log(artifact: Artifact, part: Part) -> Log:
    try:
        return Log.model_validate_json(artifact.path(part, "log").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"Vela's log of {part.name!r} cannot be read: {error}", fix="make the ethosu file again") from error
