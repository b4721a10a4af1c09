"""What a file will do on an Ethos-U: the audit of its TFLite graph, with Vela's report on
where each operator runs and what it costs.

    audit(artifact, limits)        # the files of the step tflite_to_ethosu
    audit_file(path, limits)       # any int8 .tflite file; compiled to a temporary folder

Which operators run on the CPU is read from the compiled file: for a file with several
graphs, Vela's own count is for another graph.
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
from edgekit.formats.ethosu.log import Layer, Log, Setting
from edgekit.formats.tflite import audit as audit_tflite
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.formats.tflite.graph import ETHOS_U, Graph, Operator
from edgekit.measurement import Measurement, unmeasured
from edgekit.target import Limits

NPU, CPU = "NPU", "CPU"
#: An operator without a row in Vela's table: it is part of another one, or needs no work.
JOINED = "joined to another"
NO_REASON = "Vela reports no reason"
_STORAGE = ("off_chip_flash_bytes", "on_chip_flash_bytes", "dram_bytes")


@dataclasses.dataclass(frozen=True)
class _CompiledFile:
    """One file, Vela's report on it, and its operators on the CPU."""

    graph: Graph
    log: Log
    #: Index of an operator on the CPU -> the reason.
    cpu_reasons: Mapping[int, str]
    #: How many operators of the compiled file run on the CPU that the file does not have
    #: under the same name.
    unnamed: int

    @property
    def cpu_operators(self) -> int:
        """How many operators run on the CPU."""
        return len(self.cpu_reasons) + self.unnamed

    def layers(self, operator: Operator) -> list[Layer]:
        """Vela's rows for an operator; empty if they may be those of another graph."""
        if self.graph.extra_graphs:
            return []
        return [
            layer
            for layer in self.log.layers
            if layer.operator == operator.index
        ]

    def place(self, operator: Operator) -> str:
        """Where an operator runs."""
        if operator.index in self.cpu_reasons:
            return CPU
        if self.graph.extra_graphs or self.layers(operator):
            return NPU
        return JOINED


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Audit all parts of an artifact of the format ``ethosu``.

    A float reference has no log, and none of Vela's numbers. Raises ModelError if a file or
    a log cannot be read.
    """
    graphs = {
        part.name: tflite_graph.read(artifact.path(part))
        for part in artifact.parts
    }
    if not all("log" in part.files for part in artifact.parts):
        return audit_tflite.audit_graphs(graphs, limits)
    files = {}
    for part in artifact.parts:
        compiled = artifact.path(part, "compiled")
        files[part.name] = _match(
            graphs[part.name], compiled, _read_log(artifact, part)
        )
    return _audit(files, limits)


def audit_file(path: pathlib.Path, limits: Limits) -> Audit:
    """Compile and audit one int8 file, written by any tool.

    Raises ModelError if it is not a TFLite file, or already compiled, and StepError if Vela
    cannot compile it.
    """
    graph = tflite_graph.read(path)
    if any(operator.op == ETHOS_U for operator in graph.operators):
        raise ModelError(
            f"{path} is already compiled for an Ethos-U, and does not show what its custom "
            "operator executes.",
            fix="pass the int8 .tflite file that it was compiled from",
        )
    setting = Setting(
        accelerator=limits.accelerator,
        system_config=limits.system_config,
        memory_mode=limits.memory_mode,
        sram_bytes=limits.sram_bytes,
    )
    vela.require(setting)
    with tempfile.TemporaryDirectory(prefix="edgekit-inspect-") as folder:
        compiled = pathlib.Path(folder) / "compiled.tflite"
        log = vela.compile_file(path, setting, compiled)
        return _audit({path.stem: _match(graph, compiled, log)}, limits)


def _match(graph: Graph, compiled: pathlib.Path, log: Log) -> _CompiledFile:
    """Find the operators of a file that its compiled file leaves to the CPU.

    Such an operator has the same kind and the same output name in both files.
    """
    remaining = [
        operator
        for operator in tflite_graph.read(compiled).operators
        if operator.op != ETHOS_U
    ]
    names = {
        (operator.op, tensor.name)
        for operator in remaining
        for tensor in operator.outputs
    }
    reasons = {row.name: row.reason for row in log.refusals}
    cpu_reasons = {}
    for operator in graph.operators:
        outputs = [tensor.name for tensor in operator.outputs]
        if any((operator.op, name) in names for name in outputs):
            known_reasons = [
                reasons[name] for name in outputs if name in reasons
            ]
            cpu_reasons[operator.index] = next(iter(known_reasons), NO_REASON)
    unnamed = max(0, len(remaining) - len(cpu_reasons))
    return _CompiledFile(graph, log, cpu_reasons, unnamed)


def _audit(files: Mapping[str, _CompiledFile], limits: Limits) -> Audit:
    graphs = {name: file.graph for name, file in files.items()}
    # The weights are compared with the limit as Vela stores them.
    base = audit_tflite.audit_graphs(
        graphs, limits.model_copy(update={"memory_bytes": None})
    )
    rows = [
        _report_row(operator, name, file)
        for name, file in files.items()
        for operator in file.graph.operators
    ]
    measurements = [
        _measure_int8_share(files),
        *(row for row in base.measurements if row.name != "int8_mac_share"),
        _measure_time(files),
        _measure_sram(files),
        _measure_flash(files),
        _measure_cpu_operators(files, rows),
    ]
    warnings = [
        *base.warnings,
        *_unnamed_warnings(files),
        *_cpu_warnings(rows),
        *_memory_warnings(measurements, limits),
    ]
    return Audit(measurements, rows, warnings)


def _report_row(
    operator: Operator, part: str, file: _CompiledFile
) -> dict[str, Any]:
    """One operator of the file: where it runs, and the sum of Vela's rows for it."""
    layers = file.layers(operator)
    place = file.place(operator)
    cycles = None
    utilisation = None
    if place == NPU and layers:
        cycles = sum(layer.cycles for layer in layers)
        macs = sum(layer.macs for layer in layers)
        peak = cycles * file.log.setting.macs_per_cycle
        utilisation = macs / peak if peak else 0.0
    return {
        **audit_tflite.report_row(operator, part),
        "runs_on": place,
        "cycles": cycles,
        "utilisation": utilisation,
        "reason": file.cpu_reasons.get(operator.index, ""),
    }


