"""The graph that ONNX Runtime really runs on this host: optimized as it is by default, and
run once on zeros to learn shapes and types.

The runtime works in a process of its own, so that a file which crashes it becomes an error
and not the end of edgekit. A file is given to it only after the ONNX checker has passed it:
the checker refuses external data outside the file's folder, also as a hard link, which the
runtime itself would read.
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import onnx
import onnx.checker

from edgekit.errors import RunnerError
from edgekit.formats.onnx import macs as onnx_macs
from edgekit.formats.onnx import provenance as onnx_file
from edgekit.formats.onnx.macs import COMPUTE
from edgekit.formats.onnx.provenance import short

TIMEOUT_S = 300
FLOATS = {"float", "float16", "double", "bfloat16"}
_BYTES = {"int8", "uint8"}
_WORKER = """
import json, pathlib, sys
import numpy, onnxruntime
for model, folder in zip(sys.argv[1::2], map(pathlib.Path, sys.argv[2::2])):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    answer = {"version": onnxruntime.__version__, "error": "", "refused": False}
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        answer.update(error=str(error), refused=True)
    else:
        kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
        try:
            feeds = {}
            for value in session.get_inputs():
                shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
                feeds[value.name] = numpy.zeros(shape, kinds.get(value.type, value.type[7:-1]))
            session.run(None, feeds)
        except Exception as error:
            answer["error"] = str(error)
        answer["profile"] = session.end_profiling()
    (folder / "answer.json").write_text(json.dumps(answer))
"""


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the optimized graph, as it ran at batch 1.

    ``macs`` is None where shapes are not known.
    """

    op: str
    name: str
    #: The PyTorch module; empty where the file does not tell.
    module: str
    #: What it computes in: the type of its result, int8 where it multiplies integers and
    #: gives floats.
    dtype: str
    macs: int | None
    #: Those of ``macs`` that multiply integers, and whether the operator does so.
    int8_macs: int = 0
    integer: bool = False
    #: For DequantizeLinear: an activation inside the graph, neither a stored tensor nor the
    #: graph's output.
    inner_dequantize: bool = False
    #: For Cast: from one float type to another.
    float_cast: bool = False
    #: Bytes read and written while the network runs, bytes of stored weights, and of a
    #: convolution the true shape of the weights and the groups.
    moved: tuple[int, int, int] = (0, 0, 0)
    weights: tuple[int, ...] = ()
    groups: int = 1

    @property
    def place(self) -> str:
        """Where it is, in a user's words: the module and the operator, else its name."""
        return f"{self.module}/{self.op}" if self.module else self.name or self.op


@dataclasses.dataclass(frozen=True)
class Optimized:
    """What the runtime made of a file."""

    version: str
    operators: tuple[Operator, ...]
    #: Why the graph could not be run on zeros, so that MACs and types are not known; empty
    #: where it ran.
    not_run: str
    #: False where the file's nodes are out of order, which ONNX does not allow and ONNX
    #: Runtime forgives.
    sorted: bool = True


@dataclasses.dataclass
class _Ran:
    """What the profile says of one node, and how often it ran."""

    event: dict[str, Any]
    times: int = 1


def optimize(path: pathlib.Path) -> Optimized:
    """Let ONNX Runtime optimize the file, or raise RunnerError with what is wrong with it."""
    return optimize_all([path])[0]


def optimize_all(paths: Sequence[pathlib.Path]) -> list[Optimized]:
    """As ``optimize``, many files in one process, which takes a fraction of the time."""
    originals = [onnx_file.check(path) for path in paths]
    with tempfile.TemporaryDirectory(prefix="edgekit-audit-") as name:
        folders = [pathlib.Path(name) / str(number) for number in range(len(paths))]
        for folder in folders:
            folder.mkdir()
        models = [
            _with_names(path, original if resorted else None, folder)
            for path, (original, resorted), folder in zip(
                paths, originals, folders, strict=True
            )
        ]
        pairs = [
            str(path)
            for model, folder in zip(models, folders, strict=True)
            for path in (model.resolve(), folder)
        ]
        work(
            [sys.executable, "-W", "ignore", "-c", _WORKER, *pairs],
            paths[0].name if len(paths) == 1 else f"{len(paths)} files",
            folders,
        )
        return [
            _read(path.name, *original, folder)
            for path, original, folder in zip(paths, originals, folders, strict=True)
        ]


def _read(
    name: str, original: onnx.ModelProto, resorted: bool, folder: pathlib.Path
) -> Optimized:
    """What the runtime has left in the folder of one file."""
    answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    if answer["refused"]:
        fix = "export it again, with operators that the runtime has"
        if onnx_file.has_float8(original):
            fix = "8-bit floats are for TensorRT: inspect the engine"
        message = (
            f"ONNX Runtime {answer['version']} refuses {name}: {short(answer['error'])}"
        )
        raise RunnerError(message, fix=fix)
    optimized = onnx.load(str(folder / "optimized.onnx")).graph
    ran = events(pathlib.Path(answer["profile"])) if not answer["error"] else {}
    found = operators(optimized, ran, onnx_file.Origins(original))
    return Optimized(answer["version"], tuple(found), short(answer["error"]), not resorted)


