"""The operators of a file with what determines their cost, and files cut after some of them.

The difference between two cuts is the time of the operators between them: costs are fitted to
files that are built like all others, in which runtimes fuse what they usually fuse.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import TypeVar

from edgekit.artifact import MAIN, Artifact, File, FormatName, Part
from edgekit.estimates.table import Cost
from edgekit.formats.record import Implementation
from edgekit.registry import Registry
from edgekit.signature import Signature, TensorSpec

Item = TypeVar("Item")
READERS = Registry(
    "format",
    {
        "onnx": Implementation(
            "edgekit.estimates.onnx_files:read_all",
            ("onnx", "onnxruntime"),
            "onnx",
        ),
        "tflite": Implementation(
            "edgekit.estimates.tflite_files:read_all",
            ("ai_edge_litert",),
            "tflite",
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
    """One operator: its cost features, its name in the file and its PyTorch module."""

    cost: Cost
    name: str
    module: str


def read_all(
    paths: Sequence[pathlib.Path], format: FormatName
) -> list[list[Operator]]:
    """Read the operators of each file, in execution order."""
    operators: list[list[Operator]] = READERS.load(format)(paths)
    return operators


def cut(artifact: Artifact, count: int, folder: pathlib.Path) -> list[Artifact]:
    """Write at most ``count`` prefixes of a network into an empty folder.

    Returns:
        One artifact per prefix, from the shortest to the complete network.
    """
    part = artifact.parts[0]
    cuts: list[tuple[pathlib.Path, TensorSpec]] = CUTTERS.load(artifact.format)(
        artifact.path(part), count, folder
    )
    return [
        _artifact(artifact.format, part, path, output) for path, output in cuts
    ]


def _artifact(
    format: FormatName, part: Part, path: pathlib.Path, output: TensorSpec
) -> Artifact:
    signature = Signature(inputs=part.signature.inputs, outputs=(output,))
    files = {"model": File(path=path.name)}
    prefix = Part(name=MAIN, signature=signature, files=files)
    return Artifact(format=format, parts=(prefix,), folder=path.parent)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of the items, evenly spaced, the last one included."""
    if len(items) <= count:
        return list(items)
    ends = [round((number + 1) * len(items) / count) for number in range(count)]
    return [items[end - 1] for end in ends]


def variant(kernel: Sequence[int], *, depthwise: bool) -> str:
    """Return the suffix of a convolution's kind, which determines the kernel that runs."""
    if depthwise:
        return " depthwise"
    return " pointwise" if math.prod(kernel) == 1 else " spatial"


def io_bytes(costs: Sequence[Cost]) -> int:
    """Return the bytes of a file's inputs and outputs.

    Approximately: those of its first and its last operator.
    """
    return costs[0].read + costs[-1].written if costs else 0
