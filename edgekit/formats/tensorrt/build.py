"""Build TensorRT engines: a script that needs Python 3.9, the standard library and
``tensorrt_rtx`` or ``tensorrt`` (10, 11).

It runs in a separate process for each build: a failed build can degrade the next one in the
same process, and the library keeps one logger per process. On a device it is the file
``build_engine.py``, so it imports nothing of edgekit.

    build.py [RECIPE ...]    build for this machine's GPU, from *.recipe.json next to it
    build.py -               read one JSON request on stdin, write the response to stdout

Request: ``module``, ``onnx``, ``engine`` (paths), ``compute_capabilities`` (``SM86``),
``profiles`` (a list; each input -> [min, opt, max] shapes). Response: ``ok``, ``stage``
(import, capability, parse, build, done), ``errors``, ``warnings``, ``version``, ``layers``,
``memory``, ``engine_bytes``. The engine file is only written if ``ok`` is true.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

Row = dict[str, Any]

#: After this warning the engine computes other numbers than the graph: uint8 is read as int8.
FATAL_WARNING = "Defaulting to INT8 instead"
#: Datatypes in classic TensorRT's "Format/Datatype" -> the names in "Datatype".
_CLASSIC = {
    "FP32": "Float", "Float": "Float", "FP16": "Half", "Half": "Half", "BF16": "BFloat16",
    "Int8": "Int8", "INT8": "Int8", "FP8": "FP8", "Int32": "Int32", "INT32": "Int32",
    "Bool": "Bool",
}  # fmt: skip
_MEMORY = {
    "Total Weights": "weights",
    "Total Activation": "activation",
    "Max Scratch": "scratch",
}
#: Words in the name of a generated kernel (__myl_FcAddDivErf) that fuses a matrix product.
_FUSED_GEMM = re.compile(r"Fc(?![a-z])|Dot|Gemm|Matmul|MatMul")


class BuildError(Exception):
    """A build failed.

    ``errors`` are rows with ``text`` and, if a node is the cause, ``node`` and ``op``.
    """

    def __init__(self, stage: str, errors: list[Row]) -> None:
        self.stage = stage
        self.errors = errors
        super().__init__(stage)


class BuildLog:
    """All messages of a build: (severity, text). VERBOSE messages list the layers."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def text(self) -> str:
        return "\n".join(text for _, text in self.messages)

    def select(self, *severities: str) -> list[str]:
        texts = [
            text for severity, text in self.messages if severity in severities
        ]
        return list(dict.fromkeys(texts))

    def errors(self) -> list[Row]:
        return [
            {"text": text} for text in self.select("ERROR", "INTERNAL_ERROR")
        ]

    def warnings(self) -> list[str]:
        return self.select("WARNING")

    def raise_errors(self, stage: str) -> None:
        """Raise BuildError for errors and fatal warnings, after which the engine is wrong."""
        fatal = [
            {"text": text} for text in self.warnings() if FATAL_WARNING in text
        ]
        if self.errors() or fatal:
            raise BuildError(stage, self.errors() + fatal)


def build(request: Row) -> Row:
    """Parse, build and write one engine; the response describes it, or why there is none."""
    response: Row = {
        "ok": False,
        "stage": "import",
        "module": request["module"],
    }
    response |= {
        "version": "",
        "errors": [],
        "warnings": [],
        "layers": [],
        "memory": {},
    }
    try:
        trt = importlib.import_module(request["module"])
    except (ImportError, OSError, RuntimeError) as error:
        return {**response, "errors": [_exception_row(error)]}
    response["version"] = str(trt.__version__)
    log = BuildLog()
    try:
        engine = _build_serialized(trt, request, log)
    except BuildError as failure:
        response.update(
            stage=failure.stage, errors=failure.errors or log.errors()
        )
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        # The bindings raise these, such as Builder() without a GPU in classic TensorRT.
        response.update(
            stage="build", errors=[*log.errors(), _exception_row(error)]
        )
    else:
        partial = pathlib.Path(request["engine"] + ".partial")
        partial.write_bytes(engine)
        partial.replace(request["engine"])
        response.update(ok=True, stage="done", engine_bytes=len(engine))
        response.update(
            layers=parse_layers(log.text()), memory=parse_memory(log.text())
        )
    return {**response, "warnings": log.warnings()}


