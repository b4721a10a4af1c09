"""Optimize ONNX files with ONNX Runtime and run each once on zeros, in a separate process:
``python worker.py MODEL FOLDER [MODEL FOLDER ...]``.

Writes into each folder ``answer.json``, ``optimized.onnx`` and a profile. Requires onnxruntime
and numpy, and nothing of edgekit.
"""

import json
import pathlib
import sys
from typing import Any

#: ONNX Runtime's names of float types -> NumPy's; integer types have NumPy's names.
_FLOATS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
}


def inspect(model: str, folder: pathlib.Path) -> dict[str, Any]:
    """Optimize and run one file.

    ``refused``: ONNX Runtime did not load it; ``error``: why it was not loaded or not run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    answer = {"version": onnxruntime.__version__, "error": "", "refused": False}
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own classes
        return {**answer, "error": str(error), "refused": True}
    try:
        session.run(None, zeros(session))
    except Exception as error:
        answer["error"] = str(error)
    return {**answer, "profile": session.end_profiling()}


def zeros(session: Any) -> dict[str, Any]:
    """Build inputs of zeros, with 1 for every free dim."""
    import numpy

    feeds = {}
    for value in session.get_inputs():
        shape = [
            dim if isinstance(dim, int) and dim > 0 else 1
            for dim in value.shape
        ]
        dtype = _FLOATS.get(value.type, value.type[len("tensor(") : -1])
        feeds[value.name] = numpy.zeros(shape, dtype)
    return feeds


if __name__ == "__main__":
    for model, name in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        folder = pathlib.Path(name)
        answer = inspect(model, folder)
        (folder / "answer.json").write_text(
            json.dumps(answer), encoding="utf-8"
        )
