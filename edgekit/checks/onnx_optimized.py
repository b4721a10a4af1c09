"""The graph that ONNX Runtime really runs on this host: optimized as it is by default, and run once on zeros to learn shapes and types.

The runtime works in a process of its own, so that a file which crashes it becomes an error and not the end of edgekit.
A file is given to it only after the ONNX checker has passed it: the checker refuses external data outside the file's folder,
also as a hard link, which the runtime itself would read.
"""

import dataclasses
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import google.protobuf.message
import onnx
import onnx.checker

from edgekit.errors import RunnerError

TIMEOUT_S = 300
_WORKER = """
import json, pathlib, sys
import numpy, onnxruntime
model, folder = sys.argv[1], pathlib.Path(sys.argv[2])
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
_WEIGHTS = {"QLinearConv": 3, "Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvTranspose": 1, "ConvInteger": 1}
_PRODUCTS = {
    "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits",
}  # fmt: skip
#: Their weights and recurrent weights are inputs 1 and 2; both are multiplied once a step and sample.
_RECURRENT = {"LSTM", "GRU", "RNN"}
#: Operators that multiply and accumulate.
COMPUTE = _WEIGHTS.keys() | _PRODUCTS | _RECURRENT


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the optimized graph, as it ran at batch 1. ``macs`` is None where shapes are not known."""

    op: str
    name: str
    #: The PyTorch module, from a node name ``module.path/Operator``; empty where the file does not tell.
    module: str
    dtype: str
    macs: int | None
    #: For DequantizeLinear: an activation inside the graph, neither a stored tensor nor the graph's output.
    inner_dequantize: bool = False


@dataclasses.dataclass(frozen=True)
class Optimized:
    """What the runtime made of a file."""

    version: str
    operators: tuple[Operator, ...]
    #: Why the graph could not be run on zeros, so that MACs and types are not known; empty where it ran.
    not_run: str


def optimize(path: pathlib.Path) -> Optimized:
    """Let ONNX Runtime optimize the file, or raise RunnerError with what is wrong with it."""
    original = check(path)
    with tempfile.TemporaryDirectory(prefix="edgekit-audit-") as name:
        folder = pathlib.Path(name)
        answer = _work(_with_names(path, folder), path.name, folder)
        if answer["refused"]:
            told = f"ONNX Runtime {answer['version']} refuses {path.name}: {_short(answer['error'])}"
            raise RunnerError(told, fix="export it again, with operators that the runtime has")
        optimized = onnx.load(str(folder / "optimized.onnx")).graph
        events = _events(pathlib.Path(answer["profile"])) if not answer["error"] else {}
    makers = {output: node for node in original.graph.node for output in node.output}
    names = {node.name for node in original.graph.node}
    return Optimized(answer["version"], tuple(_operators(optimized, events, makers, names)), _short(answer["error"]))


def check(path: pathlib.Path) -> onnx.ModelProto:
    """The file without its external data, or RunnerError where it is not a sound ONNX file."""
    if not path.is_file():
        raise RunnerError(f"There is no file {path}.", fix="name an existing .onnx file")
    try:
        onnx.checker.check_model(str(path))
        return onnx.load(str(path), load_external_data=False)
    except (onnx.checker.ValidationError, google.protobuf.message.DecodeError, OSError, ValueError, RuntimeError) as error:
        raise _unsound(path, error) from error


def _unsound(path: pathlib.Path, error: Exception) -> RunnerError:
    return RunnerError(f"{path.name} is not a sound ONNX file: {_short(str(error))}", fix="export it again; do not run a file that you do not trust")


