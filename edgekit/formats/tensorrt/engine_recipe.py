"""Export ONNX to what a device builds its TensorRT engine from: the graph, a recipe, and a
script for the device's own Python.

An engine runs only on the GPU architecture and the TensorRT version that it was built with,
and TensorRT-RTX builds for no Jetson and no data-center GPU: there the engine is built on
the device.
"""

import ast
import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, ClassVar

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt import trtexec
from edgekit.formats.tensorrt.batches import Batches
from edgekit.formats.tensorrt.graph import describe_graph, profile_shapes
from edgekit.signature import TensorSpec
from edgekit.task import SplitName

SCRIPT = pathlib.Path(__file__).with_name("build.py")
BUILDER = "build_engine.py"
#: The parser of TensorRT 10.3, which JetPack 6.1 has, reads opsets up to 20; blocks of
#: 4-bit weights need 21.
OLDEST_PARSER_OPSET = 20


@dataclasses.dataclass(frozen=True)
class OnnxToEngineRecipe(Batches):
    """Writes a recipe for each part.

    ``parity_steps`` is how far the engine's outputs may be from the expected ones, in
    quantization steps of the output.
    """

    parity_steps: float = 2.0

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "tensorrt"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("onnx",)
    reads: ClassVar[tuple[SplitName, ...]] = ()
    step: ClassVar[str] = "onnx_to_engine_recipe"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Copy the graphs and the script, and write the recipes."""
        parts = []
        notes = {}
        for part in artifact.parts:
            model = context.folder / f"{part.name}.onnx"
            recipe_path = context.folder / f"{part.name}.recipe.json"
            shutil.copyfile(artifact.path(part), model)
            recipe = self._recipe(part, model)
            recipe_path.write_text(
                json.dumps(recipe, indent=1), encoding="utf-8"
            )
            files = {
                "model": File(path=model.name),
                "recipe": File(path=recipe_path.name),
                "builder": File(path=BUILDER),
            }
            parts.append(
                Part(name=part.name, signature=part.signature, files=files)
            )
            notes[part.name] = {
                "built": "on the device",
                "compute_capabilities": list(self.compute_capabilities),
                "profiles": recipe["profiles"],
                "opset": recipe["opset"],
                "promised": len(recipe["promised"]),
                "warnings": recipe["warnings"],
            }
        shutil.copyfile(SCRIPT, context.folder / BUILDER)
        return Artifact(
            format="tensorrt",
            parts=tuple(parts),
            notes={"tensorrt": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """Each recipe is for the graph next to it, and the script is valid Python 3.9."""
        for old, new in zip(before.parts, after.parts, strict=True):
            recipe = json.loads(
                after.path(new, "recipe").read_text(encoding="utf-8")
            )
            hashes = {
                _sha256(before.path(old)),
                _sha256(after.path(new)),
                recipe["onnx_sha256"],
            }
            if len(hashes) > 1:
                model = new.files["model"].path
                raise StepError(
                    f"{self.step}: the recipe of {new.name!r} is not for the file {model}.",
                    fix="build it again",
                )
            script = after.path(new, "builder").read_text(encoding="utf-8")
            ast.parse(script, feature_version=(3, 9))

    def _recipe(self, part: Part, path: pathlib.Path) -> dict[str, Any]:
        model = onnx_graph.read(path)
        opset = next(
            entry.version
            for entry in model.opset_import
            if entry.domain in ("", "ai.onnx")
        )
        warnings = []
        if opset > OLDEST_PARSER_OPSET:
            warnings.append(
                f"the file has opset {opset}; TensorRT 10.3's parser supports opsets up to "
                f"{OLDEST_PARSER_OPSET}"
            )
        profiles = profile_shapes(model.graph, self.batches)
        return {
            "schema": 1,
            "part": part.name,
            "onnx": path.name,
            "onnx_sha256": _sha256(path),
            "engine": f"{part.name}.engine",
            "log": f"{part.name}.log.json",
            "opset": opset,
            "compute_capabilities": list(self.compute_capabilities),
            "profiles": profiles,
            **describe_graph(model),
            "inputs": _describe(part.signature.inputs),
            "outputs": _describe(part.signature.outputs),
            "tolerance": {
                "parity_steps": self.parity_steps,
                "step": "of each output: bundle.steps in manifest.json",
            },
            "build": f"python3 {BUILDER}",
            "trtexec": {
                str(major): trtexec.command_lines(
                    part.name, part.signature, profiles, major
                )
                for major in trtexec.MAJORS
            },
            "warnings": warnings,
        }


def _describe(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "dtype": spec.dtype,
            "dims": list(spec.dims),
            "file_order": spec.axes,
        }
        for spec in specs
    ]


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