def _measure_int8_share(files: Mapping[str, _CompiledFile]) -> Measurement:
    """The share (0 to 1) of multiply-accumulates that the NPU computes in int8.

    Operators on the CPU do not count, int8 or not.
    """
    macs: Counter[str] = Counter()
    for file in files.values():
        for operator in file.graph.operators:
            arithmetic = audit_tflite.classify_arithmetic(operator)
            if file.place(operator) == CPU:
                arithmetic = CPU
            macs[arithmetic] += operator.macs
    total = macs.total()
    if not total:
        reason = "the file has no convolution and no matrix product"
        return unmeasured("int8_mac_share", "share", _where(files), reason)
    return Measurement(
        name="int8_mac_share",
        value=macs[audit_tflite.INT8] / total,
        unit="share",
        n=sum(len(file.graph.operators) for file in files.values()),
        where=_where(files),
        how=(
            "int8 multiply-accumulates of convolutions and matrix products that Vela places "
            "on the NPU, relative to all of the file"
        ),
        detail={
            arithmetic: count for arithmetic, count in macs.items() if count
        },
    )


def _measure_time(files: Mapping[str, _CompiledFile]) -> Measurement:
    """The NPU's time as Vela estimates it. The parts of a network run one after another."""
    logs = {name: file.log for name, file in files.items()}
    if not any(log.cycles for log in logs.values()):
        reason = "no part of the network runs on the NPU"
        return unmeasured("npu_time_ms", "ms", _where(files), reason)
    first = next(iter(logs.values()))
    how = (
        f"estimate by Vela at {first.clock_hz / 1e6:g} MHz ({first.setting.system_config}, "
        f"{first.setting.memory_mode}), not measured"
    )
    cpu_operators = sum(file.cpu_operators for file in files.values())
    if cpu_operators:
        how += f"; without the {cpu_operators} operators on the CPU"
    return Measurement(
        name="npu_time_ms",
        value=sum(log.time_ms for log in logs.values()),
        unit="ms",
        where=_where(files),
        how=how,
        detail={
            name: {"cycles": log.cycles, "clock_hz": log.clock_hz}
            for name, log in logs.items()
        },
    )


