"""Convert one ONNX file to ONNX Runtime's own format, in a separate process: reads a request
from stdin and writes an answer to stdout, both JSON.

    {"onnx": ..., "ort": ..., "operators": ...}      writes the last two
    {"onnx": ..., "ort": ..., "sizes": [2, 5]}       runs both files on random data of these
                                                     batch sizes, returns the largest differences

Requires onnxruntime with its tools and numpy, and nothing of edgekit. On failure the answer is
``{"ok": false, "error": ...}``.

ONNX Runtime writes its tables in an order that depends on the addresses of its objects. So
that a network always produces the same file, addresses are not randomized, and whoever starts
this script must use the same environment and the same short paths every time.
"""

import ctypes
import json
import os
import pathlib
import sys
from typing import Any

#: It arranges channels in blocks for the vectors of the processor that it runs on.
_OF_THIS_PROCESSOR = ["NchwcTransformer"]
#: ONNX Runtime's names of float types -> NumPy's; integer types have NumPy's names.
_FLOATS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
}


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Optimize and write the file, then the list of its operators."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state
    from onnxruntime.tools.ort_format_model import create_config_from_models
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

    ort = pathlib.Path(request["ort"])
    options = _options()
    # The highest level would store what half-precision weights become on this processor:
    # floats, twice as large.
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    )
    options.optimized_model_filepath = request["ort"]
    options.add_session_config_entry("session.save_model_format", "ORT")
    # As ONNX Runtime's converter does it for ARM.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(
        request["onnx"],
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_OF_THIS_PROCESSOR,
    )
    create_config_from_models([ort], pathlib.Path(request["operators"]), True)
    stored = InferenceSession.GetRootAs(ort.read_bytes(), 0)
    kernels = {
        (kernel.domain, kernel.op_name)
        for kernel in onnxruntime_pybind11_state.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider"
    }
    return {
        "ok": True,
        "onnxruntime": onnxruntime.__version__,
        "format": stored.OrtVersion().decode(),
        "all_operators": len(kernels),
    }


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Return the largest difference of any output for each batch size, and the largest range
    of the ONNX file's outputs.
    """
    import numpy
    import onnxruntime

    onnx, ort = (
        onnxruntime.InferenceSession(
            request[key], _options(), providers=["CPUExecutionProvider"]
        )
        for key in ("onnx", "ort")
    )
    expected_ends = _ends(onnx)
    actual_ends = _ends(ort)
    if actual_ends != expected_ends:
        return _failure(
            f"the inputs or outputs are {actual_ends}, not {expected_ends}"
        )
    random = numpy.random.default_rng(0)
    differences = []
    spread = 0.0
    for size in request["sizes"]:
        feeds = _random_feeds(onnx, size, random)
        pairs = list(
            zip(ort.run(None, feeds), onnx.run(None, feeds), strict=True)
        )
        if not all(
            _is_comparable(actual, expected) for actual, expected in pairs
        ):
            return _failure(
                f"an output for {size} samples has another shape, or is not finite"
            )
        differences.append(max(_difference(*pair) for pair in pairs))
        ranges = [
            float(expected.max()) - float(expected.min())
            for _, expected in pairs
        ]
        spread = max(spread, *ranges)
    return {"ok": True, "differences": differences, "range": spread}


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def _ends(session: Any) -> list[list[tuple[str, str, Any]]]:
    """Name, type and shape of all inputs and outputs."""
    return [
        [(end.name, end.type, end.shape) for end in values]
        for values in (session.get_inputs(), session.get_outputs())
    ]


def _random_feeds(session: Any, size: int, random: Any) -> dict[str, Any]:
    feeds = {}
    for end in session.get_inputs():
        shape = [dim if isinstance(dim, int) else size for dim in end.shape]
        if end.type in _FLOATS:
            feeds[end.name] = random.normal(size=shape).astype(
                _FLOATS[end.type]
            )
        else:
            dtype = end.type[len("tensor(") : -1]
            feeds[end.name] = random.integers(0, 2, shape).astype(dtype)
    return feeds


def _is_comparable(actual: Any, expected: Any) -> bool:
    import numpy

    return actual.shape == expected.shape and bool(numpy.isfinite(actual).all())


def _difference(actual: Any, expected: Any) -> float:
    import numpy

    return float(numpy.abs(actual.astype("float64") - expected).max())


def _failure(reason: str) -> dict[str, Any]:
    return {"ok": False, "error": reason}


def _disable_address_randomization() -> None:
    """Start again without address randomization if the system is Linux: else no two files of
    one network are the same.
    """
    if not sys.platform.startswith("linux"):
        return
    # personality(2)
    no_randomize = 0x0040000
    query = 0xFFFFFFFF
    system = ctypes.CDLL(None)
    if system.personality(query) & no_randomize:
        return
    accepted = system.personality(no_randomize) != -1
    if accepted and system.personality(query) & no_randomize:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Answer the request.

    What native code prints to stdout is redirected to stderr, so that stdout has the answer
    and nothing else.
    """
    _disable_address_randomization()
    answer_stream = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    request = json.loads(sys.stdin.read())
    try:
        answer = compare(request) if "sizes" in request else convert(request)
    except Exception as error:  # whatever ONNX Runtime and its tools raise
        message = " ".join(str(error).split())[:400]
        answer = _failure(f"{type(error).__name__}: {message}")
    with os.fdopen(answer_stream, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)


if __name__ == "__main__":
    main()
