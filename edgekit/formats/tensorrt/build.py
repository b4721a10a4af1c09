"""Build TensorRT engines: a script that needs Python 3.9, the standard library and
``tensorrt_rtx`` or ``tensorrt`` (10, 11).

It runs as a process of its own, one for each build: a failed build can degrade the next one
in the same process, and the library keeps one logger a process.

``formats/tensorrt/build.py`` (on a device: ``python3 build_engine.py``) builds an engine
for this machine's GPU from every ``*.recipe.json`` beside it, or from the ones that are
named; ``formats/tensorrt/build.py -`` reads one JSON request on stdin and answers in JSON
on stdout.

Request: ``module``, ``onnx``, ``engine`` (paths), ``compute_capabilities`` (``SM86``),
``profiles`` (a list; each input -> [min, opt, max] shapes). Answer: ``ok``, ``stage``
(import, capability, parse, build, done), ``errors``, ``warnings``, ``version``, ``layers``,
``memory``, ``engine_bytes``. The engine file exists only where ``ok`` is true.
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

#: This warning means that the engine computes other numbers than the graph says: uint8 is
#: taken for int8.
FATAL_WARNING = "Defaulting to INT8 instead"
#: Datatype words of classic TensorRT's "Format/Datatype" -> the words of "Datatype".
_CLASSIC = {
    "FP32": "Float",
    "Float": "Float",
    "FP16": "Half",
    "Half": "Half",
    "BF16": "BFloat16",
    "Int8": "Int8",
    "INT8": "Int8",
    "FP8": "FP8",
    "Int32": "Int32",
    "INT32": "Int32",
    "Bool": "Bool",
}
_MEMORY = {
    "weights": "Total Weights Memory",
    "activation": "Total Activation Memory",
    "scratch": "Max Scratch Memory",
}


class Refused(Exception):
    """The build ends here.

    ``errors`` are rows with ``text`` and, where a node is to blame, ``node`` and ``op``.
    """

    def __init__(self, stage: str, errors: list[Row]) -> None:
        self.stage = stage
        self.errors = errors
        super().__init__(stage)


def build(request: Row) -> Row:
    """Parse, build and write one engine; the answer says what was built or why nothing was."""
    answer: Row = {
        "ok": False,
        "stage": "import",
        "module": request["module"],
        "version": "",
        "errors": [],
        "warnings": [],
        "layers": [],
        "memory": {},
    }
    try:
        trt = importlib.import_module(request["module"])
    except (ImportError, OSError, RuntimeError) as error:
        return {**answer, "errors": [{"text": f"{type(error).__name__}: {error}"}]}
    log: list[tuple[str, str]] = []
    answer["version"] = str(trt.__version__)
    try:
        engine = _serialized(trt, request, log)
    except Refused as refused:
        return {
            **answer,
            "stage": refused.stage,
            "errors": refused.errors or _errors(log),
            "warnings": _warnings(log),
        }
    except (
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # what the bindings raise, such as Builder() with no GPU in classic TensorRT
        return {
            **answer,
            "stage": "build",
            "errors": [*_errors(log), {"text": f"{type(error).__name__}: {error}"}],
            "warnings": _warnings(log),
        }
    text = "\n".join(message for _, message in log)
    target = pathlib.Path(request["engine"])
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(engine)
    partial.replace(target)
    return {
        **answer,
        "ok": True,
        "stage": "done",
        "warnings": _warnings(log),
        "layers": layers(text),
        "memory": memory(text),
        "engine_bytes": len(engine),
    }


def _serialized(trt: Any, request: Row, log: list[tuple[str, str]]) -> bytes:
    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_capabilities(trt, config, request["compute_capabilities"], log)
    # The types are those of the graph; precision flags are never set. The explicit flag is
    # for TensorRT 10.
    network = builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(request["onnx"])
    if not parsed or parser.num_errors:
        raise Refused(
            "parse", [_parser_error(parser.get_error(k)) for k in range(parser.num_errors)]
        )
    _refuse_logged("parse", log)
    for shapes_of in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, shapes in shapes_of.items():
            profile.set_shape(name, *(tuple(shape) for shape in shapes))
        config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    # An API error can be logged although the build goes on; such an engine is not what was
    # asked for.
    _refuse_logged("build", log)
    if serialized is None:
        raise Refused("build", [{"text": "TensorRT gave no engine and no reason."}])
    return bytes(serialized)


def _logger(trt: Any, log: list[tuple[str, str]]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of a module chosen at run time
        """Keeps every message, VERBOSE ones too: the list of layers is one of those."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.append((severity.name, message))

    return Logger()


