"""What ONNX Runtime executes of an .ort file: the operators that the file stores, which
were optimized when it was made.

audit(artifact, limits)      # every part; layers are named after the source that lies
beside the file read(path, limits)           # any .ort file
"""

import dataclasses
import json
import pathlib
import sys
import tempfile

import onnx

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.errors import RunnerError
from edgekit.formats.onnx import audit as audit_onnx
from edgekit.formats.onnx import optimized as onnx_optimized
from edgekit.formats.onnx import provenance as onnx_file
from edgekit.formats.onnx.optimized import Optimized
from edgekit.formats.onnx.provenance import short
from edgekit.formats.ort import worker as ort_worker
from edgekit.target import Limits

HOW = "the graph as the .ort file stores it and a reduced build runs it; run once on zeros here, batch 1"


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Read every part. A file that another version of ONNX Runtime has made is told."""
    found = {
        part.name: stored(
            artifact.path(part),
            artifact.path(part, "source") if "source" in part.files else None,
        )
        for part in artifact.parts
    }
    made = {
        name: notes.get("onnxruntime", "")
        for name, notes in artifact.notes.get("parts", {}).items()
    }
    return _audit(found, limits, made)


def read(path: pathlib.Path, limits: Limits | None = None) -> Audit:
    """Read one .ort file, also one that edgekit did not make.

    Raises RunnerError for a file that cannot be read.
    """
    return _audit({path.stem: stored(path)}, limits or Limits(), {})


@dataclasses.dataclass(frozen=True)
class Stored(Optimized):
    """What an .ort file holds."""

    #: The version of its file format, and the one that the installed ONNX Runtime writes.
    #: Older runtimes refuse newer formats.
    format: str = ""
    installed_format: str = ""


def stored(path: pathlib.Path, source: pathlib.Path | None = None) -> Stored:
    """The operators of a file, as they ran here.

    ``source``: the ONNX file it was made from, which tells the modules of fused operators.
    """
    if not path.is_file():
        raise RunnerError(f"There is no file {path}.", fix="name an existing .ort file")
    with tempfile.TemporaryDirectory(prefix="edgekit-audit-") as name:
        folder = pathlib.Path(name)
        command = [
            sys.executable,
            "-I",
            "-W",
            "ignore",
            str(pathlib.Path(ort_worker.__file__)),
            str(path.resolve()),
            str(folder),
        ]
        onnx_optimized.work(command, path.name, [folder])
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        if answer["refused"]:
            format_told = (
                f", format {short(answer['format'], 20)}," if answer["format"] else ""
            )
            told = f"{path.name}{format_told} cannot be read with ONNX Runtime {answer['version']}: {short(answer['error'])}"
            raise RunnerError(
                told,
                fix="convert the ONNX file again, with the version of ONNX Runtime that is to run it",
            )
        graph = onnx.load(str(folder / "optimized.onnx"))
        events = (
            onnx_optimized.events(pathlib.Path(answer["profile"]))
            if not answer["error"]
            else {}
        )
    original = graph if source is None else onnx_file.check(source)[0]
    operators = onnx_optimized.operators(graph.graph, events, onnx_file.Origins(original))
    formats = {key: answer[key] for key in ("format", "installed_format")}
    return Stored(answer["version"], tuple(operators), short(answer["error"]), **formats)


def _audit(parts: dict[str, Stored], limits: Limits, made: dict[str, str]) -> Audit:
    found = audit_onnx.audit_parts(dict(parts), limits, HOW, x86=False)
    warnings = list(found.warnings)
    for name, part in parts.items():
        if part.format != part.installed_format:
            installed = f"ONNX Runtime {part.version} writes {part.installed_format}"
            warnings.append(
                f"{name}: its format is version {part.format}; {installed}. Make it with the version that is to run it."
            )
        if made.get(name, part.version) != part.version:
            warnings.append(
                f"{name}: ONNX Runtime {made[name]} made it, and {part.version} reads it here; a phone's older one may refuse it."
            )
    return dataclasses.replace(found, warnings=warnings)