def _exception_row(error: Exception) -> Row:
    return {"text": f"{type(error).__name__}: {error}"}


def _build_serialized(trt: Any, request: Row, log: BuildLog) -> bytes:
    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_capabilities(trt, config, request["compute_capabilities"], log)
    # The types are those of the graph; precision flags are never set. (Implied from 11 on.)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(request["onnx"])
    if not parsed or parser.num_errors:
        errors = [
            _parser_error(parser.get_error(k)) for k in range(parser.num_errors)
        ]
        raise BuildError("parse", errors)
    log.raise_errors("parse")
    for input_shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, shapes in input_shapes.items():
            profile.set_shape(name, *(tuple(shape) for shape in shapes))
        config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    log.raise_errors("build")
    if serialized is None:
        raise BuildError(
            "build", [{"text": "TensorRT built no engine, without an error."}]
        )
    return bytes(serialized)


def _logger(trt: Any, build_log: BuildLog) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of a module chosen at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            build_log.messages.append((severity.name, message))

    return Logger()


def _set_capabilities(
    trt: Any, config: Any, names: list[str], log: BuildLog
) -> None:
    if not names or not hasattr(config, "num_compute_capabilities"):
        return  # classic TensorRT builds for the GPU of this machine
    members = trt.ComputeCapability.__members__
    supported = {
        name: value for name, value in members.items() if name.startswith("SM")
    }
    valid = ", ".join(supported)
    errors = [
        {
            "text": f"{name} is not a compute capability of this version; it has {valid}"
        }
        for name in names
        if name not in supported
    ]
    if errors:
        raise BuildError("capability", errors)
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(supported[name], index):
            rows = [{"text": f"{name} was rejected"}, *log.errors()]
            raise BuildError("capability", rows)


def _parser_error(error: Any) -> Row:
    return {
        "text": error.desc(),
        "node": error.node_name(),
        "op": error.node_operator(),
        "code": str(error.code()).rpartition(".")[2],
    }


def parse_memory(text: str) -> dict[str, int]:
    """The bytes of weights, activations and scratch memory in a build log."""
    sizes = re.findall(rf"({'|'.join(_MEMORY)}) Memory: (\d+) bytes", text)
    return {_MEMORY[label]: int(size) for label, size in sizes}


def parse_layers(text: str) -> list[Row]:
    """The rows of the log's ``Layers:`` block (verbosity DETAILED), one per engine layer."""
    block = text.rpartition("Layers:\n")[2] if "Layers:\n" in text else ""
    rows = []
    for line in block.split("\n"):
        if not line.startswith("Name: "):
            break
        rows.append(_parse_layer(line))
    return rows


def _parse_layer(line: str) -> Row:
    head = re.match(r"Name: (.*?), LayerType: (\w+)", line)
    name, kind = head.groups() if head else (line[6:].partition(",")[0], "")
    pieces = re.split(r", (Inputs|Constants|Outputs): \[", line)
    row: Row = {"name": name, "type": kind, "kind": _compute_kind(name, kind)}
    row |= {"inputs": [], "constants": [], "outputs": []}
    for key, piece in zip(pieces[1::2], pieces[2::2]):
        row[key.lower()] = _parse_tensors(piece)
    declared = re.search(r'\bWeights: \{ ?"?Type"?: "?(\w+)', line)
    row["dtype"] = _layer_dtype(row, declared.group(1) if declared else None)
    row["origins"] = re.findall(
        r"\[ONNX Layer: (.+?)\](?=\x1e|\[ONNX Layer: |\s|,|$)", line
    )
    is_transpose = kind.lower() in ("shuffle", "transpose")
    row["transposes"] = is_transpose or bool(
        re.match(r"__myl_\w*?Tran(?![a-z])", name)
    )
    return row


