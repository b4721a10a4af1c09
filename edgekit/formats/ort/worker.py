"""Read an .ort file and run it once on zeros, in a separate process: ``python -I worker.py
FILE FOLDER``.

Writes into the folder ``answer.json``, a profile, and ``optimized.onnx``: the operators that
the file stores, as an ONNX graph without the values of its weights. Requires onnxruntime with
its tools, onnx and numpy, and nothing of edgekit.
"""

import json
import pathlib
import sys
from typing import Any

#: Subgraphs of If, Loop and Scan may have such operators again; no exporter nests deeper.
DEEPEST = 8
MOST_OPERATORS = 200_000
#: Bytes 4 to 8 of every .ort file.
_MAGIC = b"ORTM"
#: ONNX Runtime's names of float types -> NumPy's; integer types have NumPy's names.
_FLOATS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
}


def inspect(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Read and run one file; write its graph and profile into the folder.

    ``refused``: it could not be read; ``error``: why it was not read or not run.
    """
    import onnx
    import onnxruntime

    answer = {
        "version": onnxruntime.__version__,
        "format": "",
        "installed_format": "",
        "error": "",
        "refused": True,
    }
    content = path.read_bytes()
    if content[4:8] != _MAGIC:
        return {**answer, "error": f"it has no mark {_MAGIC.decode()!r}"}
    try:
        stored = stored_model(content)
        answer["format"] = _text(stored.OrtVersion())
        answer["installed_format"] = installed_format(folder)
        model = onnx.helper.make_model(graph_of(stored.Model().Graph()))
        onnx.save(model, str(folder / "optimized.onnx"))
        session = _open(path, folder)
    except (
        Exception
    ) as error:  # ONNX Runtime's own, and what reading a damaged buffer raises
        return {**answer, "error": f"{type(error).__name__}: {error}"}
    try:
        session.run(None, _zeros(session))
    except Exception as error:
        answer["error"] = str(error)
    return {**answer, "refused": False, "profile": session.end_profiling()}


def stored_model(content: bytes) -> Any:
    """Return the root table of an .ort file."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

    return InferenceSession.GetRootAs(content, 0)


def graph_of(stored: Any, depth: int = 0) -> Any:
    """Return the ONNX graph of a graph in the file.

    Raises ValueError for a graph that ONNX Runtime's converter does not write.
    """
    import onnx

    largest = max(stored.NodesLength(), stored.InitializersLength())
    if depth > DEEPEST or largest > MOST_OPERATORS:
        raise ValueError("its graph is too large, or nested too deep")
    graph = onnx.GraphProto(name="stored")
    for position in range(stored.InitializersLength()):
        graph.initializer.append(_initializer(stored.Initializers(position)))
    for position in range(stored.NodesLength()):
        graph.node.append(_node(stored.Nodes(position), depth))
    for position in range(stored.OutputsLength()):
        graph.output.append(
            onnx.ValueInfoProto(name=_text(stored.Outputs(position)))
        )
    return graph


def _initializer(stored: Any) -> Any:
    """A stored tensor without its values."""
    import onnx

    if stored.ExternalDataOffset() >= 0:
        raise ValueError("its weights are in another file")
    return onnx.TensorProto(
        name=_text(stored.Name()),
        data_type=stored.DataType(),
        dims=[stored.Dims(axis) for axis in range(stored.DimsLength())],
    )


def _node(stored: Any, depth: int) -> Any:
    import onnx

    inputs = [_text(stored.Inputs(k)) for k in range(stored.InputsLength())]
    outputs = [_text(stored.Outputs(k)) for k in range(stored.OutputsLength())]
    attributes = [
        _attribute(stored.Attributes(k), depth)
        for k in range(stored.AttributesLength())
    ]
    return onnx.NodeProto(
        op_type=_text(stored.OpType()),
        name=_text(stored.Name()),
        domain=_text(stored.Domain()),
        input=inputs,
        output=outputs,
        attribute=[
            attribute for attribute in attributes if attribute is not None
        ],
    )


def _attribute(stored: Any, depth: int) -> Any:
    """A number, a text or a graph; None for tensors and lists, which are not used."""
    import onnx

    name = _text(stored.Name())
    kind = stored.Type()
    kinds = onnx.AttributeProto
    if kind == kinds.GRAPH:
        return kinds(name=name, type=kind, g=graph_of(stored.G(), depth + 1))
    if kind == kinds.STRING:
        return kinds(name=name, type=kind, s=stored.S() or b"")
    if kind == kinds.FLOAT:
        return kinds(name=name, type=kind, f=stored.F())
    return (
        kinds(name=name, type=kind, i=stored.I()) if kind == kinds.INT else None
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def installed_format(folder: pathlib.Path) -> str:
    """Return the version of the file format that the installed ONNX Runtime writes: it
    converts a model of one operator.
    """
    import onnx
    import onnxruntime

    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph([relu], "probe", ends[:1], ends[1:])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    written = folder / "probe.ort"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(written)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return _text(stored_model(written.read_bytes()).OrtVersion())


def _open(path: pathlib.Path, folder: pathlib.Path) -> Any:
    """Load the file as a reduced build does; a full build optimizes what it loads once more."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


def _zeros(session: Any) -> dict[str, Any]:
    """Inputs of zeros, with 1 for every free dim."""
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


def main() -> None:
    """Inspect the file and write the answer."""
    path, folder = map(pathlib.Path, sys.argv[1:3])
    answer = inspect(path, folder)
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
