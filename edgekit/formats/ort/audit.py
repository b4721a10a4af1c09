"""What ONNX Runtime executes of an .ort file: the operators that the file stores, which were
optimized when it was converted.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile

import onnx

from edgekit.artifact import Artifact
from edgekit.contracts import Audit
from edgekit.errors import RunnerError, condense
from edgekit.formats.onnx import audit as audit_onnx
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import optimized as onnx_optimized
from edgekit.formats.onnx.optimized import Optimized
from edgekit.formats.onnx.provenance import NodeProvenance
from edgekit.formats.ort import worker as ort_worker
from edgekit.target import Limits

HOW = (
    "the graph as the .ort file stores it and a reduced build runs it; run once on zeros here,"
    " batch 1"
)


@dataclasses.dataclass(frozen=True)
class Stored(Optimized):
    """An .ort file as it stores its graph."""

    #: The version of its file format, and the one that the installed ONNX Runtime writes.
    #: Older runtimes refuse newer formats.
    format: str = ""
    installed_format: str = ""


def audit(artifact: Artifact, limits: Limits) -> Audit:
    """Audit every part; warn if another version of ONNX Runtime converted it.

    Layers are named after the ONNX file next to it (role ``source``). Raises RunnerError for a
    file that cannot be read.
    """
    parts: dict[str, Stored] = {}
    for part in artifact.parts:
        source = (
            artifact.path(part, "source") if "source" in part.files else None
        )
        parts[part.name] = read_stored(artifact.path(part), source)
    converted_by = {
        name: notes.get("onnxruntime", "")
        for name, notes in artifact.notes.get("parts", {}).items()
    }
    return _audit(parts, limits, converted_by)


def read(path: pathlib.Path, limits: Limits | None = None) -> Audit:
    """Audit one .ort file of any origin.

    Raises RunnerError for a file that cannot be read.
    """
    return _audit({path.stem: read_stored(path)}, limits or Limits(), {})


def read_stored(
    path: pathlib.Path, source: pathlib.Path | None = None
) -> Stored:
    """Return the operators of a file, as they ran here.

    ``source``: the ONNX file that it was converted from, which names the modules of fused
    operators. Raises RunnerError for a file that cannot be read.
    """
    if not path.is_file():
        raise RunnerError(
            f"{path} does not exist.", fix="name an existing .ort file"
        )
    with tempfile.TemporaryDirectory(prefix="edgekit-audit-") as name:
        folder = pathlib.Path(name)
        script = str(pathlib.Path(ort_worker.__file__))
        command = [sys.executable, "-I", "-W", "ignore", script]
        command += [str(path.resolve()), str(folder)]
        onnx_optimized.run_worker(command, path.name, [folder])
        answer = json.loads(
            (folder / "answer.json").read_text(encoding="utf-8")
        )
        reason = condense(answer["error"])
        if answer["refused"]:
            version = condense(answer["format"], 20)
            file = f"{path.name} (format {version})" if version else path.name
            raise RunnerError(
                f"ONNX Runtime {answer['version']} cannot read {file}: {reason}",
                fix="convert the ONNX file again, with the version of ONNX Runtime that is to"
                " run it",
            )
        model = onnx.load(str(folder / "optimized.onnx"))
        profile = {}
        if not answer["error"]:
            profile = onnx_optimized.read_profile(
                pathlib.Path(answer["profile"])
            )
    original = model if source is None else onnx_graph.read_any(source)[0]
    operators = onnx_optimized.list_operators(
        model.graph, profile, NodeProvenance(original)
    )
    return Stored(
        answer["version"],
        tuple(operators),
        reason,
        format=answer["format"],
        installed_format=answer["installed_format"],
    )


def _audit(
    parts: dict[str, Stored], limits: Limits, converted_by: dict[str, str]
) -> Audit:
    audited = audit_onnx.audit_parts(dict(parts), limits, HOW, x86=False)
    warnings = list(audited.warnings)
    for name, part in parts.items():
        if part.format != part.installed_format:
            warnings.append(
                f"{name}: its format is version {part.format}; ONNX Runtime {part.version}"
                f" writes {part.installed_format}. Convert it with the version that is to run"
                " it."
            )
        converter = converted_by.get(name, part.version)
        if converter != part.version:
            warnings.append(
                f"{name}: converted by ONNX Runtime {converter} and read here by"
                f" {part.version}; an older one on a phone may refuse it."
            )
    return dataclasses.replace(audited, warnings=warnings)