def _parse_tensors(piece: str) -> list[list[Any]]:
    """``[datatype, dims]`` of each tensor in a list of them."""
    tensors = []
    for text in re.findall(r"\{ ?Name: (.*?)\}", piece):
        dims = re.search(r"Dimensions: \[([^\]]*)\]", text)
        sizes = dims.group(1).split(",") if dims else []
        datatype = re.search(r"(?<!/)Datatype: (\w+)", text)
        words = [datatype.group(1)] if datatype else []
        classic = re.search(r"Format/Datatype: (.*)", text)
        if classic:
            words += [
                _CLASSIC[w] for w in classic.group(1).split() if w in _CLASSIC
            ]
        words.append("?")
        tensors.append(
            [words[0], [int(size) for size in sizes if size.strip()]]
        )
    return tensors


def _compute_kind(name: str, layer_type: str) -> str:
    """conv, deconv or gemm for the layers that multiply and add; empty for all others."""
    word = layer_type.lower()
    if "deconv" in word:
        return "deconv"
    if word == "correlation" or "conv" in word:
        return "conv"
    if any(gemm in word for gemm in ("gemm", "matrixmultiply", "matmul")):
        return "gemm"
    if name.startswith("_gemm"):  # _gemm_mha_v2: fused attention
        return "gemm"
    if word != "runtime_fusion":
        return ""
    if "Corr" in name:  # __myl_CorrAddRelu
        return "conv"
    return "gemm" if _FUSED_GEMM.search(name) else ""


def _layer_dtype(row: Row, declared: str | None) -> str:
    """The datatype that a layer multiplies in: ``Int8``, or ``Int8xHalf`` if those of data
    and weights differ.

    The first input is the data. The weights are a constant with at least two axes larger
    than 1 (a bias or a scale has one), or the second input if they are computed or two
    activations are multiplied.
    """
    if not row["kind"] or not row["inputs"]:
        return str((row["inputs"] or row["outputs"] or [["?"]])[0][0])
    data, *others = [dtype for dtype, _ in row["inputs"]]
    constants = sorted(
        row["constants"], key=lambda tensor: -math.prod(tensor[1])
    )
    weights = [
        dtype for dtype, dims in constants if sum(dim > 1 for dim in dims) > 1
    ]
    if row["kind"] != "conv" and others:
        weights = others
    candidates = (
        weights or others or [dtype for dtype, _ in constants] or [data]
    )
    second = declared or candidates[0]
    return str(data) if data == second else f"{data}x{second}"


def find_broken_layers(rows: list[Row], promised: dict[str, str]) -> list[str]:
    """The products that should run in 8 bits and do not, as messages.

    ``promised``: ONNX node -> datatype. Dequantized 4-bit weights compute the right numbers
    and are not reported.
    """
    messages = []
    for row in rows:
        nodes = [
            node
            for node in row["origins"]
            if promised.get(node) in ("Int8", "FP8")
        ]
        expected = {promised[node] for node in nodes}
        if (
            row["kind"] in ("conv", "gemm")
            and expected
            and row["dtype"] not in expected
        ):
            dtypes = " or ".join(sorted(expected))
            messages.append(
                f"{' + '.join(nodes)} runs in {row['dtype']}, not in {dtypes}"
            )
    return messages


