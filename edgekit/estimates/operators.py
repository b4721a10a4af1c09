"""The operators of a file with what decides their cost, as the audits read it; and files
cut short after some of them.

The difference of two cuts is the time of what lies between: what each operator costs is
learned from files that were made as all others are, in which runtimes fuse what they fuse.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from edgekit.artifact import MAIN, Artifact, File, FormatName, Part
from edgekit.estimates.table import Cost
from edgekit.formats.record import Implementation
from edgekit.registry import Registry
from edgekit.signature import Signature, TensorSpec

READERS = Registry(
    "format",
    {
        "onnx": Implementation(
            "edgekit.estimates.onnx_files:read_all", ("onnx", "onnxruntime"), "onnx"
        ),
        "tflite": Implementation(
            "edgekit.estimates.tflite_files:read_all", ("ai_edge_litert",), "tflite"
        ),
    },
)
CUTTERS = Registry(
    "format",
    {
        "onnx": Implementation(
            "edgekit.estimates.onnx_files:cut", ("onnx", "onnxruntime"), "onnx"
        ),
        "tflite": Implementation(
            "edgekit.estimates.tflite_files:cut", ("ai_edge_litert",), "tflite"
        ),
    },
)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator: what its cost depends on, its name in the file and its PyTorch module."""

    cost: Cost
    name: str
    module: str


def read_all(paths: Sequence[pathlib.Path], format: FormatName) -> list[list[Operator]]:
    """The operators of each file."""
    found: list[list[Operator]] = READERS.load(format)(paths)
    return found


def cut(artifact: Artifact, most: int, folder: pathlib.Path) -> list[Artifact]:
    """At most ``most`` files in an empty folder, from the shortest to the whole network;
    each is an artifact of its own.
    """
    part, cutter = artifact.parts[0], CUTTERS.load(artifact.format)
    make: Callable[..., list[tuple[pathlib.Path, TensorSpec]]] = cutter
    return [
        _artifact(artifact.format, part, path, spec)
        for path, spec in make(artifact.path(part), most, folder)
    ]


def _artifact(
    format: FormatName, part: Part, path: pathlib.Path, spec: TensorSpec
) -> Artifact:
    signature = Signature(inputs=part.signature.inputs, outputs=(spec,))
    return Artifact(
        format=format,
        parts=(
            Part(name=MAIN, signature=signature, files={"model": File(path=path.name)}),
        ),
        folder=path.parent,
    )


def spread(found: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the entries, evenly spread, the last one among them."""
    if len(found) <= most:
        return list(found)
    return [found[round((number + 1) * len(found) / most) - 1] for number in range(most)]


def variant(kernel: Sequence[int], depthwise: bool) -> str:
    """How a convolution is computed: its kernel's kind."""
    return (
        " depthwise"
        if depthwise
        else " pointwise"
        if math.prod(kernel) == 1
        else " spatial"
    )


def ends(costs: Sequence[Cost]) -> int:
    """Bytes that a call takes in and gives out, as far as the first and the last operator
    tell.
    """
    return costs[0].read + costs[-1].written if costs else 0
