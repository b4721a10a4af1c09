"""Converts one ONNX file to ONNX Runtime's own format, in a process of its own: reads a
request from stdin, answers on stdout, both JSON.

    {"onnx": ..., "ort": ..., "operators": ...}      writes the last two
    {"onnx": ..., "ort": ..., "sizes": [2, 5]}       runs both files on random data of these sizes and tells the largest differences

It needs onnxruntime with its tools, numpy, and nothing of edgekit. The answer is ``{"ok":
false, "error": ...}`` where something failed.

ONNX Runtime writes its tables in an order that follows the addresses of its objects. So
that a network always gives the same file, the addresses are kept from being drawn by
chance, and whoever starts this gives it the same environment and the same short paths every
time.
"""

import ctypes
import json
import os
import pathlib
import sys
from typing import Any

#: It lays channels out in blocks for the vectors of the processor that it runs on.
_OF_THIS_PROCESSOR = ["NchwcTransformer"]


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Optimize and write the file, then the list of its operators."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state
    from onnxruntime.tools.ort_format_model import create_config_from_models
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # The highest level would store what half-precision weights become on this processor:
    # floats, twice as large.
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    )
    options.optimized_model_filepath = request["ort"]
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry(
        "session.qdqisint8allowed", "1"
    )  # as ONNX Runtime's converter does it for ARM
    onnxruntime.InferenceSession(
        request["onnx"],
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_OF_THIS_PROCESSOR,
    )
    create_config_from_models(
        [pathlib.Path(request["ort"])], pathlib.Path(request["operators"]), True
    )
    stored = InferenceSession.GetRootAs(pathlib.Path(request["ort"]).read_bytes(), 0)
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
    """The largest difference of any output for each size, and the largest range of the ONNX
    file's outputs.
    """
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    running = [
        onnxruntime.InferenceSession(
            request[key], options, providers=["CPUExecutionProvider"]
        )
        for key in ("onnx", "ort")
    ]
    ends = [
        [
            [(end.name, end.type, end.shape) for end in found]
            for found in (one.get_inputs(), one.get_outputs())
        ]
        for one in running
    ]
    if ends[0] != ends[1]:
        return {"ok": False, "error": f"the inputs or outputs are {ends[1]}, not {ends[0]}"}
    random = numpy.random.default_rng(0)
    differences, spread = [], 0.0
    for size in request["sizes"]:
        feeds = {}
        for end in running[0].get_inputs():
            shape = [dim if isinstance(dim, int) else size for dim in end.shape]
            kind = {
                "tensor(float)": "float32",
                "tensor(double)": "float64",
                "tensor(float16)": "float16",
            }.get(end.type)
            feeds[end.name] = (
                random.normal(size=shape).astype(kind)
                if kind
                else random.integers(0, 2, shape).astype(end.type[7:-1])
            )
        theirs, ours = (one.run(None, feeds) for one in running)
        if any(
            mine.shape != other.shape or not numpy.isfinite(mine).all()
            for mine, other in zip(ours, theirs)
        ):
            return {
                "ok": False,
                "error": f"with {size} samples an output has another shape, or is not finite",
            }
        differences.append(
            max(
                float(numpy.abs(mine.astype("float64") - other).max())
                for mine, other in zip(ours, theirs)
            )
        )
        spread = max(spread, *(float(other.max()) - float(other.min()) for other in theirs))
    return {"ok": True, "differences": differences, "range": spread}


def _steady_addresses() -> None:
    """Start again without address randomization, where the system is Linux: else no two
    files of one network are the same.
    """
    if not sys.platform.startswith("linux"):
        return
    system, no_randomize, ask = ctypes.CDLL(None), 0x0040000, 0xFFFFFFFF  # personality(2)
    if system.personality(ask) & no_randomize:
        return
    if system.personality(no_randomize) != -1 and system.personality(ask) & no_randomize:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Answer the request.

    What native code prints to stdout goes to stderr, so that the answer is alone there.
    """
    _steady_addresses()
    answer_to = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    request = json.loads(sys.stdin.read())
    try:
        answer = compare(request) if "sizes" in request else convert(request)
    except Exception as error:  # whatever ONNX Runtime and its tools raise
        answer = {
            "ok": False,
            "error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
        }
    with os.fdopen(answer_to, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)


if __name__ == "__main__":
    main()