def build_recipe(recipe: Row, folder: pathlib.Path, module: str) -> Row:
    """Build the engine of a recipe in a separate process, and write its log next to it.

    ``broken`` lists the layers that do not run in the datatype of the recipe.
    """
    source = folder / recipe["onnx"]
    engine = folder / recipe["engine"]
    if not source.is_file():
        return _recipe_error(f"there is no file {source}")
    if hashlib.sha256(source.read_bytes()).hexdigest() != recipe["onnx_sha256"]:
        return _recipe_error(
            f"{source.name} is not the file that the recipe was written for; copy it again"
        )
    request = {
        "module": module,
        "onnx": str(source.resolve()),
        "engine": str(engine.resolve()),
        "compute_capabilities": [],
        "profiles": recipe["profiles"],
    }
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "-"]
    process = subprocess.run(
        command,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        response: Row = {**json.loads(process.stdout), "broken": []}
    except ValueError:
        tail = process.stderr.strip()[-500:] or "no output"
        status = process.returncode
        return _recipe_error(
            f"the build process ended with status {status}: {tail}"
        )
    if response["ok"]:
        response["broken"] = find_broken_layers(
            response["layers"], recipe["promised"]
        )
        response["compute_capabilities"] = ["this GPU"]
        response["engine_sha256"] = hashlib.sha256(
            engine.read_bytes()
        ).hexdigest()
        log = json.dumps({**recipe, **response}, indent=1)
        (folder / recipe["log"]).write_text(log, encoding="utf-8")
    return response


def _recipe_error(text: str) -> Row:
    return {"ok": False, "errors": [{"text": text}], "broken": []}


def build_on_device(names: list[str]) -> int:
    """Build from recipe files; 0 if every engine runs as its recipe requires.

    Classic TensorRT is preferred if TensorRT-RTX is installed too.
    """
    here = pathlib.Path(__file__).resolve().parent
    paths = [pathlib.Path(name) for name in names] or sorted(
        here.glob("*.recipe.json")
    )
    if not paths:
        sys.stderr.write(f"There is no *.recipe.json in {here}; pass one.\n")
    classic = importlib.util.find_spec("tensorrt")
    rtx = importlib.util.find_spec("tensorrt_rtx")
    module = "tensorrt_rtx" if rtx and not classic else "tensorrt"
    results = [_build_file(path, module) for path in paths]
    return 0 if results and all(results) else 1


def _build_file(path: pathlib.Path, module: str) -> bool:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        response = build_recipe(recipe, path.resolve().parent, module)
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = _exception_row(error)["text"]
        sys.stderr.write(f"{path}: cannot be read as a recipe: {message}\n")
        return False
    for text in [error["text"] for error in response["errors"]] + response[
        "broken"
    ]:
        sys.stderr.write(f"{path.name}: {text}\n")
    if response["ok"]:
        builder = f"{response['module']} {response['version']}"
        broken = f"{len(response['broken'])} of {len(recipe['promised'])}"
        sys.stdout.write(
            f"{recipe['engine']}: {response['engine_bytes']} bytes, {builder}, {broken} "
            "quantized layers run in another datatype\n"
        )
    return bool(response["ok"]) and not response["broken"]


def _disable_address_randomization() -> None:
    """Restart without it on Linux: otherwise engines of one graph differ in layer names."""
    if not sys.platform.startswith("linux"):
        return
    system, no_randomize, query = (
        ctypes.CDLL(None),
        0x0040000,
        0xFFFFFFFF,
    )  # personality(2)
    if system.personality(query) & no_randomize:
        return
    if (
        system.personality(no_randomize) != -1
        and system.personality(query) & no_randomize
    ):
        arguments = getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]
        os.execv(sys.executable, [sys.executable, *arguments])


def main() -> None:
    """``-``: respond to the request on stdin; otherwise build from recipes."""
    here = str(pathlib.Path(__file__).resolve().parent)
    # Otherwise a file next to this one could be imported instead of a package.
    sys.path[:] = [entry for entry in sys.path if entry != here]
    if sys.argv[1:] != ["-"]:
        sys.exit(build_on_device(sys.argv[1:]))
    _disable_address_randomization()
    # Native code that prints to stdout must not mix with the response.
    stdout = os.dup(1)
    os.dup2(2, 1)
    response = build(json.loads(sys.stdin.read()))
    with os.fdopen(stdout, "w", encoding="utf-8") as stream:
        json.dump(response, stream)


if __name__ == "__main__":
    main()
