"""What TensorRT's errors mean, and how to fix them."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import onnx

from edgekit.artifact import Part
from edgekit.errors import MissingBackend, StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.tensorrt.graph import REQUANTIZE, name_of
from edgekit.registry import install


class KnownError(NamedTuple):
    """A pattern in TensorRT's message, its meaning, and a fix."""

    pattern: str
    meaning: str
    fix: str


#: The first pattern that matches is used.
_KNOWN_ERRORS = (
    KnownError(
        r"SM\w+ (is not a compute capability|was rejected)",
        "this TensorRT cannot build for that compute capability",
        "remove it from the target's compute_capabilities; for a Jetson or a data-center GPU "
        "build on the device itself with its own TensorRT",
    ),
    KnownError(
        r"FP32 GEMM is not supported",
        "SM75 (Turing) has no float32 matrix multiplication",
        "use the scheme fp16, or remove SM75 from the target's compute_capabilities",
    ),
    KnownError(
        r"HW-specific datatypes: (\w+)",
        "one of the compute capabilities has no arithmetic for a datatype of the graph (fp8 "
        "requires SM89, 4-bit weights SM80)",
        "use the scheme fp16, or remove the older compute capability from the target's "
        "compute_capabilities",
    ),
    KnownError(
        r"has type Int32 but must have type",
        "a bias is quantized to int32, which TensorRT cannot read",
        REQUANTIZE,
    ),
    KnownError(
        r"shiftIsAllZeros|Non-zero zero point",
        "a zero point is not 0",
        REQUANTIZE,
    ),
    KnownError(
        r"Defaulting to INT8 instead",
        "the graph is quantized to uint8; TensorRT would read it as int8 and compute other "
        "numbers",
        REQUANTIZE,
    ),
    KnownError(
        r"Failed to import initializer",
        "TensorRT cannot read the datatype of a weight (for example int16)",
        REQUANTIZE,
    ),
    KnownError(
        r"Scatter\w+ with reduction",
        "TensorRT has no scatter with a reduction (index_add, scatter_add, index_put with "
        "accumulate)",
        "write it as a matrix product with a one-hot or a dense adjacency matrix",
    ),
    KnownError(
        r"Plugin not found|plugin creator",
        "TensorRT does not support this operator, and no plugin has it",
        "write the network without it, or with standard operators",
    ),
    KnownError(
        r"no optimization profile has been defined|missing dimensions in profile|"
        r"MIN<=OPT<=MAX",
        "the free shapes of the graph and the profile do not match",
        "export with the batch as the only free dimension, and a max_batch of at least 1",
    ),
    KnownError(
        r"cudaError 35|CUDA driver version is insufficient|no CUDA-capable device|"
        r"returned nullptr",
        "classic TensorRT builds only on a machine with an NVIDIA GPU",
        "build on the machine with the GPU, or install tensorrt-rtx, which builds without one",
    ),
    KnownError(
        r"UNSUPPORTED_NODE|checkDet|^false$",
        "TensorRT does not have this operator",
        "write the network without it",
    ),
)
_ACTIONS = {"parse": "read the graph", "capability": "build for these GPUs"}
_STANDARD_DOMAINS = ("", "ai.onnx", "com.microsoft")


def translate_errors(
    response: Mapping[str, Any], part: Part, graph: onnx.GraphProto
) -> StepError | MissingBackend:
    """One error for a failed build, with every node that TensorRT reports.

    The parser stops at an error while a node is imported; nodes after it that are known to
    be rejected are listed too.
    """
    if response["stage"] == "import":
        return MissingBackend(
            f"{response['module']} cannot be loaded: {response['errors'][0]['text']}",
            fix=install("tensorrt-rtx"),
        )
    rows = []
    fixes = []
    for error in response["errors"]:
        rule = _find_rule(error)
        rows.append(_format_error(error, rule))
        if rule is not None:
            fixes.append(rule.fix)
    if response["stage"] == "parse":
        reported = {error.get("node") for error in response["errors"]}
        rows += _unreached_nodes(graph, reported, response["module"])
    listing = "\n  ".join(dict.fromkeys(rows)) or "no reason was reported"
    action = _ACTIONS.get(response["stage"], "build the engine")
    builder = f"{response['module']} {response['version']}"
    fallback = "ship the ONNX file to this device with ONNX Runtime, or report the graph"
    return StepError(
        f"onnx_to_tensorrt: {builder} cannot {action} of {part.name!r}:\n  {listing}",
        fix="; ".join(dict.fromkeys(fixes)) or fallback,
    )


def _find_rule(error: Mapping[str, Any]) -> KnownError | None:
    text = f"{error.get('code', '')} {error['text']}".strip()
    matches = (rule for rule in _KNOWN_ERRORS if re.search(rule.pattern, text))
    return next(matches, None)


def _format_error(error: Mapping[str, Any], rule: KnownError | None) -> str:
    where = ""
    if error.get("node"):
        where = f"{error['node']} [{error['op']}]{_in_module(error['node'])}: "
    first_line = (
        error["text"].splitlines()[0] if error["text"] else "no reason reported"
    )
    if rule is None:
        return f"{where}{first_line}"
    return f"{where}{rule.meaning} ({first_line})"


def _unreached_nodes(
    graph: onnx.GraphProto, reported: set[str | None], module: str
) -> list[str]:
    return [
        f"{name_of(node)} [{node.op_type}]{_in_module(node.name)}: rejected too"
        for node in onnx_graph.nodes(graph)
        if name_of(node) not in reported and _is_rejected(node, module)
    ]


def _in_module(name: str) -> str:
    """The PyTorch module of a node of edgekit's exports, named ``module.path/Operator``."""
    path = name.rpartition("/")[0]
    return f" in the module {path}" if path else ""


def _is_rejected(node: onnx.NodeProto, module: str) -> bool:
    """Whether a node is known to be rejected (measured with TensorRT-RTX 1.7.1)."""
    if node.op_type in ("DFT", "Det"):
        return True
    reduction = onnx_graph.attributes(node).get("reduction", b"none")
    if node.op_type.startswith("Scatter") and reduction not in (
        "",
        "none",
        b"",
        b"none",
    ):
        return True
    is_rejected_by_rtx = (
        node.op_type == "NonZero" or node.domain not in _STANDARD_DOMAINS
    )
    return module == "tensorrt_rtx" and is_rejected_by_rtx
