"""Export TFLite files to the Ethos-U's format: the int8 file, the file that Vela compiles
from it, and Vela's estimates.
"""

import dataclasses
import pathlib
import shutil
from typing import Any, ClassVar

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.ethosu import vela
from edgekit.formats.ethosu.log import Log, Setting
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import graph as tflite_graph
from edgekit.task import SplitName


@dataclasses.dataclass(frozen=True)
class TfliteToEthosu:
    """Writes ``<part>.tflite`` (role ``model``: the int8 file, which runs in any TFLite
    runtime), ``<part>_vela.tflite`` (role ``compiled``) and ``<part>.log.json`` (role
    ``log``: Vela's estimates per operator).

    A float file is copied unchanged: it is the reference, and none of it runs on the NPU.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    #: The SRAM that Vela may use, in bytes; None: as much as the memory mode has.
    sram_bytes: int | None = None

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "ethosu"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", vela.DISTRIBUTION)
    reads: ClassVar[tuple[SplitName, ...]] = ()

    @property
    def setting(self) -> Setting:
        """The device that Vela compiles for."""
        return Setting(
            accelerator=self.accelerator,
            system_config=self.system_config,
            memory_mode=self.memory_mode,
            sram_bytes=self.sram_bytes,
        )

    def requires(self, artifact: Artifact) -> None:
        """Vela is installed and supports the names of the target."""
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
            if _is_quantized(artifact, part):
                compiled, notes[part.name] = self._compile(path)
                files.update(compiled)
            else:
                notes[part.name] = (
                    "a float file: none of it runs on the Ethos-U; it serves as the reference "
                    "on the CPU"
                )
            parts.append(part.model_copy(update={"files": files}))
            context.progress.advance()
        return Artifact(
            format="ethosu",
            parts=tuple(parts),
            notes={"parts": notes},
            folder=context.folder,
        )

    def _compile(
        self, path: pathlib.Path
    ) -> tuple[dict[str, File], dict[str, Any]]:
        """Compile one file; return the files by role, and the notes."""
        compiled = path.with_name(f"{path.stem}_vela.tflite")
        report = path.with_name(f"{path.stem}.log.json")
        log = vela.compile_file(path, self.setting, compiled)
        report.write_text(log.model_dump_json(indent=1), encoding="utf-8")
        files = {
            "compiled": File(path=compiled.name),
            "log": File(path=report.name),
        }
        notes = {
            "compiled": True,
            "vela": log.version,
            "npu_time_ms_estimated": log.time_ms,
            "clock_hz": log.clock_hz,
            "sram_bytes": log.sram_bytes,
            "cpu_operators": _count_cpu_operators(compiled),
        }
        return files, notes

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The int8 files are unchanged, and the NPU runs something of each compiled file."""
        for old, new in zip(before.parts, after.parts, strict=True):
            if before.path(old).read_bytes() != after.path(new).read_bytes():
                raise StepError(
                    f"{new.name}: the int8 file is not the one that was compiled.",
                    fix="report it",
                )
            if "compiled" not in new.files:
                continue
            if tflite_graph.ETHOS_U not in tflite_file.operators_in(
                after.path(new, "compiled")
            ):
                text = after.path(new, "log").read_text(encoding="utf-8")
                refusals = Log.model_validate_json(text).refusals[:3]
                reasons = dict.fromkeys(
                    f"{row.op}: {row.reason}" for row in refusals
                )
                raise StepError(
                    f"{new.name}: Vela leaves all operators to the CPU ({'; '.join(reasons)}).",
                    fix="use w8a8-static, or another target",
                )


def _is_quantized(artifact: Artifact, part: Part) -> bool:
    """Whether a file has int8 layers, inputs or outputs."""
    specs = (*part.signature.inputs, *part.signature.outputs)
    if any(spec.quantization for spec in specs):
        return True
    return tflite_file.count_layers(artifact.path(part)).int8_weights > 0


def _count_cpu_operators(compiled: pathlib.Path) -> int:
    """How many operators of a compiled file run on the CPU."""
    operators = tflite_graph.read(compiled).operators
    return sum(operator.op != tflite_graph.ETHOS_U for operator in operators)