def _set_capabilities(
    trt: Any, config: Any, names: list[str], log: list[tuple[str, str]]
) -> None:
    if not names or not hasattr(config, "num_compute_capabilities"):
        return  # classic TensorRT builds for the GPU of this machine
    known = {
        name: value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refused(
            "capability",
            [
                {
                    "text": f"{name} is not a compute capability of this version; it has {', '.join(known)}"
                }
                for name in unknown
            ],
        )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(known[name], index):
            raise Refused("capability", [{"text": f"{name} was refused"}, *_errors(log)])


def _parser_error(error: Any) -> Row:
    return {
        "text": error.desc(),
        "node": error.node_name(),
        "op": error.node_operator(),
        "code": str(error.code()).rpartition(".")[2],
    }


def _errors(log: list[tuple[str, str]]) -> list[Row]:
    return [
        {"text": text}
        for text in dict.fromkeys(
            message for severity, message in log if severity in ("ERROR", "INTERNAL_ERROR")
        )
    ]


def _warnings(log: list[tuple[str, str]]) -> list[str]:
    return list(
        dict.fromkeys(message for severity, message in log if severity == "WARNING")
    )


def _refuse_logged(stage: str, log: list[tuple[str, str]]) -> None:
    errors = _errors(log) + [
        {"text": text} for text in _warnings(log) if FATAL_WARNING in text
    ]
    if errors:
        raise Refused(stage, errors)


def memory(text: str) -> dict[str, int]:
    """The bytes of weights, activations and scratch that the build log tells."""
    found = {
        name: re.findall(rf"{label}: (\d+) bytes", text) for name, label in _MEMORY.items()
    }
    return {name: int(numbers[-1]) for name, numbers in found.items() if numbers}


def layers(text: str) -> list[Row]:
    """The rows of the log's ``Layers:`` block (ProfilingVerbosity.DETAILED), one for each
    layer of the engine.
    """
    block = text.rpartition("Layers:\n")[2] if "Layers:\n" in text else ""
    rows = []
    for line in block.split("\n"):
        if not line.startswith("Name: "):
            break
        rows.append(_layer(line))
    return rows


def _layer(line: str) -> Row:
    head = re.match(r"Name: (.*?), LayerType: (\w+)", line)
    name, kind = head.groups() if head else (line[6:].partition(",")[0], "")
    pieces = re.split(r", (Inputs|Constants|Outputs): \[", line)
    tensors = {
        key.lower(): _tensors(piece) for key, piece in zip(pieces[1::2], pieces[2::2])
    }
    row: Row = {
        "name": name,
        "type": kind,
        "kind": _kind(name, kind),
        "inputs": tensors.get("inputs", []),
        "constants": tensors.get("constants", []),
        "outputs": tensors.get("outputs", []),
    }
    declared = re.search(r'\bWeights: \{ ?"?Type"?: "?(\w+)', line)
    row["dtype"] = _operands(row, declared.group(1) if declared else None)
    row["origins"] = re.findall(
        r"\[ONNX Layer: (.+?)\](?=\x1e|\[ONNX Layer: |\s|,|$)", line
    )
    row["transposes"] = (
        kind.lower() in ("shuffle", "transpose")
        or re.match(r"__myl_\w*?Tran(?![a-z])", name) is not None
    )
    return row


def _tensors(piece: str) -> list[list[Any]]:
    """``[datatype, dims]`` of each tensor in a list of them."""
    found = []
    for tensor in re.findall(r"\{ ?Name: (.*?)\}", piece):
        dims = re.search(r"Dimensions: \[([^\]]*)\]", tensor)
        plain = re.search(r"(?<!/)Datatype: (\w+)", tensor)
        words = re.search(r"Format/Datatype: (.*)", tensor)
        known = [
            _CLASSIC[word]
            for word in (words.group(1).split() if words else [])
            if word in _CLASSIC
        ]
        found.append(
            [
                plain.group(1) if plain else (known or ["?"])[0],
                [int(dim) for dim in dims.group(1).split(",") if dim.strip()]
                if dims
                else [],
            ]
        )
    return found


def _kind(name: str, layer_type: str) -> str:
    """conv, deconv or gemm for the layers that multiply and add; empty for all others."""
    word = layer_type.lower()
    if "deconv" in word:
        return "deconv"
    if word == "correlation" or "conv" in word:
        return "conv"
    if (
        "gemm" in word
        or "matrixmultiply" in word
        or "matmul" in word
        or name.startswith("_gemm")
    ):  # _gemm_mha_v2: fused attention
        return "gemm"
    if (
        word == "runtime_fusion"
    ):  # named after what it fuses: __myl_CorrAddRelu, __myl_FcAddDivErf
        return (
            "conv"
            if "Corr" in name
            else "gemm"
            if re.search(r"Fc(?![a-z])|Dot|Gemm|Matmul|MatMul", name)
            else ""
        )
    return ""


def _operands(row: Row, declared: str | None) -> str:
    """The datatype that a layer multiplies in: ``Int8``; ``Int8xHalf`` where data and
    weights differ.

    The first input is the data. The weights are a constant with at least two real axes (a
    bias or a scale has one), or the second input where they are computed or where two
    activations are multiplied.
    """
    if not row["kind"] or not row["inputs"]:
        return (row["inputs"] or row["outputs"] or [["?"]])[0][0]  # type: ignore[no-any-return]  # rows are JSON
    data, *others = [dtype for dtype, _ in row["inputs"]]
    constants = sorted(row["constants"], key=lambda tensor: -math.prod(tensor[1]))
    weights = [dtype for dtype, dims in constants if sum(dim > 1 for dim in dims) > 1]
    if row["kind"] != "conv" and others:
        weights = others
    other = (
        declared or (weights or others or [dtype for dtype, _ in constants] or [data])[0]
    )
    return data if data == other else f"{data}x{other}"


def _steady_addresses() -> None:
    """Start again without address randomization, where the system is Linux: else two int8
    engines differ in their layers' names.
    """
    if not sys.platform.startswith("linux"):
        return
    system, no_randomize, ask = ctypes.CDLL(None), 0x0040000, 0xFFFFFFFF  # personality(2)
    if system.personality(ask) & no_randomize:
        return
    if system.personality(no_randomize) != -1 and system.personality(ask) & no_randomize:
        os.execv(
            sys.executable,
            [sys.executable, *getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]],
        )


