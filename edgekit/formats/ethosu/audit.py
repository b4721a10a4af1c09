"""What a file will do on an Ethos-U: the audit of its TFLite graph, with Vela's own word on
where each operator runs and what it costs.

audit(artifact, limits)        # what the step tflite_to_ethosu has kept
audit_file(path, limits)       # any int8 .tflite file; it is compiled to a temporary folder

What the CPU runs is read from the compiled file: Vela's own count is of another graph where
a file has several.
"""

import dataclasses
import pathlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.artifact import Artifact, Part
from edgekit.contracts import Audit
from edgekit.errors import ModelError
from edgekit.formats.ethosu import vela
from edgekit.formats.ethosu.vela import Layer, Log
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite.graph import Graph, Operator
from edgekit.measurement import Measurement, unmeasured
from edgekit.target import Limits

NPU, CPU = "NPU", "CPU"
#: An operator that Vela has no row for: it is part of another one, or needs no work.
JOINED = "joined to another"
NO_REASON = "Vela does not say why"


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """One file, what Vela said of it, and which of its operators are left for the CPU, with
    the reasons.
    """

    graph: Graph
    log: Log
    left: Mapping[int, str]
    #: Operators that the compiled file leaves for the CPU and that the file does not have
    #: under the same name.
    unnamed: int

    def layers(self, operator: Operator) -> list[Layer]:
        """Vela's rows for an operator; none where they may be those of another graph."""
        return (
            []
            if self.graph.extra_graphs
            else [layer for layer in self.log.layers if layer.operator == operator.index]
        )

    def place(self, operator: Operator) -> str:
        """Where an operator runs."""
        return (
            CPU
            if operator.index in self.left
            else NPU
            if self.graph.extra_graphs or self.layers(operator)
            else JOINED
        )


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """The audit of all parts of an artifact of the format ``ethosu``.

    A float reference has no log, and none of Vela's numbers.
    """
    graphs = {part.name: tflite_graph.read(artifact.path(part)) for part in artifact.parts}
    if not all("log" in part.files for part in artifact.parts):
        return audit_tflite.audit_graphs(graphs, limits)
    return _audit(
        {
            part.name: _read(
                graphs[part.name], artifact.path(part, "compiled"), _log(artifact, part)
            )
            for part in artifact.parts
        },
        limits,
    )


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """The audit of one file, made by edgekit or not.

    Raises ModelError for one that Vela has compiled already.
    """
    graph = tflite_graph.read(path)
    if any(operator.op == tflite_graph.ETHOS_U for operator in graph.operators):
        raise ModelError(
            f"{path} is compiled for an Ethos-U already: what its custom operator does is not in the file.",
            fix="name the int8 .tflite file that it was made from",
        )
    setting = vela.Setting(
        accelerator=limits.accelerator,
        system_config=limits.system_config,
        memory_mode=limits.memory_mode,
        sram_bytes=limits.sram_bytes,
    )
    vela.require(setting)
    with tempfile.TemporaryDirectory(prefix="edgekit-inspect-") as folder:
        made = pathlib.Path(folder) / "compiled.tflite"
        log = vela.compiled(path, setting, made)
        return _audit({path.stem: _read(graph, made, log)}, limits)


def _read(graph: Graph, compiled: pathlib.Path, log: Log) -> _Compiled:
    """An operator that is left for the CPU has the same kind and gives the same tensor in
    both files.
    """
    outside = [
        operator
        for operator in tflite_graph.read(compiled).operators
        if operator.op != tflite_graph.ETHOS_U
    ]
    names = {
        (operator.op, tensor.name) for operator in outside for tensor in operator.outputs
    }
    reasons = {row.name: row.reason for row in log.refusals}
    left = {
        operator.index: next(
            (reasons[tensor.name] for tensor in operator.outputs if tensor.name in reasons),
            NO_REASON,
        )
        for operator in graph.operators
        if any((operator.op, tensor.name) in names for tensor in operator.outputs)
    }
    return _Compiled(graph, log, left, max(0, len(outside) - len(left)))


def _audit(files: Mapping[str, _Compiled], limits: Limits) -> Audit:
    base = audit_tflite.audit_graphs(
        {name: file.graph for name, file in files.items()},
        limits.model_copy(update={"memory_bytes": None}),
    )
    rows = [
        _row(operator, name, file)
        for name, file in files.items()
        for operator in file.graph.operators
    ]
    measurements = [
        _share(files),
        *(row for row in base.measurements if row.name != "int8_mac_share"),
        _time(files),
        *_memory(files),
        _fallen(files, rows),
    ]
    return Audit(
        measurements,
        rows,
        [*base.warnings, *_unnamed(files), *_warnings(measurements, rows, limits)],
    )


def _row(operator: Operator, part: str, file: _Compiled) -> dict[str, Any]:
    """One operator of the file: where it runs, and the sum of Vela's rows for it."""
    layers, place = file.layers(operator), file.place(operator)
    cycles, macs = (
        sum(layer.cycles for layer in layers),
        sum(layer.macs for layer in layers),
    )
    told = place == NPU and bool(layers)
    used = macs / (cycles * file.log.setting.macs_per_cycle) if cycles else 0.0
    return {
        **audit_tflite.report_row(operator, part),
        "runs_on": place,
        "cycles": cycles if told else None,
        "utilisation": used if told else None,
        "reason": file.left.get(operator.index, ""),
    }


