"""Export TFLite files to the Edge TPU's format: uint8 inputs and outputs, and compiled if
Google's compiler is installed.

The Edge TPU computes in int8 inside; cameras and Coral's examples provide uint8. Both store
the same numbers: uint8 is int8 plus 128, with a zero point plus 128 (TFLite's quantization
specification). A QUANTIZE operator at each input and output converts them.
"""

import copy
import dataclasses
import pathlib
import shutil
import subprocess
from collections.abc import Mapping
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
from edgekit.signature import Signature, TensorSpec
from edgekit.task import SplitName

COMPILER = "edgetpu_compiler"
#: The compiler stops itself after 180 s; a minute more is for reading and writing.
TIMEOUT_S = 240
_OFFSET = 128
_TYPES = {"uint8": schema.TensorType.UINT8, "int8": schema.TensorType.INT8}


@dataclasses.dataclass(frozen=True)
class TfliteToEdgetpu:
    """Writes ``<part>.tflite`` (role ``model``: runs in any TFLite runtime) with inputs and
    outputs of the dtype ``io``.

    If edgetpu_compiler is on the PATH, also writes ``<part>_edgetpu.tflite`` (role
    ``compiled``) and its report as JSON (role ``log``). A float file is copied unchanged:
    it is the reference, and none of it runs on the Edge TPU.
    """

    io: str = "uint8"

    takes: ClassVar[tuple[FormatName, ...]] = ("tflite",)
    gives: ClassVar[FormatName] = "edgetpu"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (
        "ai-edge-litert",
        "tool:edgetpu_compiler",
    )
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A valid ``io``, and parts that are entirely float or entirely int8."""
        if self.io not in _TYPES:
            raise StepError(
                f"Invalid dtype for the Edge TPU's inputs and outputs: {self.io!r}.",
                fix="use uint8 (what cameras provide) or int8",
            )
        for part in artifact.parts:
            counts = tflite_file.count_layers(artifact.path(part))
            if counts.int8_weights and not _is_quantized(part):
                raise StepError(
                    f"{part.name} has int8 weights, but float inputs and outputs; the Edge TPU "
                    "runs fully int8 networks only.",
                    fix="use the scheme w8a8-static for this target",
                )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert the inputs and outputs of every part, and compile it if possible."""
        compiler = shutil.which(COMPILER)
        parts: list[Part] = []
        notes: dict[str, Any] = {}
        for part in artifact.parts:
            path = context.folder / f"{part.name}.tflite"
            files = {"model": File(path=path.name)}
            if not _is_quantized(part):
                shutil.copyfile(artifact.path(part), path)
                parts.append(part.model_copy(update={"files": files}))
                notes[part.name] = (
                    "a float file: none of it runs on the Edge TPU; it serves as the reference "
                    "on the CPU"
                )
                continue
            source = artifact.path(part)
            signature, rewritten = _write(source, path, part.signature, self.io)
            compiled, compiler_notes = _compile(compiler, path, context.folder)
            notes[part.name] = {**compiler_notes, "rewritten": dict(rewritten)}
            files = {**files, **compiled}
            parts.append(Part(name=part.name, signature=signature, files=files))
        return Artifact(
            format="edgetpu",
            parts=tuple(parts),
            notes={"parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Every quantized input and output has the dtype ``io`` and represents the same
        numbers.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            pairs = zip(
                (*old.signature.inputs, *old.signature.outputs),
                (*new.signature.inputs, *new.signature.outputs),
                strict=True,
            )
            for source, spec in pairs:
                self._require_same_numbers(new.name, source, spec)

    def _require_same_numbers(
        self, part: str, source: TensorSpec, spec: TensorSpec
    ) -> None:
        if source.quantization is None or spec.quantization is None:
            return
        shift = _OFFSET * ((self.io == "uint8") - (source.dtype == "uint8"))
        zero_point = source.quantization.zero_point + shift
        actual = (
            spec.dtype,
            spec.quantization.scale,
            spec.quantization.zero_point,
        )
        if actual != (self.io, source.quantization.scale, zero_point):
            raise StepError(
                f"{part}: {spec.name} is {spec.dtype} with {spec.quantization}, expected "
                f"{self.io} with zero point {zero_point}.",
                fix="report it with the file",
            )


def _is_quantized(part: Part) -> bool:
    specs = (*part.signature.inputs, *part.signature.outputs)
    return any(spec.quantization for spec in specs)


def _write(
    source: pathlib.Path, path: pathlib.Path, signature: Signature, io: str
) -> tuple[Signature, Mapping[str, int]]:
    """Rewrite ``source`` to ``path``; return its signature and how often each change was
    made.
    """
    model = tflite_file.read(source)
    rewritten = edgetpu_rewrite.rewrite(model)
    graph = model.subgraphs[0]
    for inner, outer in _replace_ends(model, "inputs", _TYPES[io]):
        graph.operators.insert(0, _quantize_operator(model, outer, inner))
    for inner, outer in _replace_ends(model, "outputs", _TYPES[io]):
        graph.operators.append(_quantize_operator(model, inner, outer))
    tflite_file.write(model, path)
    return litert.read_signature(path, signature), rewritten


def _replace_ends(model: Any, kind: str, dtype: int) -> list[tuple[int, int]]:
    """Replace the int8 and uint8 ``inputs`` or ``outputs`` by new tensors of ``dtype``.

    Returns the indices of each old and new tensor.
    """
    graph = model.subgraphs[0]
    ends = getattr(graph, kind)
    replaced = []
    for position, inner in enumerate(list(ends)):
        tensor = graph.tensors[inner]
        if tensor.type not in _TYPES.values() or tensor.type == dtype:
            continue
        if not _has_scale(tensor):
            continue
        graph.tensors.append(_shifted_copy(tensor, dtype))
        # The new tensor keeps the name that runtimes sort by.
        tensor.name = tensor.name + b"_inner"
        outer = len(graph.tensors) - 1
        ends[position] = outer
        for definition in model.signatureDefs or []:
            for entry in getattr(definition, kind):
                if definition.subgraphIndex == 0 and entry.tensorIndex == inner:
                    entry.tensorIndex = outer
        replaced.append((inner, outer))
    return replaced


def _shifted_copy(tensor: Any, dtype: int) -> Any:
    """A tensor of the other 8-bit dtype for the same numbers."""
    shift = _OFFSET if dtype == schema.TensorType.UINT8 else -_OFFSET
    zero_points = numpy.asarray(
        tensor.quantization.zeroPoint, dtype=numpy.int64
    )
    shifted = copy.deepcopy(tensor)
    shifted.type = dtype
    shifted.buffer = 0
    shifted.quantization.zeroPoint = zero_points + shift
    return shifted


def _has_scale(tensor: Any) -> bool:
    if tensor.quantization is None or tensor.quantization.scale is None:
        return False
    return len(tensor.quantization.scale) == 1


def _quantize_operator(model: Any, source: int, result: int) -> Any:
    """A QUANTIZE operator from one tensor to another."""
    operator = schema.OperatorT()
    operator.opcodeIndex = tflite_file.ensure_operator_code(
        model, schema.BuiltinOperator.QUANTIZE
    )
    operator.inputs = [source]
    operator.outputs = [result]
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    return operator


def _compile(
    compiler: str | None, path: pathlib.Path, folder: pathlib.Path
) -> tuple[dict[str, File], dict[str, Any]]:
    """The compiled file and its report, and notes; the notes say why if there is no file."""
    if compiler is None:
        return {}, _not_compiled(
            f"{COMPILER} is not installed (Google's own package archive has it, for Linux on "
            "x86-64)"
        )
    try:
        process = subprocess.run(
            [compiler, "-s", "-o", str(folder), str(path)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, _not_compiled(
            f"{COMPILER} did not finish within {TIMEOUT_S} s"
        )
    except OSError as error:
        reason = error.strerror or error
        return {}, _not_compiled(f"{COMPILER} cannot be started: {reason}")
    compiled = folder / f"{path.stem}_edgetpu.tflite"
    if process.returncode or not compiled.is_file():
        return {}, _not_compiled(f"{COMPILER} failed: {_explain(process)}")
    (folder / f"{path.stem}_edgetpu.log").unlink(missing_ok=True)
    log = edgetpu_log.parse(process.stdout)
    report = folder / f"{path.stem}.log.json"
    report.write_text(log.model_dump_json(indent=1), encoding="utf-8")
    files = {
        "compiled": File(path=compiled.name),
        "log": File(path=report.name),
    }
    notes = {
        "compiled": True,
        "compiler": log.version,
        "mapped_operators": log.mapped,
        "operators": log.total,
        "off_chip_bytes": log.off_chip_bytes,
    }
    return files, notes


def _not_compiled(reason: str) -> dict[str, Any]:
    return {"compiled": False, "why": reason}


def _explain(process: subprocess.CompletedProcess[str]) -> str:
    """The reason of a failure: a known one, or the compiler's last three lines."""
    failure = edgetpu_log.parse(f"{process.stdout}\n{process.stderr}").failure
    output = process.stderr.strip() or process.stdout.strip()
    last_lines = " ".join(output.splitlines()[-3:])
    return failure or last_lines or f"exit status {process.returncode}"
