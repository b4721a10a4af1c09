"""TFLite to the Ethos-U's format: the int8 file beside what Vela compiles of it, with
Vela's estimates.
"""

import dataclasses
import pathlib
import shutil
from typing import Any, ClassVar

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.ethosu import vela
from edgekit.formats.ethosu.vela import Setting
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class TfliteToEthosu:
    """Writes ``<part>.tflite`` (role ``model``: the int8 file, which any TFLite runtime can
    run), ``<part>_vela.tflite`` (role ``compiled``) and ``<part>.log.json`` (role
    ``log``: what Vela estimates, operator by operator).

    A float file is passed on as it is: it is the reference, nothing of it runs on the NPU.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    #: How much SRAM Vela may plan with; None: as much as the memory mode gives.
    sram_bytes: int | None = None

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "ethosu"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", vela.DISTRIBUTION)
    reads: ClassVar[tuple[SplitName, ...]] = ()

    @property
    def setting(self) -> Setting:
        """What Vela compiles for."""
        return Setting(
            accelerator=self.accelerator,
            system_config=self.system_config,
            memory_mode=self.memory_mode,
            sram_bytes=self.sram_bytes,
        )

    def requires(self, artifact: Artifact) -> None:
        """Vela is there and knows the names of the target."""
        vela.require(self.setting)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Compile every part that has int8 layers."""
        context.progress.expect(len(artifact.parts))
        parts: list[Part] = []
        notes: dict[str, Any] = {}
        for part in artifact.parts:
            path = context.folder / f"{part.name}.tflite"
            shutil.copyfile(artifact.path(part), path)
            files = {"model": File(path=path.name)}
            if _integer(artifact, part):
                made, report = (
                    path.with_name(f"{path.stem}_vela.tflite"),
                    path.with_name(f"{path.stem}.log.json"),
                )
                log = vela.compiled(path, self.setting, made)
                report.write_text(log.model_dump_json(indent=1), encoding="utf-8")
                files |= {"compiled": File(path=made.name), "log": File(path=report.name)}
                notes[part.name] = _told(log, _left(made))
            else:
                notes[part.name] = (
                    "a float file: nothing of it runs on the Ethos-U; it serves as the reference on the CPU"
                )
            parts.append(part.model_copy(update={"files": files}))
            context.progress.advance()
        return Artifact(
            format="ethosu",
            parts=tuple(parts),
            notes={"parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The int8 files are unchanged, and the NPU has something to do in each that was
        compiled.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            if before.path(old).read_bytes() != after.path(new).read_bytes():
                raise StepError(
                    f"{new.name}: the file that stands in for the NPU is not the one that was compiled.",
                    fix="report it",
                )
            if "compiled" in new.files and not any(
                _is_compiled(code)
                for code in tflite_file.read(after.path(new, "compiled")).operatorCodes
            ):
                log = vela.Log.model_validate_json(
                    after.path(new, "log").read_text(encoding="utf-8")
                )
                why = "; ".join(
                    dict.fromkeys(f"{row.op}: {row.reason}" for row in log.refusals[:3])
                )
                raise StepError(
                    f"{new.name}: Vela leaves every operator to the CPU ({why}).",
                    fix="take w8a8-static, or another target",
                )


def _integer(artifact: Artifact, part: Part) -> bool:
    """Whether a file has int8 layers, or is int8 at its ends."""
    quantized = any(
        spec.quantization for spec in (*part.signature.inputs, *part.signature.outputs)
    )
    return quantized or tflite_file.count_layers(artifact.path(part)).int8_weights > 0


def _left(compiled: pathlib.Path) -> int:
    """How many operators of a compiled file the CPU runs."""
    model = tflite_file.read(compiled)
    return sum(
        not _is_compiled(model.operatorCodes[operator.opcodeIndex])
        for operator in model.subgraphs[0].operators
    )


def _is_compiled(code: Any) -> bool:
    return f"CUSTOM:{(code.customCode or b'').decode('utf-8', 'replace')}" == tflite_graph.ETHOS_U


def _told(log: vela.Log, left: int) -> dict[str, Any]:
    return {
        "compiled": True,
        "vela": log.version,
        "npu_time_ms_estimated": log.time_ms,
        "clock_hz": log.clock_hz,
        "sram_bytes": log.sram_bytes,
        "cpu_operators": left,
    }
