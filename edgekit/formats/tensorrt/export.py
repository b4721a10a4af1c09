"""ONNX to a TensorRT engine, built in a process of its own and proved by the builder's own
log.
"""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import onnx

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import MissingBackend, StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt import build as tensorrt_build
from edgekit.formats.tensorrt.batches import Batches
from edgekit.formats.tensorrt.graph import REQUANTIZE, WORDS, facts, name_of, profiles
from edgekit.registry import install, installed
from edgekit.task import SplitName

Row = dict[str, Any]

SCRIPT = pathlib.Path(tensorrt_build.__file__)
#: A build takes seconds for a small network and some minutes for a large one; one that
#: takes longer hangs.
TIMEOUT_S = 1800.0
#: TensorRT-RTX builds with no GPU, so it is taken where both are installed.
MODULES = ("tensorrt_rtx", "tensorrt")
#: What TensorRT writes -> what it means, and the way out. The first row that matches is
#: told.
_TRANSLATIONS: tuple[tuple[str, str, str], ...] = (
    (
        r"SM\w+ (is not a compute capability|was refused)",
        "this TensorRT cannot build for that compute capability",
        "take it out of the target's compute_capabilities; for a Jetson or a data-center GPU build on the device itself with its own TensorRT",
    ),
    (
        r"FP32 GEMM is not supported",
        "SM75 (Turing) has no float32 matrix multiplication",
        "use the scheme fp16, or take SM75 out of the target's compute_capabilities",
    ),
    (
        r"HW-specific datatypes: (\w+)",
        "one of the compute capabilities has no arithmetic for a datatype of the graph (fp8 needs SM89, 4-bit weights SM80)",
        "use the scheme fp16, or take the older compute capability out of the target's compute_capabilities",
    ),
    (
        r"has type Int32 but must have type",
        "a bias is quantized to int32, which TensorRT cannot read",
        REQUANTIZE,
    ),
    (r"shiftIsAllZeros|Non-zero zero point", "a zero point is not 0", REQUANTIZE),
    (
        r"Defaulting to INT8 instead",
        "the graph is quantized to uint8; TensorRT would take it for int8 and compute other numbers",
        REQUANTIZE,
    ),
    (
        r"Failed to import initializer",
        "TensorRT cannot read the datatype of a weight (int16 is one of those)",
        REQUANTIZE,
    ),
    (
        r"Scatter\w+ with reduction",
        "TensorRT has no scatter with a reduction (index_add, scatter_add, index_put with accumulate)",
        "write it as a matrix product with a one-hot or a dense adjacency matrix",
    ),
    (
        r"Plugin not found|plugin creator",
        "TensorRT does not know this operator, and no plugin has it",
        "write the network without it, or with standard operators",
    ),
    (
        r"no optimization profile has been defined|missing dimensions in profile|MIN<=OPT<=MAX",
        "the free shapes of the graph and the profile do not agree",
        "export with the batch as the only free dimension, and a max_batch of at least 1",
    ),
    (
        r"cudaError 35|CUDA driver version is insufficient|no CUDA-capable device|returned nullptr",
        "classic TensorRT builds only where an NVIDIA GPU is",
        "build on the machine with the GPU, or install tensorrt-rtx, which builds with none",
    ),
    (
        r"UNSUPPORTED_NODE|checkDet|^false$",
        "TensorRT does not have this operator",
        "write the network without it",
    ),
)