def from_recipe(recipe: Row, folder: pathlib.Path, module: str) -> Row:
    """Build the engine of a recipe in a process of its own, and write its log beside it.

    ``broken`` names the layers that do not run as promised.
    """
    answer: Row = {"ok": False, "errors": [], "broken": []}
    source = folder / recipe["onnx"]
    if not source.is_file():
        return {**answer, "errors": [{"text": f"there is no file {source}"}]}
    if hashlib.sha256(source.read_bytes()).hexdigest() != recipe["onnx_sha256"]:
        return {
            **answer,
            "errors": [
                {
                    "text": f"{source.name} is not the file that the recipe was written for; copy it again"
                }
            ],
        }
    request = {
        "module": module,
        "onnx": str(source.resolve()),
        "engine": str((folder / recipe["engine"]).resolve()),
        "compute_capabilities": [],
        "profiles": recipe["profiles"],
    }
    done = subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).resolve()), "-"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = {**json.loads(done.stdout), "broken": []}
    except ValueError:
        tail = done.stderr.strip()[-500:] or "nothing was said"
        return {
            **answer,
            "errors": [
                {"text": f"the build process ended with status {done.returncode}: {tail}"}
            ],
        }
    if answer["ok"]:
        answer["broken"] = broken(answer["layers"], recipe["promised"])
        answer["compute_capabilities"] = ["this GPU"]
        answer["engine_sha256"] = hashlib.sha256(
            (folder / recipe["engine"]).read_bytes()
        ).hexdigest()
        (folder / recipe["log"]).write_text(
            json.dumps({**recipe, **answer}, indent=1), encoding="utf-8"
        )
    return answer


def broken(rows: list[Row], promised: dict[str, str]) -> list[str]:
    """The products that should run in 8 bits and do not. 4-bit weights that are made float
    first are right, and are not told.
    """
    found = []
    for row in rows:
        nodes = [node for node in row["origins"] if promised.get(node) in ("Int8", "FP8")]
        wanted = {promised[node] for node in nodes}
        if row["kind"] in ("conv", "gemm") and wanted and row["dtype"] not in wanted:
            found.append(
                f"{' + '.join(nodes)} runs in {row['dtype']}, not in {' or '.join(sorted(wanted))}"
            )
    return found


def on_device(names: list[str]) -> int:
    """Build from recipe files with classic TensorRT (or TensorRT-RTX where only that is
    there); 0 where every engine is as promised.
    """
    here = pathlib.Path(__file__).resolve().parent
    paths = [pathlib.Path(name) for name in names] or sorted(here.glob("*.recipe.json"))
    module = next(
        (name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)),
        "tensorrt",
    )
    failed = not paths
    if not paths:
        sys.stderr.write(f"There is no *.recipe.json in {here}; name one.\n")
    for path in paths:
        try:
            recipe = json.loads(path.read_text(encoding="utf-8"))
            answer = from_recipe(recipe, path.resolve().parent, module)
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.stderr.write(
                f"{path}: cannot be read as a recipe: {type(error).__name__}: {error}\n"
            )
            failed = True
            continue
        for text in [error["text"] for error in answer["errors"]] + answer["broken"]:
            sys.stderr.write(f"{path.name}: {text}\n")
        if answer["ok"]:
            otherwise = f"{len(answer['broken'])} of {len(recipe['promised'])} promised layers run otherwise"
            sys.stdout.write(
                f"{recipe['engine']}: {answer['engine_bytes']} bytes, {answer['module']} {answer['version']}, {otherwise}\n"
            )
        failed = failed or not answer["ok"] or bool(answer["broken"])
    return 1 if failed else 0


def main() -> None:
    """``-``: answer the request on stdin; else build from recipes.

    What native code prints to stdout goes to stderr, so that the answer is alone there.
    """
    here = str(pathlib.Path(__file__).resolve().parent)
    sys.path[:] = [
        entry for entry in sys.path if entry != here
    ]  # else a neighbour of this file could stand for a package
    if sys.argv[1:] != ["-"]:
        sys.exit(on_device(sys.argv[1:]))
    _steady_addresses()
    answer_to = os.dup(1)
    os.dup2(2, 1)
    answer = build(json.loads(sys.stdin.read()))
    with os.fdopen(answer_to, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)


if __name__ == "__main__":
    main()
