"""Build TensorRT engines from ONNX, each in a separate process, and check them against the
builder's own log.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import MissingBackend, StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt import build as tensorrt_build
from edgekit.formats.tensorrt.batches import Batches
from edgekit.formats.tensorrt.graph import describe_graph, profile_shapes
from edgekit.formats.tensorrt.nvidia import DISPLAY_NAMES
from edgekit.formats.tensorrt.parser_errors import translate_errors
from edgekit.registry import install, installed
from edgekit.task import SplitName

Row = dict[str, Any]

SCRIPT = pathlib.Path(tensorrt_build.__file__)
#: A build takes seconds for a small network and some minutes for a large one.
TIMEOUT_S = 1800.0
#: TensorRT-RTX builds without a GPU, so it is preferred if both are installed.
MODULES = ("tensorrt_rtx", "tensorrt")


@dataclasses.dataclass(frozen=True)
class OnnxToTensorrt(Batches):
    """Builds an engine for each part. One engine runs on all ``compute_capabilities``
    (``SM86``, ``8.6``); if there are none, TensorRT chooses.

    A graph with a free batch gets one profile, 1 to ``max_batch`` samples, and those of
    ``profiles``.
    """

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "tensorrt"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("onnx", "tensorrt-rtx", "tensorrt")
    reads: ClassVar[tuple[SplitName, ...]] = ()
    step: ClassVar[str] = "onnx_to_tensorrt"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Build each part in a separate process; if one fails, the folder is left empty."""
        module = _find_module()
        parts = []
        notes = {}
        context.progress.expect(len(artifact.parts))
        try:
            for part in artifact.parts:
                built, log = self._build(artifact, part, context.folder, module)
                context.progress.advance(note=part.name)
                parts.append(built)
                notes[part.name] = _summarize(log)
        except BaseException:
            for (
                path
            ) in context.folder.iterdir():  # it was empty when the step started
                path.unlink()
            raise
        return Artifact(
            format="tensorrt",
            parts=tuple(parts),
            notes={"tensorrt": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The engines are not empty, and what the graph has in 8 bits runs in 8 bits."""
        for part in after.parts:
            if after.path(part, "engine").stat().st_size == 0:
                raise StepError(
                    f"onnx_to_tensorrt: the engine of {part.name!r} is empty.",
                    fix="build again; if it happens again, report the graph",
                )
            log = json.loads(
                after.path(part, "log").read_text(encoding="utf-8")
            )
            broken = _find_broken_layers(log)
            if not log["layers"]:
                broken = broken or ["the build log lists no layers"]
            if log["quantized"] and broken:
                gpus = ", ".join(log["compute_capabilities"]) or "this GPU"
                rows = "\n  ".join(broken)
                raise StepError(
                    f"onnx_to_tensorrt: the graph of {part.name!r} is "
                    f"{DISPLAY_NAMES[log['precision']]}, but not its engine for {gpus}:"
                    f"\n  {rows}",
                    fix="remove SM75 from the target's compute_capabilities (its convolutions "
                    "fall back to half floats), or use the scheme fp16",
                )

    def _build(
        self, artifact: Artifact, part: Part, folder: pathlib.Path, module: str
    ) -> tuple[Part, Row]:
        """Build the engine of one part; return the part and its log."""
        source = artifact.path(part)
        model = onnx_graph.read(source)
        files = {
            "engine": File(path=f"{part.name}.engine"),
            "model": File(path=f"{part.name}.onnx"),
            "log": File(path=f"{part.name}.log.json"),
        }
        request = {
            "module": module,
            "onnx": str(source.resolve()),
            "engine": str((folder / files["engine"].path).resolve()),
            "compute_capabilities": list(self.compute_capabilities),
            "profiles": profile_shapes(model.graph, self.batches),
        }
        response = run_build(request)
        if not response["ok"]:
            raise translate_errors(response, part, model.graph)
        shutil.copyfile(source, folder / files["model"].path)
        log = {
            **response,
            "compute_capabilities": request["compute_capabilities"],
            "profiles": request["profiles"],
            **describe_graph(model),
        }
        attribute_nodes(log["layers"], log["node_macs"])
        text = json.dumps(log, indent=1)
        (folder / files["log"].path).write_text(text, encoding="utf-8")
        return Part(name=part.name, signature=part.signature, files=files), log


def run_build(
    request: Mapping[str, Any],
    timeout_s: float = TIMEOUT_S,
    command: Sequence[str] = (sys.executable, str(SCRIPT), "-"),
) -> Row:
    """Run one build and return its response (see build.py).

    Raises StepError if the process exceeds the timeout or ends without a response.
    """
    engine = pathlib.Path(request["engine"])
    try:
        process = subprocess.run(
            command,
            input=json.dumps(dict(request)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        _remove(engine)
        raise StepError(
            f"onnx_to_tensorrt: the build did not finish within {timeout_s:g} s.",
            fix="build on a faster machine, or a smaller network",
        ) from error
    try:
        response: Row = json.loads(process.stdout)
    except json.JSONDecodeError as error:
        _remove(engine)
        status = f"status {process.returncode}"
        if process.returncode < 0:
            status = f"signal {-process.returncode}"
        tail = (
            "\n  ".join(process.stderr.strip().splitlines()[-5:]) or "no output"
        )
        raise StepError(
            f"onnx_to_tensorrt: the build process ended with {status}:\n  {tail}",
            fix="free some memory and try again; if it happens again, report the graph",
        ) from error
    if not response["ok"]:
        _remove(engine)
    return response


def attribute_nodes(rows: list[Row], node_macs: Mapping[str, int]) -> None:
    """Add to each layer row the ONNX nodes that it computes (``nodes``) and their
    multiply-accumulates at batch 1 (``macs``), in place.

    A node belongs to the conv, deconv and gemm layers that name it as their origin, in
    equal shares. If there are none, it belongs to the first generated kernel that names it,
    which then gets the kind ``kernel``.
    """
    for row in rows:
        row["nodes"] = []
        row["macs"] = 0
    for node, macs in node_macs.items():
        naming = [row for row in rows if node in row["origins"]]
        owners = [
            row for row in naming if row["kind"] not in ("", "kernel")
        ] or naming[:1]
        for index, row in enumerate(owners):
            share = macs // len(owners)
            remainder = macs % len(owners) if index == 0 else 0
            row["kind"] = row["kind"] or "kernel"
            row["nodes"].append(node)
            row["macs"] += share + remainder


def _summarize(log: Row) -> Row:
    layers = [
        f"{row['kind']} {row['dtype']}" for row in log["layers"] if row["kind"]
    ]
    return {
        "builder": f"{log['module']} {log['version']}",
        "compute_capabilities": log["compute_capabilities"],
        "profiles": log["profiles"],
        "layers": dict(Counter(layers)),
        "weights_bytes": log["memory"].get("weights"),
        "engine_bytes": log["engine_bytes"],
        "warnings": log["warnings"],
    }


def _find_broken_layers(log: Row) -> list[str]:
    """The layers that should multiply in 8 bits and do not.

    Dequantized 4-bit weights are reported by the audit: their numbers are the same.
    """
    rows = [{**row, "origins": row["nodes"]} for row in log["layers"]]
    return tensorrt_build.find_broken_layers(rows, log["promised"])


def _find_module() -> str:
    for module in MODULES:
        if installed(module):
            return module
    raise MissingBackend(
        "The step 'onnx_to_tensorrt' requires the package 'tensorrt_rtx' or 'tensorrt'.",
        fix=install("tensorrt-rtx"),
    )


def _remove(engine: pathlib.Path) -> None:
    for path in (engine, engine.with_name(engine.name + ".partial")):
        path.unlink(missing_ok=True)