def _with_names(
    path: pathlib.Path, changed: onnx.ModelProto | None, folder: pathlib.Path
) -> pathlib.Path:
    """The file itself, or a copy whose operators have names: the profile tells operators
    apart by name.
    """
    model = changed or onnx.load(str(path), load_external_data=False)
    names = [
        node.name
        for graph in onnx_file.graphs(model.graph)
        for node in graph.node
        if node.op_type in COMPUTE
    ]
    whole = all(names) and len(set(names)) == len(names)
    if whole and changed is None:
        return path
    try:
        model = (
            changed or onnx.load(str(path))
            # with its external data, which the checker passes although they are shorter than
            # the file says
        )
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise onnx_file.unsound(path, error) from error
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = (
        []
        if whole
        else [node for graph in onnx_file.graphs(copy.graph) for node in graph.node]
    )
    for number, node in enumerate(nodes):
        node.name = f"{node.name or node.op_type}.{number}"
    onnx.save(copy, str(folder / "named.onnx"))
    return folder / "named.onnx"


def work(command: list[str], told: str, folders: Sequence[pathlib.Path]) -> None:
    """Run a process that leaves an ``answer.json`` in each folder; RunnerError where it
    hangs or dies. ``told``: what it loads, in errors.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=folders[0],
        )
    except subprocess.TimeoutExpired as error:
        raise RunnerError(
            f"ONNX Runtime did not finish loading {told} within {TIMEOUT_S} s.",
            fix="try a smaller file",
        ) from error
    if done.returncode or not all((folder / "answer.json").is_file() for folder in folders):
        last = (
            short(done.stderr.strip().splitlines()[-1])
            if done.stderr.strip()
            else f"exit status {done.returncode}"
        )
        raise RunnerError(
            f"ONNX Runtime crashed on {told}: {last}",
            fix="check that onnxruntime works here (edgekit doctor), then export the file again",
        )


def events(profile: pathlib.Path) -> dict[str, _Ran]:
    """Node name -> what the profile says of it; a node inside a loop may run several times."""
    rows = json.loads(profile.read_text(encoding="utf-8"))
    found: dict[str, _Ran] = {}
    for row in rows:
        if row.get("cat") == "Node" and str(row["name"]).endswith("_kernel_time"):
            name = str(row["name"]).removesuffix("_kernel_time")
            if name in found:
                found[name].times += 1
            else:
                found[name] = _Ran(row["args"])
    return found


def operators(
    graph: onnx.GraphProto, events: dict[str, _Ran], origins: onnx_file.Origins
) -> list[Operator]:
    """All that ran, also inside If, Loop and Scan; where nothing could be run, all that
    there is.
    """
    stored = {
        tensor.name: tuple(tensor.dims)
        for inner in onnx_file.graphs(graph)
        for tensor in inner.initializer
    }
    outputs = {value.name for value in graph.output}
    unnamed: dict[str, list[_Ran]] = {}
    for name, ran in events.items():
        if re.fullmatch(rf"{ran.event['op_name']}_\d+", name):
            unnamed.setdefault(ran.event["op_name"], []).append(ran)
    found = []
    for depth, inner in enumerate(onnx_file.graphs(graph)):
        for node in inner.node:
            waiting = unnamed.get(node.op_type, [])
            unknown = waiting.pop(0) if waiting and not node.name else None
            one = events.get(node.name, unknown)
            if one is None and depth and events:
                continue  # the other branch of an If, or a loop that never began
            found.append(_operator(node, one, stored, origins, outputs))
    return found


def _operator(
    node: onnx.NodeProto,
    ran: _Ran | None,
    stored: dict[str, tuple[int, ...]],
    origins: onnx_file.Origins,
    outputs: set[str],
) -> Operator:
    true = origins.weights(node.name) if node.domain == "com.microsoft.nchwc" else None
    every, integer = onnx_macs.macs(node, ran.event if ran else None, stored, true)
    times, types = ran.times if ran else 1, _types(ran)
    given = types[1]
    is_integer = onnx_macs.is_integer(node)
    dtype = "int8" if is_integer and given not in _BYTES and ran else given
    return Operator(
        op=node.op_type,
        name=origins.name(node) or node.name,
        module=origins.module(node.name),
        dtype=dtype,
        macs=None if every is None else every * times,
        int8_macs=integer * times,
        integer=is_integer,
        inner_dequantize=node.op_type == "DequantizeLinear"
        and node.input[0] not in stored
        and node.output[0] not in outputs,
        float_cast=node.op_type == "Cast"
        and types[0] in FLOATS
        and given in FLOATS
        and types[0] != given,
        moved=onnx_macs.moved(ran.event if ran else None, node, stored),
        weights=tuple(true or onnx_macs.weights(node, stored)),
        groups=onnx_macs.groups(node),
    )


def _types(ran: _Ran | None) -> tuple[str, str]:
    """The types of the first input and the first output."""
    shapes = (
        (ran.event["input_type_shape"], ran.event["output_type_shape"]) if ran else ((), ())
    )
    first, second = (
        next(iter(entries[0]), "unknown") if entries else "unknown" for entries in shapes
    )
    return first, second