@dataclasses.dataclass(frozen=True)
class OnnxToTensorrt(Batches):
    """Build an engine for each part, for every compute capability named (``SM86``,
    ``8.6``); one engine runs on all of them.

    A graph with a free batch gets one profile, 1 to ``max_batch`` samples, and those of
    ``profiles``. No capability named: TensorRT's own choice.
    """

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "tensorrt"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("onnx", "tensorrt-rtx", "tensorrt")
    reads: ClassVar[tuple[SplitName, ...]] = ()
    step: ClassVar[str] = "onnx_to_tensorrt"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Build each part in a process of its own; nothing is left in the folder where one
        fails.
        """
        module = _module()
        parts, notes = [], {}
        try:
            context.progress.expect(len(artifact.parts))
            for part in artifact.parts:
                built, log = self._build(artifact, part, context.folder, module)
                context.progress.advance(note=part.name)
                parts.append(built)
                notes[part.name] = _summary(log)
        except BaseException:
            for path in context.folder.iterdir():  # it was empty when the step began
                path.unlink()
            raise
        return Artifact(
            format="tensorrt",
            parts=tuple(parts),
            notes={"tensorrt": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The engines hold something, and what the graph has in 8 bits runs in 8 bits."""
        for part in after.parts:
            if after.path(part, "engine").stat().st_size == 0:
                raise StepError(
                    f"onnx_to_tensorrt: the engine of {part.name!r} is empty.",
                    fix="build again; if it stays, report the graph",
                )
            log = json.loads(after.path(part, "log").read_text(encoding="utf-8"))
            broken = _broken(log)
            if log["quantized"] and (broken or not log["layers"]):
                rows = broken or ["the build log lists no layers"]
                raise StepError(
                    f"onnx_to_tensorrt: the graph of {part.name!r} is {WORDS[log['precision']]}, but not its engine for {_told(log)}:\n  "
                    + "\n  ".join(rows),
                    fix="take SM75 out of the target's compute_capabilities (its convolutions fall back to half floats), or use the scheme fp16",
                )

    def _build(
        self, artifact: Artifact, part: Part, folder: pathlib.Path, module: str
    ) -> tuple[Part, Row]:
        source = artifact.path(part)
        model = onnx_graph.read(source)
        files = {
            "engine": f"{part.name}.engine",
            "model": f"{part.name}.onnx",
            "log": f"{part.name}.log.json",
        }
        request = {
            "module": module,
            "onnx": str(source.resolve()),
            "engine": str((folder / files["engine"]).resolve()),
            "compute_capabilities": list(self.compute_capabilities),
            "profiles": profiles(model.graph, self.batches),
        }
        answer = build(request)
        if not answer["ok"]:
            raise _translated(answer, part, model.graph)
        shutil.copyfile(source, folder / files["model"])
        log = {
            **answer,
            "compute_capabilities": request["compute_capabilities"],
            "profiles": request["profiles"],
            **facts(model),
        }
        attribute(log["layers"], log["node_macs"])
        (folder / files["log"]).write_text(json.dumps(log, indent=1), encoding="utf-8")
        return Part(
            name=part.name,
            signature=part.signature,
            files={role: File(path=path) for role, path in files.items()},
        ), log


