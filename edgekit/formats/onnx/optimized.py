"""The graph that ONNX Runtime really runs on this host: optimized with its default settings,
and run once on zeros to learn shapes and types.

The runtime works in a separate process, so that a file which crashes it becomes an error and
not the end of edgekit. It loads a file only after the ONNX checker has passed it: the checker
refuses external data outside the file's folder, also as a hard link, which the runtime itself
would read.
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx
import onnx.checker

from edgekit.errors import RunnerError, condense
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx import macs as onnx_macs
from edgekit.formats.onnx import worker
from edgekit.formats.onnx.macs import COMPUTE
from edgekit.formats.onnx.provenance import NodeProvenance

TIMEOUT_S = 300
FLOATS = {"float", "float16", "double", "bfloat16"}
_BYTES = {"int8", "uint8"}


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the optimized graph, as it ran at batch 1."""

    op: str
    name: str
    #: The PyTorch module; empty if the file does not store it.
    module: str
    #: The type of its output; int8 if it multiplies integers and outputs floats.
    dtype: str
    #: Multiply-accumulates; None if shapes are unknown.
    macs: int | None
    #: The part of ``macs`` on integers, and whether the operator multiplies integers.
    int8_macs: int = 0
    integer: bool = False
    #: A DequantizeLinear of an activation inside the graph, neither of a stored tensor nor of
    #: the graph's output.
    inner_dequantize: bool = False
    #: A Cast from one float type to another.
    float_cast: bool = False
    #: Bytes of activations read, of activations written, and of stored weights.
    moved: tuple[int, int, int] = (0, 0, 0)
    #: Of a convolution: the original shape of the weights, and the number of groups.
    weights: tuple[int, ...] = ()
    groups: int = 1

    @property
    def label(self) -> str:
        """The name in reports: the module and the operator, else the node's name."""
        return (
            f"{self.module}/{self.op}" if self.module else self.name or self.op
        )


@dataclasses.dataclass(frozen=True)
class Optimized:
    """A file as the runtime optimized it."""

    version: str
    operators: tuple[Operator, ...]
    #: Why the graph could not be run on zeros, so that MACs and types are unknown; empty if it
    #: ran.
    run_error: str
    #: False if the file's nodes are out of order, which ONNX does not allow and ONNX Runtime
    #: accepts.
    sorted: bool = True


@dataclasses.dataclass
class ProfiledNode:
    """The profile's entry of one node, and how often the node ran."""

    event: onnx_macs.Event
    times: int = 1


def optimize(path: pathlib.Path) -> Optimized:
    """Optimize one file with ONNX Runtime.

    Raises RunnerError if the file is invalid, or if the runtime refuses it or crashes.
    """
    return optimize_all([path])[0]


def optimize_all(paths: Sequence[pathlib.Path]) -> list[Optimized]:
    """Optimize many files in one process, which takes a fraction of the time.

    Raises RunnerError as ``optimize`` does.
    """
    originals = [onnx_graph.read_any(path) for path in paths]
    with tempfile.TemporaryDirectory(prefix="edgekit-audit-") as name:
        folders = [
            pathlib.Path(name) / str(number) for number in range(len(paths))
        ]
        arguments: list[str] = []
        for path, (model, is_sorted), folder in zip(
            paths, originals, folders, strict=True
        ):
            folder.mkdir()
            named = _with_names(path, model, is_sorted, folder)
            arguments += [str(named.resolve()), str(folder)]
        run_worker(
            [sys.executable, "-P", "-W", "ignore", worker.__file__, *arguments],
            paths[0].name if len(paths) == 1 else f"{len(paths)} files",
            folders,
        )
        return [
            _read_answer(path.name, model, is_sorted, folder)
            for path, (model, is_sorted), folder in zip(
                paths, originals, folders, strict=True
            )
        ]


def _read_answer(
    name: str, original: onnx.ModelProto, is_sorted: bool, folder: pathlib.Path
) -> Optimized:
    """Read what the worker wrote into the folder of one file."""
    answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    reason = condense(answer["error"])
    if answer["refused"]:
        fix = "export it again, with operators that the runtime supports"
        if onnx_graph.has_float8(original):
            fix = "8-bit floats are for TensorRT: inspect the engine"
        raise RunnerError(
            f"ONNX Runtime {answer['version']} refuses {name}: {reason}",
            fix=fix,
        )
    optimized = onnx.load(str(folder / "optimized.onnx")).graph
    profile = (
        {} if answer["error"] else read_profile(pathlib.Path(answer["profile"]))
    )
    operators = list_operators(optimized, profile, NodeProvenance(original))
    return Optimized(answer["version"], tuple(operators), reason, is_sorted)


def _with_names(
    path: pathlib.Path,
    model: onnx.ModelProto,
    is_sorted: bool,
    folder: pathlib.Path,
) -> pathlib.Path:
    """Return the file itself, or a copy that the runtime can profile: sorted, and with unique
    names, because the profile identifies operators by name.
    """
    names = [
        node.name
        for node in onnx_graph.nodes(model.graph)
        if node.op_type in COMPUTE
    ]
    has_names = all(names) and len(set(names)) == len(names)
    if has_names and is_sorted:
        return path
    copy = onnx.ModelProto()
    if is_sorted:
        copy = _load_with_weights(path)
    else:
        copy.CopyFrom(
            model
        )  # a file with external data is not sorted but refused
    if not has_names:
        number = 0
        for graph in onnx_graph.graphs(copy.graph):
            for node in graph.node:
                node.name = f"{node.name or node.op_type}.{number}"
                number += 1
    onnx.save(copy, str(folder / "named.onnx"))
    return folder / "named.onnx"


