"""TFLite to the Edge TPU's format: inputs and outputs as uint8, and compiled where Google's
compiler is installed.

The Edge TPU computes in int8 inside; cameras and Coral's examples give uint8. Both store
the same numbers: uint8 is int8 plus 128, with a zero point plus 128 (TFLite's quantization
specification). A QUANTIZE operator at each end does it.
"""

import copy
import dataclasses
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy
from ai_edge_litert import schema_py_generated as schema

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.edgetpu import log as edgetpu_log
from edgekit.formats.edgetpu import rewrite as edgetpu_rewrite
from edgekit.formats.tflite import file as tflite_file
from edgekit.formats.tflite import interpreter as litert
from edgekit.signature import Signature
from edgekit.task import SplitName

COMPILER = "edgetpu_compiler"
#: The compiler stops itself after 180 s; a minute more is for reading and writing.
TIMEOUT_S = 240
_OFFSET = 128
_IO = ("uint8", "int8")
_INT8, _UINT8 = schema.TensorType.INT8, schema.TensorType.UINT8


@dataclasses.dataclass(frozen=True)
class TfliteToEdgetpu:
    """Writes ``<part>.tflite`` (role ``model``: what any TFLite runtime can run) with
    ``io`` inputs and outputs.

    With edgetpu_compiler on the PATH also ``<part>_edgetpu.tflite`` (role ``compiled``) and
    its report as JSON (role ``log``). A float file is passed on as it is: it is the
    reference, nothing of it runs on the Edge TPU.
    """

    io: str = "uint8"

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "edgetpu"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "tool:edgetpu_compiler")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A known ``io``; weights that are float or int8, and no half-quantized file."""
        if self.io not in _IO:
            raise StepError(
                f"The Edge TPU's inputs and outputs cannot be {self.io!r}.",
                fix="take uint8 (what cameras give) or int8",
            )
        for part in artifact.parts:
            if (
                not _integer(part)
                and tflite_file.count_layers(artifact.path(part)).int8_weights
            ):
                raise StepError(
                    f"{part.name} has int8 weights, but float inputs and outputs; the Edge TPU runs wholly int8 networks only.",
                    fix="take the scheme w8a8-static for this target",
                )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Change the ends of every part, and compile it where that is possible."""
        compiler = shutil.which(COMPILER)
        parts: list[Part] = []
        notes: dict[str, Any] = {}
        for part in artifact.parts:
            path = context.folder / f"{part.name}.tflite"
            if not _integer(part):
                shutil.copyfile(artifact.path(part), path)
                parts.append(
                    part.model_copy(update={"files": {"model": File(path=path.name)}})
                )
                notes[part.name] = (
                    "a float file: nothing of it runs on the Edge TPU; it serves as the reference on the CPU"
                )
                continue
            signature, rewritten = _write(
                artifact.path(part), path, part.signature, self.io
            )
            files, told = _compile(compiler, path, context.folder)
            notes[part.name] = {**told, "rewritten": dict(rewritten)}
            parts.append(
                Part(
                    name=part.name,
                    signature=signature,
                    files={"model": File(path=path.name), **files},
                )
            )
        return Artifact(
            format="edgetpu",
            parts=tuple(parts),
            notes={"parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Every quantized input and output has the dtype that was asked for and stands for
        the same numbers.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            pairs = zip(
                (*old.signature.inputs, *old.signature.outputs),
                (*new.signature.inputs, *new.signature.outputs),
                strict=True,
            )
            for was, spec in pairs:
                if was.quantization is None or spec.quantization is None:
                    continue
                moved = was.quantization.zero_point + _shift(was.dtype, self.io)
                if (
                    spec.dtype != self.io
                    or spec.quantization.zero_point != moved
                    or spec.quantization.scale != was.quantization.scale
                ):
                    raise StepError(
                        f"{new.name}: {spec.name} is {spec.dtype} with {spec.quantization}, not {self.io} with zero point {moved}.",
                        fix="report it with the file",
                    )


def _integer(part: Part) -> bool:
    return any(
        spec.quantization for spec in (*part.signature.inputs, *part.signature.outputs)
    )


def _shift(was: str, now: str) -> int:
    return _OFFSET * ((now == "uint8") - (was == "uint8"))


def _write(
    source: pathlib.Path, path: pathlib.Path, signature: Signature, io: str
) -> tuple[Signature, Mapping[str, int]]:
    model = tflite_file.read(source)
    rewritten = edgetpu_rewrite.rewrite(model)
    graph = model.subgraphs[0]
    for ends, defined, insert in (
        (
            graph.inputs,
            "inputs",
            lambda inner, outer: graph.operators.insert(
                0, _requantize(model, outer, inner)
            ),
        ),
        (
            graph.outputs,
            "outputs",
            lambda inner, outer: graph.operators.append(_requantize(model, inner, outer)),
        ),
    ):
        _change(model, ends, defined, _UINT8 if io == "uint8" else _INT8, insert)
    tflite_file.write(model, path)
    return litert.read_signature(path, signature), rewritten


def _change(
    model: Any,
    ends: list[int],
    defined: str,
    wanted: int,
    insert: Callable[[int, int], None],
) -> None:
    """Put a new tensor of the dtype ``wanted`` in the place of each int8 or uint8 one among
    ``ends``.
    """
    graph = model.subgraphs[0]
    for position, inner in enumerate(list(ends)):
        tensor = graph.tensors[inner]
        if (
            tensor.type not in (_INT8, _UINT8)
            or tensor.type == wanted
            or not _scales(tensor)
        ):
            continue
        outer = copy.deepcopy(tensor)
        outer.type = wanted
        outer.buffer = 0
        shift = _OFFSET if wanted == _UINT8 else -_OFFSET
        outer.quantization.zeroPoint = (
            numpy.asarray(tensor.quantization.zeroPoint, dtype=numpy.int64) + shift
        )
        tensor.name = (
            tensor.name + b"_inner"
        )  # the end keeps the name that runtimes sort by
        graph.tensors.append(outer)
        ends[position] = len(graph.tensors) - 1
        for definition in model.signatureDefs or []:
            for entry in getattr(definition, defined):
                if definition.subgraphIndex == 0 and entry.tensorIndex == inner:
                    entry.tensorIndex = ends[position]
        insert(inner, ends[position])


def _scales(tensor: Any) -> bool:
    return (
        tensor.quantization is not None
        and tensor.quantization.scale is not None
        and len(tensor.quantization.scale) == 1
    )


def _requantize(model: Any, source: int, result: int) -> Any:
    """A QUANTIZE operator from one tensor to another."""
    operator = schema.OperatorT()
    operator.opcodeIndex = tflite_file.ensure_operator_code(model, schema.BuiltinOperator.QUANTIZE)
    operator.inputs, operator.outputs = [source], [result]
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    return operator


def _compile(
    compiler: str | None, path: pathlib.Path, folder: pathlib.Path
) -> tuple[dict[str, File], dict[str, Any]]:
    """The compiled file and its report, or a note on why there is none."""
    if compiler is None:
        return {}, {
            "compiled": False,
            "why": f"{COMPILER} is not installed here (Google's own package archive has it, for Linux on x86-64)",
        }
    try:
        done = subprocess.run(
            [compiler, "-s", "-o", str(folder), str(path)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, {
            "compiled": False,
            "why": f"{COMPILER} did not end within {TIMEOUT_S} s",
        }
    except OSError as error:
        return {}, {
            "compiled": False,
            "why": f"{COMPILER} cannot be started: {error.strerror or error}",
        }
    log = edgetpu_log.parse(done.stdout)
    made = folder / f"{path.stem}_edgetpu.tflite"
    if done.returncode or not made.is_file():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        told = (
            edgetpu_log.parse(f"{done.stdout}\n{done.stderr}").failure
            or " ".join(last)
            or f"exit status {done.returncode}"
        )
        return {}, {"compiled": False, "why": f"{COMPILER} failed: {told}"}
    (folder / f"{path.stem}_edgetpu.log").unlink(missing_ok=True)
    report = folder / f"{path.stem}.log.json"
    report.write_text(log.model_dump_json(indent=1), encoding="utf-8")
    notes = {
        "compiled": True,
        "compiler": log.version,
        "mapped_operators": log.mapped,
        "operators": log.total,
        "off_chip_bytes": log.off_chip_bytes,
    }
    return {"compiled": File(path=made.name), "log": File(path=report.name)}, notes
