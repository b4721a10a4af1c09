"""ONNX to ONNX Runtime's own format (.ort): optimized beforehand, with the list of
operators that a reduced build needs.

The optimizations that are stored are those that hold on every processor. uint8 activations,
which ``lower_onnx`` makes for x86, are right for ARM too: all operators fuse with them, and
ARM's kernels exist for both types (MLAS, platform.cpp: ConvSymU8S8Dispatch,
GemmU8S8Dispatch; UDOT beside SDOT).
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
from edgekit.errors import StepError
from edgekit.formats import runtime_size
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.ort import conversion as ort_conversion
from edgekit.task import SplitName

SCRIPT = pathlib.Path(ort_conversion.__file__)
TIMEOUT_S = 600
#: The files are compared on so many samples; the second is no multiple of the first.
SIZES = (2, 5)
#: The largest difference, of the range of the outputs: two steps of 1/255 where integers
#: are rounded, else what float arithmetic leaves.
_QUANTIZED, _FLOAT = 2 / 255, 1e-4


@dataclasses.dataclass(frozen=True)
class OnnxToOrt:
    """Writes ``<part>.ort`` (role ``model``), ``<part>.required_operators.config`` (role
    ``operators``: what a reduced build of ONNX Runtime needs) and the ONNX file it comes
    from (role ``source``).
    """

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "ort"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """Files that the ONNX checker passes: it refuses weights outside of the file's
        folder, which the runtime would read.
        """
        for part in artifact.parts:
            try:
                onnx.checker.check_model(str(artifact.path(part)))
            except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
                raise StepError(
                    f"{part.name}: the ONNX checker refuses the file: {onnx_graph.first_line(error)}",
                    fix="export it again",
                ) from error

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert part after part; nothing is left in the folder where one fails."""
        parts: list[Part] = []
        notes: dict[str, Any] = {}
        context.progress.expect(len(artifact.parts))
        try:
            for part in artifact.parts:
                made, notes[part.name] = _converted(artifact, part, context.folder)
                parts.append(made)
                context.progress.advance(note=part.name)
        except BaseException:
            for path in context.folder.iterdir():  # it was empty when the step began
                path.unlink()
            raise
        return Artifact(
            format="ort", parts=tuple(parts), notes={"parts": notes}, folder=context.folder
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Both files give the same for two numbers of samples, as far as rounding allows."""
        for old, new in zip(before.parts, after.parts, strict=True):
            source = before.path(old)
            asked = {
                "onnx": str(source.resolve()),
                "ort": str(after.path(new).resolve()),
                "sizes": list(SIZES),
            }
            found = answer(asked, new.name, after.folder)
            allowed = (
                _QUANTIZED if _rounds(onnx_graph.read(source).graph) else _FLOAT
            ) * found["range"]
            if max(found["differences"]) > allowed:
                raise StepError(
                    f"{new.name}: the .ort file differs from the ONNX file by {max(found['differences']):.3g} (allowed: {allowed:.3g}).",
                    fix="report it with the network; until then ship the target's ONNX file",
                )


def _converted(
    artifact: Artifact, part: Part, folder: pathlib.Path
) -> tuple[Part, dict[str, Any]]:
    files = {
        "model": f"{part.name}.ort",
        "operators": f"{part.name}.required_operators.config",
        "source": f"{part.name}.onnx",
    }
    with tempfile.TemporaryDirectory(prefix="edgekit-ort-") as name:
        work = pathlib.Path(name)
        shutil.copyfile(artifact.path(part), work / files["source"])
        found = answer(
            {
                "onnx": files["source"],
                "ort": files["model"],
                "operators": files["operators"],
            },
            part.name,
            work,
        )
        for file in files.values():
            shutil.copyfile(work / file, folder / file)
    needed = operators((folder / files["operators"]).read_text(encoding="utf-8"))
    size = runtime_size.measured(
        "onnxruntime", "libonnxruntime.so", len(needed), found["all_operators"]
    )
    notes = {
        "onnxruntime": found["onnxruntime"],
        "format": found["format"],
        "needs": list(needed),
        **size,
    }
    return part.model_copy(
        update={"files": {role: File(path=name) for role, name in files.items()}}
    ), notes


def operators(config: str) -> tuple[str, ...]:
    """The operators that a list for reduced builds names, as ``domain:operator``; ONNX's
    own without a domain.
    """
    found = set()
    for line in config.splitlines():
        domain, opset, names = [*line.split(";", 2), "", ""][:3]
        if opset.isdigit():
            plain, depth = "", 0
            for letter in names:  # types are told in braces behind a name
                depth += (letter == "{") - (letter == "}")
                plain += letter if depth == 0 and letter != "}" else ""
            found |= {
                name if domain == "ai.onnx" else f"{domain}:{name}"
                for name in plain.split(",")
                if name
            }
    return tuple(sorted(found))


def answer(
    request: Mapping[str, Any],
    name: str,
    folder: pathlib.Path,
    timeout_s: float = TIMEOUT_S,
    script: pathlib.Path = SCRIPT,
) -> dict[str, Any]:
    """What conversion.py answers, working in ``folder``; StepError where its process fails,
    hangs or dies.
    """
    # Always the same, so that the process has its memory always in the same places.
    environment = {
        "PYTHONHASHSEED": "0",
        **{
            key: os.environ[key]
            for key in ("LD_LIBRARY_PATH", "SYSTEMROOT")
            if key in os.environ
        },
    }
    try:
        done = subprocess.run(
            [sys.executable, "-s", "-P", "-W", "ignore", str(script)],
            input=json.dumps(dict(request)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=folder,
            env=environment,
        )
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        told = f"{name}: the conversion took longer than {timeout_s:g} s and was ended."
        raise StepError(told, fix="convert it on a faster machine") from error
    except json.JSONDecodeError as error:
        ended = (
            f"signal {-done.returncode}"
            if done.returncode < 0
            else f"status {done.returncode}"
        )
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1][:240]
        told = f"{name}: the conversion ended with {ended}: {last}."
        raise StepError(
            told, fix="free some memory and try again; if it stays, report the network"
        ) from error
    if not found["ok"]:
        raise StepError(
            f"{name}: ONNX Runtime cannot make the .ort file: {found['error']}.",
            fix="take another scheme for this target, or export the network again",
        )
    return found


def _rounds(graph: onnx.GraphProto) -> bool:
    """Whether the graph computes with integers, half floats or packed weights, which each
    runtime may round its own way.
    """
    small = {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    return any(tensor.data_type in small for tensor in graph.initializer)