def _load_with_weights(path: pathlib.Path) -> onnx.ModelProto:
    """Load a file with its external data, which the checker passes even if they are shorter
    than the file states.
    """
    try:
        return onnx.load(str(path))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise onnx_graph.invalid_file(path, error) from error


def run_worker(
    command: list[str], subject: str, folders: Sequence[pathlib.Path]
) -> None:
    """Run a process that writes an ``answer.json`` into each folder.

    ``subject``: the name of what it loads, for errors. Raises RunnerError if the process
    crashes or takes longer than ``TIMEOUT_S``.
    """
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=folders[0],
        )
    except subprocess.TimeoutExpired as error:
        raise RunnerError(
            f"ONNX Runtime did not finish loading {subject} within {TIMEOUT_S} s.",
            fix="try a smaller file",
        ) from error
    complete = all((folder / "answer.json").is_file() for folder in folders)
    if result.returncode or not complete:
        lines = result.stderr.strip().splitlines()
        reason = (
            condense(lines[-1]) if lines else f"exit status {result.returncode}"
        )
        raise RunnerError(
            f"ONNX Runtime crashed on {subject}: {reason}",
            fix="check that onnxruntime works here (edgekit doctor), then export the file"
            " again",
        )


def read_profile(path: pathlib.Path) -> dict[str, ProfiledNode]:
    """Return the profile's entries by node name; a node inside a loop may run several times."""
    by_name: dict[str, ProfiledNode] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        label = str(row["name"])
        if row.get("cat") != "Node" or not label.endswith("_kernel_time"):
            continue
        name = label.removesuffix("_kernel_time")
        if name in by_name:
            by_name[name].times += 1
        else:
            by_name[name] = ProfiledNode(row["args"])
    return by_name


def list_operators(
    graph: onnx.GraphProto,
    profile: Mapping[str, ProfiledNode],
    provenance: NodeProvenance,
) -> list[Operator]:
    """Return all operators that ran, also inside If, Loop and Scan; all operators of the graph
    if the profile is empty.
    """
    stored = {
        tensor.name: tuple(tensor.dims)
        for inner in onnx_graph.graphs(graph)
        for tensor in inner.initializer
    }
    outputs = {value.name for value in graph.output}
    # The profile numbers nodes without a name in the order in which they ran.
    unnamed: dict[str, list[ProfiledNode]] = defaultdict(list)
    for name, profiled in profile.items():
        operator = profiled.event["op_name"]
        if re.fullmatch(rf"{operator}_\d+", name):
            unnamed[operator].append(profiled)
    operators = []
    for depth, inner in enumerate(onnx_graph.graphs(graph)):
        for node in inner.node:
            queue = unnamed[node.op_type]
            entry = profile.get(node.name)
            if entry is None and queue and not node.name:
                entry = queue.pop(0)
            if entry is None and depth and profile:
                continue  # the other branch of an If, or a loop that did not run
            operators.append(
                _operator(node, entry, stored, provenance, outputs)
            )
    return operators


def _operator(
    node: onnx.NodeProto,
    entry: ProfiledNode | None,
    stored: dict[str, tuple[int, ...]],
    provenance: NodeProvenance,
    outputs: set[str],
) -> Operator:
    event = entry.event if entry else None
    times = entry.times if entry else 1
    is_blocked = node.domain == "com.microsoft.nchwc"
    original = provenance.weights(node.name) if is_blocked else None
    run = onnx_macs.profiled_run(node, event, stored)
    macs = onnx_macs.count(node, run, original)
    input_dtype, output_dtype = _dtypes(event)
    is_integer = onnx_macs.is_integer(node)
    outputs_floats = output_dtype not in _BYTES and event is not None
    float_types = {input_dtype, output_dtype} & FLOATS
    is_activation = bool(node.input) and node.input[0] not in stored
    return Operator(
        op=node.op_type,
        name=provenance.original_name(node) or node.name,
        module=provenance.module(node.name),
        dtype="int8" if is_integer and outputs_floats else output_dtype,
        macs=None if macs is None else macs * times,
        int8_macs=onnx_macs.count_integer(node, run, original) * times,
        integer=is_integer,
        inner_dequantize=node.op_type == "DequantizeLinear"
        and is_activation
        and node.output[0] not in outputs,
        float_cast=node.op_type == "Cast" and len(float_types) == 2,
        moved=onnx_macs.moved_bytes(event, node, stored),
        weights=tuple(original or onnx_macs.weights(node, stored)),
        groups=onnx_macs.groups(node),
    )


def _dtypes(event: onnx_macs.Event | None) -> tuple[str, str]:
    """Return the types of the first input and the first output, as ONNX Runtime names them."""
    if event is None:
        return "unknown", "unknown"
    return _first_dtype(event["input_type_shape"]), _first_dtype(
        event["output_type_shape"]
    )


def _first_dtype(entries: Sequence[Mapping[str, onnx_macs.Shape]]) -> str:
    return next(iter(entries[0]), "unknown") if entries else "unknown"