def _share(files: Mapping[str, _Compiled]) -> Measurement:
    """Share of multiply-accumulates that the NPU does in int8.

    What is left to the CPU does not count, int8 or not.
    """
    macs: Counter[str] = Counter()
    for file in files.values():
        for operator in file.graph.operators:
            macs[
                CPU if file.place(operator) == CPU else audit_tflite.classify_arithmetic(operator)
            ] += operator.macs
    total, count = (
        sum(macs.values()),
        sum(len(file.graph.operators) for file in files.values()),
    )
    if not total:
        return unmeasured(
            "int8_mac_share",
            "share",
            _where(files),
            "the file has no convolution and no matrix product",
        )
    how = "multiply-accumulates of the file's convolutions and matrix products that Vela places on the NPU and that are int8, of all"
    return Measurement(
        name="int8_mac_share",
        value=macs[audit_tflite.INT8] / total,
        unit="share",
        n=count,
        where=_where(files),
        how=how,
        detail={key: value for key, value in macs.items() if value},
    )


def _time(files: Mapping[str, _Compiled]) -> Measurement:
    """The NPU's time, as Vela estimates it. The parts of a network run one after the other."""
    logs = {name: file.log for name, file in files.items()}
    first, fallen = (
        next(iter(logs.values())),
        sum(len(file.left) + file.unnamed for file in files.values()),
    )
    if not any(log.cycles for log in logs.values()):
        return unmeasured(
            "npu_time_ms", "ms", _where(files), "nothing of the network runs on the NPU"
        )
    told = f"estimate by Vela at {first.clock_hz / 1e6:g} MHz ({first.setting.system_config}, {first.setting.memory_mode}), not measured"
    missing = f"; the {fallen} operators on the CPU are not in it" if fallen else ""
    return Measurement(
        name="npu_time_ms",
        value=sum(log.time_ms for log in logs.values()),
        unit="ms",
        where=_where(files),
        how=told + missing,
        detail={
            name: {"cycles": log.cycles, "clock_hz": log.clock_hz}
            for name, log in logs.items()
        },
    )


def _memory(files: Mapping[str, _Compiled]) -> Iterator[Measurement]:
    logs, where = [file.log for file in files.values()], _where(files)
    yield Measurement(
        name="sram_bytes",
        value=max(log.sram_bytes for log in logs),
        unit="bytes",
        where=where,
        how="estimate by Vela: the most SRAM that a part takes, its inputs and outputs included, the runtime's own memory not",
    )
    kinds = ("off_chip_flash_bytes", "on_chip_flash_bytes", "dram_bytes")
    detail = {kind: sum(getattr(log, kind) for log in logs) for kind in kinds}
    named = (
        ", ".join(
            kind.removesuffix("_bytes").replace("_", " ") for kind in kinds if detail[kind]
        )
        or "none used"
    )
    yield Measurement(
        name="flash_bytes",
        value=sum(detail.values()),
        unit="bytes",
        where=where,
        how=f"estimate by Vela: memory beside the SRAM, for the weights ({named})",
        detail=detail,
    )


def _fallen(
    files: Mapping[str, _Compiled], rows: Sequence[Mapping[str, Any]]
) -> Measurement:
    left = [
        {key: row[key] for key in ("op", "module", "reason", "part")}
        for row in rows
        if row["runs_on"] == CPU
    ]
    return Measurement(
        name="cpu_ops",
        value=len(left) + sum(file.unnamed for file in files.values()),
        unit="operators",
        n=len(rows),
        where=_where(files),
        how="operators of the file that Vela leaves to the CPU",
        detail={"operators": left},
    )


def _unnamed(files: Mapping[str, _Compiled]) -> Iterator[str]:
    return (
        f"{name}: {file.unnamed} more operators are left to the CPU; they have no name of the file's own"
        for name, file in files.items()
        if file.unnamed
    )


def _warnings(
    measurements: Sequence[Measurement], rows: Sequence[Mapping[str, Any]], limits: Limits
) -> Iterator[str]:
    left: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["runs_on"] == CPU:
            left.setdefault((row["part"], row["op"], row["reason"]), []).append(
                row["module"] or "the top"
            )
    for (part, op, reason), modules in left.items():
        yield f"{part}: {len(modules)} {op} left to the CPU at {', '.join(dict.fromkeys(modules))}: {reason}"
    if left:
        yield "the time of operators on the CPU is not in the NPU time"
    for measured in measurements:
        limit, what = {
            "sram_bytes": (limits.sram_bytes, "SRAM"),
            "flash_bytes": (limits.memory_bytes, "flash"),
        }.get(measured.name, (None, ""))
        if limit is not None and measured.value is not None and measured.value > limit:
            yield f"the network needs {measured.value:.0f} bytes of {what}, the device has {limit}"


def _where(files: Mapping[str, _Compiled]) -> str:
    log = next(iter(files.values())).log
    return f"Vela {log.version}'s estimate for {log.setting.accelerator}"


def _log(artifact: Artifact, part: Part) -> Log:
    try:
        return Log.model_validate_json(
            artifact.path(part, "log").read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Vela's log of {part.name!r} cannot be read: {error}",
            fix="make the ethosu file again",
        ) from error