def _measure_sram(files: Mapping[str, _CompiledFile]) -> Measurement:
    return Measurement(
        name="sram_bytes",
        value=max(file.log.sram_bytes for file in files.values()),
        unit="bytes",
        where=_where(files),
        how=(
            "estimate by Vela: the largest SRAM of a part, including its inputs and outputs, "
            "without the runtime's own memory"
        ),
    )


def _measure_flash(files: Mapping[str, _CompiledFile]) -> Measurement:
    detail = {
        kind: sum(getattr(file.log, kind) for file in files.values())
        for kind in _STORAGE
    }
    used = [
        kind.removesuffix("_bytes").replace("_", " ")
        for kind in _STORAGE
        if detail[kind]
    ]
    return Measurement(
        name="flash_bytes",
        value=sum(detail.values()),
        unit="bytes",
        where=_where(files),
        how=(
            "estimate by Vela: memory for the weights, in addition to SRAM "
            f"({', '.join(used) or 'none used'})"
        ),
        detail=detail,
    )


def _measure_cpu_operators(
    files: Mapping[str, _CompiledFile], rows: Sequence[Mapping[str, Any]]
) -> Measurement:
    operators = [
        {key: row[key] for key in ("op", "module", "reason", "part")}
        for row in rows
        if row["runs_on"] == CPU
    ]
    return Measurement(
        name="cpu_ops",
        value=len(operators) + sum(file.unnamed for file in files.values()),
        unit="operators",
        n=len(rows),
        where=_where(files),
        how="operators of the file that Vela leaves to the CPU",
        detail={"operators": operators},
    )


def _unnamed_warnings(files: Mapping[str, _CompiledFile]) -> Iterator[str]:
    for name, file in files.items():
        if file.unnamed:
            yield (
                f"{name}: {file.unnamed} more operators are left to the CPU; their names are "
                "not in the file"
            )


def _cpu_warnings(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    modules_of: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["runs_on"] == CPU:
            group = (row["part"], row["op"], row["reason"])
            modules_of.setdefault(group, []).append(
                row["module"] or "the top level"
            )
    for (part, op, reason), modules in modules_of.items():
        places = ", ".join(dict.fromkeys(modules))
        yield f"{part}: {len(modules)} {op} left to the CPU at {places}: {reason}"
    if modules_of:
        yield "the NPU time does not include operators on the CPU"


def _memory_warnings(
    measurements: Sequence[Measurement], limits: Limits
) -> Iterator[str]:
    capacities = {
        "sram_bytes": ("SRAM", limits.sram_bytes),
        "flash_bytes": ("flash", limits.memory_bytes),
    }
    for measurement in measurements:
        memory, limit = capacities.get(measurement.name, ("", None))
        needed = measurement.value
        if limit is not None and needed is not None and needed > limit:
            yield f"the network needs {needed:.0f} bytes of {memory}, the device has {limit}"


def _where(files: Mapping[str, _CompiledFile]) -> str:
    log = next(iter(files.values())).log
    return f"Vela {log.version}'s estimate for {log.setting.accelerator}"


def _read_log(artifact: Artifact, part: Part) -> Log:
    try:
        text = artifact.path(part, "log").read_text(encoding="utf-8")
        return Log.model_validate_json(text)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Vela's log of {part.name!r} cannot be read: {error}",
            fix="build the ethosu file again",
        ) from error