def build(
    request: Mapping[str, Any],
    timeout_s: float = TIMEOUT_S,
    command: Sequence[str] = (sys.executable, str(SCRIPT), "-"),
) -> Row:
    """The answer of one build (see build.py), or StepError where its process hangs or dies."""
    engine = pathlib.Path(request["engine"])
    try:
        done = subprocess.run(
            command,
            input=json.dumps(dict(request)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        _clean(engine)
        message = (
            f"onnx_to_tensorrt: the build took longer than {timeout_s:g} s and was ended."
        )
        raise StepError(
            message, fix="build on a faster machine, or a smaller network"
        ) from error
    try:
        answer: Row = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        _clean(engine)
        ended = (
            f"signal {-done.returncode}"
            if done.returncode < 0
            else f"status {done.returncode}"
        )
        said = "\n  ".join(done.stderr.strip().splitlines()[-5:]) or "nothing was said"
        message = f"onnx_to_tensorrt: the build process ended with {ended}:\n  {said}"
        raise StepError(
            message, fix="free some memory and try again; if it stays, report the graph"
        ) from error
    if not answer["ok"]:
        _clean(engine)
    return answer


def attribute(rows: list[Row], node_macs: Mapping[str, int]) -> None:
    """Give each layer row the ONNX nodes that it computes (``nodes``) and their
    multiply-accumulates at batch 1 (``macs``).

    A node belongs to the conv, deconv and gemm layers that name it as their origin, in
    equal shares; where none does, to the first generated kernel that names it, which then
    gets the kind ``kernel``.
    """
    for row in rows:
        row["nodes"], row["macs"] = [], 0
    for node, macs in node_macs.items():
        naming = [row for row in rows if node in row["origins"]]
        takers = [row for row in naming if row["kind"] not in ("", "kernel")] or naming[:1]
        for index, row in enumerate(takers):
            row["kind"] = row["kind"] or "kernel"
            row["nodes"].append(node)
            row["macs"] += macs // len(takers) + (macs % len(takers) if index == 0 else 0)


def _summary(log: Row) -> Row:
    precisions: dict[str, int] = {}
    for row in log["layers"]:
        if row["kind"]:
            precisions[f"{row['kind']} {row['dtype']}"] = (
                precisions.get(f"{row['kind']} {row['dtype']}", 0) + 1
            )
    return {
        "builder": f"{log['module']} {log['version']}",
        "compute_capabilities": log["compute_capabilities"],
        "profiles": log["profiles"],
        "layers": precisions,
        "weights_bytes": log["memory"].get("weights"),
        "engine_bytes": log["engine_bytes"],
        "warnings": log["warnings"],
    }


def _broken(log: Row) -> list[str]:
    """The layers that should multiply in 8 bits and do not.

    Where 4-bit weights are made float first the audit tells; the numbers are the same.
    """
    return tensorrt_build.broken(
        [{**row, "origins": row["nodes"]} for row in log["layers"]], log["promised"]
    )


def _told(log: Row) -> str:
    return ", ".join(log["compute_capabilities"]) or "this GPU"


def _module() -> str:
    for module in MODULES:
        if installed(module):
            return module
    raise MissingBackend(
        "The step 'onnx_to_tensorrt' needs the package 'tensorrt_rtx' or 'tensorrt'.",
        fix=install("tensorrt-rtx"),
    )


def _clean(engine: pathlib.Path) -> None:
    for path in (engine, engine.with_name(engine.name + ".partial")):
        path.unlink(missing_ok=True)


def _translated(
    answer: Row, part: Part, graph: onnx.GraphProto
) -> StepError | MissingBackend:
    """TensorRT's refusal in the user's words: every node that it names, and the ones that
    the parser did not reach.
    """
    if answer["stage"] == "import":
        return MissingBackend(
            f"{answer['module']} cannot be loaded: {answer['errors'][0]['text']}",
            fix=install("tensorrt-rtx"),
        )
    rows, fixes = [], []
    named = {error.get("node") for error in answer["errors"]}
    for error in answer["errors"]:
        text = f"{error.get('code', '')} {error['text']}".strip()
        meaning, fix = next(
            (
                (told, way)
                for pattern, told, way in _TRANSLATIONS
                if re.search(pattern, text)
            ),
            ("", ""),
        )
        where = (
            f"{error['node']} [{error['op']}]{_module_of(error['node'])}: "
            if error.get("node")
            else ""
        )
        first = error["text"].splitlines()[0] if error["text"] else "no reason given"
        rows.append(f"{where}{meaning} ({first})" if meaning else f"{where}{first}")
        fixes += [fix] if fix else []
    if answer["stage"] == "parse":  # an error while a node is imported ends the parsing
        known = [
            f"{name_of(node)} [{node.op_type}]{_module_of(node.name)}: refused too"
            for node in onnx_graph.nodes(graph)
            if name_of(node) not in named and _is_refused(node, answer["module"])
        ]
        rows += known
    fix = (
        "; ".join(dict.fromkeys(fixes))
        or "ship the ONNX file to this device with ONNX Runtime, or report the graph"
    )
    listing = "\n  ".join(dict.fromkeys(rows)) or "no reason was given"
    doing = {"parse": "read the graph", "capability": "build for these GPUs"}.get(
        answer["stage"], "build the engine"
    )
    return StepError(
        f"onnx_to_tensorrt: {answer['module']} {answer['version']} cannot {doing} of {part.name!r}:\n  {listing}",
        fix=fix,
    )


def _module_of(name: str) -> str:
    """The PyTorch module behind a node of our exports, whose names are
    ``module.path/Operator``.
    """
    path = name.rpartition("/")[0]
    return f" in the module {path}" if path else ""


def _is_refused(node: onnx.NodeProto, module: str) -> bool:
    """True for the nodes that are known to be refused (measured with TensorRT-RTX 1.7.1)."""
    reduces = any(
        attribute.name == "reduction" and attribute.s not in (b"", b"none")
        for attribute in node.attribute
    )
    return (
        (node.op_type.startswith("Scatter") and reduces)
        or node.op_type in ("DFT", "Det")
        or (
            module == "tensorrt_rtx"
            and (
                node.op_type == "NonZero"
                or node.domain not in ("", "ai.onnx", "com.microsoft")
            )
        )
    )