def _with_names(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The file itself, or a copy whose operators have names: the profile tells operators apart by name."""
    model = onnx.load(str(path), load_external_data=False)
    names = [node.name for node in model.graph.node if node.op_type in COMPUTE]
    if all(names) and len(set(names)) == len(names):
        return path
    try:
        model = onnx.load(str(path))  # with its external data, which the checker passes although they are shorter than the file says
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise _unsound(path, error) from error
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.name or node.op_type}.{number}"
    copy = folder / "named.onnx"
    onnx.save(model, str(copy))
    return copy


def _work(model: pathlib.Path, name: str, folder: pathlib.Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", _WORKER, str(model.resolve()), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise RunnerError(f"ONNX Runtime did not finish loading {name} within {TIMEOUT_S} s.", fix="try a smaller file") from error
    answer = folder / "answer.json"
    if done.returncode or not answer.is_file():
        last = _short(done.stderr.strip().splitlines()[-1]) if done.stderr.strip() else f"exit status {done.returncode}"
        raise RunnerError(f"ONNX Runtime crashed on {name}: {last}", fix="check that onnxruntime works here (edgekit doctor), then export the file again")
    read: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return read


def _events(profile: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Node name -> what the profile says of it. Nodes inside loops may come several times; the first counts."""
    rows = json.loads(profile.read_text(encoding="utf-8"))
    events: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("cat") == "Node" and str(row["name"]).endswith("_kernel_time"):
            events.setdefault(str(row["name"]).removesuffix("_kernel_time"), row["args"])
    return events


def _operators(graph: onnx.GraphProto, events: dict[str, dict[str, Any]], makers: dict[str, onnx.NodeProto], names: set[str]) -> list[Operator]:
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    unnamed: dict[str, list[dict[str, Any]]] = {}
    for name, event in events.items():
        if re.fullmatch(rf"{event['op_name']}_\d+", name):
            unnamed.setdefault(event["op_name"], []).append(event)
    found = []
    for node in graph.node:
        waiting = unnamed.get(node.op_type, [])
        unknown = waiting.pop(0) if waiting and not node.name else None
        ran: dict[str, Any] | None = events.get(node.name, unknown)
        inner = node.op_type == "DequantizeLinear" and node.input[0] not in stored and node.output[0] not in outputs
        module = _module(node.name, makers, names)
        found.append(Operator(node.op_type, node.name, module, _dtype(ran), _macs(node, ran, stored), inner))
    return found


def _module(name: str, makers: dict[str, onnx.NodeProto], names: set[str]) -> str:
    """The module of a fused node: ONNX Runtime names it after the first node, or after the tensor that the last one makes."""
    stem = re.sub(r"(_nchwc|_token_\d+|_fused|_nhwc)+$", "", name)
    node = makers.get(stem)
    while stem not in names and node is not None and node.op_type not in COMPUTE and node.input:
        node = next((makers[source] for source in node.input if source in makers), None)
    found = stem if stem in names or node is None else node.name
    if found.startswith("/"):  # PyTorch's older exporter: /layer/conv/Conv
        return found.strip("/").rpartition("/")[0].replace("/", ".")
    return found.partition("/")[0] if "/" in found else ""


def _dtype(event: dict[str, Any] | None) -> str:
    shapes = event["output_type_shape"] if event else []
    return next(iter(shapes[0])) if shapes else "unknown"


def _macs(node: onnx.NodeProto, event: dict[str, Any] | None, stored: dict[str, tuple[int, ...]]) -> int | None:
    """Multiply-accumulates: for a convolution, outputs times the weights of one output channel; for a product, outputs times the inner size."""
    if node.op_type not in COMPUTE:
        return 0
    if not event or not event["output_type_shape"] or not event["input_type_shape"]:
        return None
    made = _shape(event["output_type_shape"][0])
    read = _shape(event["input_type_shape"][0])
    if node.op_type in _WEIGHTS:
        place = _WEIGHTS[node.op_type]
        shapes = event["input_type_shape"]  # packed weights are missing here, computed ones are not stored
        weight = stored.get(node.input[place]) or (_shape(shapes[place]) if place < len(shapes) else None)
        if not weight:
            return None
        return math.prod(read if node.op_type == "ConvTranspose" else made) * math.prod(weight[1:])
    if node.op_type in _RECURRENT:
        weights = [stored.get(name) for name in node.input[1:3]]
        return math.prod(read[:2]) * sum(math.prod(weight) for weight in weights if weight) if all(weights) else None
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(made) * (read[-2] if transposed else read[-1]) if read else None


def _shape(entry: dict[str, list[int]]) -> list[int]:
    return next(iter(entry.values()))


def _short(text: str, limit: int = 240) -> str:
    return " ".join(text.split())[:limit]
