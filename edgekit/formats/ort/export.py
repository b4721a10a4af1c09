"""ONNX to ONNX Runtime's own format (.ort): optimized beforehand, with the list of operators
that a reduced build needs.

The optimizations that are stored are valid on every processor. uint8 activations, which
``lower_onnx`` writes for x86, are right for ARM too: all operators fuse with them, and ARM's
kernels exist for both types (MLAS, platform.cpp: ConvSymU8S8Dispatch, GemmU8S8Dispatch; UDOT
as well as SDOT).
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar

import onnx
import onnx.checker

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError, condense
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.ort import conversion as ort_conversion
from edgekit.formats.runtime_size import measure_runtime
from edgekit.task import SplitName

SCRIPT = pathlib.Path(ort_conversion.__file__)
TIMEOUT_S = 600
#: The files are compared on so many samples; the second is no multiple of the first.
SIZES = (2, 5)
#: The largest difference, as a share of the range of the outputs: two steps of 1/255 if
#: integers are rounded, else what float arithmetic leaves.
_QUANTIZED, _FLOAT = 2 / 255, 1e-4


@dataclasses.dataclass(frozen=True)
class OnnxToOrt:
    """Convert to ``<part>.ort`` (role ``model``), ``<part>.required_operators.config`` (role
    ``operators``: what a reduced build of ONNX Runtime needs), and keep the ONNX file (role
    ``source``).
    """

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "ort"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Raise StepError if the ONNX checker refuses a file, such as one with weights outside
        its folder, which the runtime would read.
        """
        for part in artifact.parts:
            try:
                onnx.checker.check_model(str(artifact.path(part)))
            except (
                onnx.checker.ValidationError,
                ValueError,
                RuntimeError,
            ) as error:
                raise StepError(
                    f"{part.name} is not a valid ONNX file: {condense(error)}",
                    fix="export it again",
                ) from error

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert all parts; on failure nothing is left in the folder."""
        parts: list[Part] = []
        notes: dict[str, Any] = {}
        context.progress.expect(len(artifact.parts))
        try:
            for part in artifact.parts:
                converted, notes[part.name] = _convert(
                    artifact, part, context.folder
                )
                parts.append(converted)
                context.progress.advance(note=part.name)
        except BaseException:
            for (
                path
            ) in context.folder.iterdir():  # it was empty when the step began
                path.unlink()
            raise
        return Artifact(
            format="ort",
            parts=tuple(parts),
            notes={"parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Raise StepError unless both files compute the same for two batch sizes, as far as
        rounding allows.
        """
        for old, new in zip(before.parts, after.parts, strict=True):
            source = before.path(old)
            request = {
                "onnx": str(source.resolve()),
                "ort": str(after.path(new).resolve()),
                "sizes": list(SIZES),
            }
            comparison = run_conversion(request, new.name, after.folder)
            rounds = _rounds(onnx_graph.read(source).graph)
            allowed = (_QUANTIZED if rounds else _FLOAT) * comparison["range"]
            largest = max(comparison["differences"])
            if largest > allowed:
                raise StepError(
                    f"{new.name}: the .ort file differs from the ONNX file by {largest:.3g}"
                    f" (allowed: {allowed:.3g}).",
                    fix="report it with the network; until then ship the target's ONNX file",
                )


def parse_operators(config: str) -> tuple[str, ...]:
    """Return the operators in a list for reduced builds, as ``domain:operator``; ONNX's own
    without a domain.

    A line is ``domain;opset;Operator{types},Operator``; the types are JSON.
    """
    operators = set()
    for line in config.splitlines():
        domain, opset, names = [*line.split(";", 2), "", ""][:3]
        if not opset.isdigit():
            continue
        for name in _without_braces(names).split(","):
            if name:
                operators.add(
                    name if domain == "ai.onnx" else f"{domain}:{name}"
                )
    return tuple(sorted(operators))


def run_conversion(
    request: Mapping[str, Any],
    name: str,
    folder: pathlib.Path,
    timeout_s: float = TIMEOUT_S,
    script: pathlib.Path = SCRIPT,
) -> dict[str, Any]:
    """Run conversion.py in ``folder`` and return its answer.

    ``name``: the part, for errors. Raises StepError if the process fails, crashes or takes
    longer than ``timeout_s``.
    """
    inherited = ("LD_LIBRARY_PATH", "SYSTEMROOT")
    environment = {
        key: os.environ[key] for key in inherited if key in os.environ
    }
    # Always the same, so that the process always has the same memory layout.
    environment["PYTHONHASHSEED"] = "0"
    try:
        result = subprocess.run(
            [sys.executable, "-s", "-P", "-W", "ignore", str(script)],
            input=json.dumps(dict(request)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=folder,
            env=environment,
        )
        answer: dict[str, Any] = json.loads(result.stdout)
    except subprocess.TimeoutExpired as error:
        raise StepError(
            f"{name}: the conversion took longer than {timeout_s:g} s and was stopped.",
            fix="convert it on a faster machine",
        ) from error
    except json.JSONDecodeError as error:
        raise _crash(name, result) from error
    if not answer["ok"]:
        raise StepError(
            f"{name}: ONNX Runtime cannot convert to .ort: {answer['error']}.",
            fix="choose another scheme for this target, or export the network again",
        )
    return answer


def _convert(
    artifact: Artifact, part: Part, folder: pathlib.Path
) -> tuple[Part, dict[str, Any]]:
    """Write the files of one part; return the part and its notes."""
    files = {
        "model": f"{part.name}.ort",
        "operators": f"{part.name}.required_operators.config",
        "source": f"{part.name}.onnx",
    }
    with tempfile.TemporaryDirectory(prefix="edgekit-ort-") as name:
        workspace = pathlib.Path(name)
        shutil.copyfile(artifact.path(part), workspace / files["source"])
        request = {
            "onnx": files["source"],
            "ort": files["model"],
            "operators": files["operators"],
        }
        answer = run_conversion(request, part.name, workspace)
        for file in files.values():
            shutil.copyfile(workspace / file, folder / file)
    config = (folder / files["operators"]).read_text(encoding="utf-8")
    operators = parse_operators(config)
    size = measure_runtime(
        "onnxruntime",
        "libonnxruntime.so",
        len(operators),
        answer["all_operators"],
    )
    notes = {
        "onnxruntime": answer["onnxruntime"],
        "format": answer["format"],
        "needs": list(operators),
        **size,
    }
    roles = {role: File(path=file) for role, file in files.items()}
    return part.model_copy(update={"files": roles}), notes


def _without_braces(text: str) -> str:
    """Remove everything in braces."""
    outside = ""
    depth = 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if depth == 0 and letter != "}":
            outside += letter
    return outside


def _crash(name: str, result: subprocess.CompletedProcess[str]) -> StepError:
    ended = f"status {result.returncode}"
    if result.returncode < 0:
        ended = f"signal {-result.returncode}"
    lines = result.stderr.strip().splitlines() or ["no message"]
    return StepError(
        f"{name}: the conversion ended with {ended}: {condense(lines[-1])}.",
        fix="free some memory and try again; if it fails again, report the network",
    )


def _rounds(graph: onnx.GraphProto) -> bool:
    """Whether the graph computes with integers, half floats or packed weights, which each
    runtime may round differently.
    """
    small = {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
    }
    return any(tensor.data_type in small for tensor in graph.initializer)
