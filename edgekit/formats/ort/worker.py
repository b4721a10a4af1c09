"""Reads an .ort file and runs it once on zeros, in a process of its own: ``python -I
worker.py FILE FOLDER``.

Writes into the folder ``answer.json``, a profile, and ``optimized.onnx``: the operators
that the file stores, as an ONNX graph without its weights' numbers. Needs onnxruntime with
its tools, onnx and numpy, and nothing of edgekit.
"""

import json
import pathlib
import sys
from typing import Any

#: Graphs inside If, Loop and Scan may hold such operators again; no exporter goes deeper.
DEEPEST = 8
MOST_OPERATORS = 200_000


def graph_of(stored: Any, depth: int = 0) -> Any:
    """The ONNX graph of a graph in the file.

    Raises ValueError where it is none that ONNX Runtime's converter writes.
    """
    import onnx

    if (
        depth > DEEPEST
        or stored.NodesLength() > MOST_OPERATORS
        or stored.InitializersLength() > MOST_OPERATORS
    ):
        raise ValueError("its graph is too large, or too deep")
    graph = onnx.GraphProto(name="stored")
    for place in range(stored.InitializersLength()):
        tensor = stored.Initializers(place)
        if tensor.ExternalDataOffset() >= 0:
            raise ValueError("its weights lie outside of the file")
        graph.initializer.append(
            onnx.TensorProto(
                name=_text(tensor.Name()),
                data_type=tensor.DataType(),
                dims=[tensor.Dims(k) for k in range(tensor.DimsLength())],
            )
        )
    for place in range(stored.NodesLength()):
        node = stored.Nodes(place)
        made = graph.node.add(
            op_type=_text(node.OpType()),
            name=_text(node.Name()),
            domain=_text(node.Domain()),
        )
        made.input.extend(_text(node.Inputs(k)) for k in range(node.InputsLength()))
        made.output.extend(_text(node.Outputs(k)) for k in range(node.OutputsLength()))
        made.attribute.extend(
            filter(
                None,
                (
                    _attribute(node.Attributes(k), depth)
                    for k in range(node.AttributesLength())
                ),
            )
        )
    graph.output.extend(
        onnx.ValueInfoProto(name=_text(stored.Outputs(k)))
        for k in range(stored.OutputsLength())
    )
    return graph


def _attribute(stored: Any, depth: int) -> Any:
    """Numbers, a word or a graph; tensors and lists are not looked at."""
    import onnx

    kind, name = stored.Type(), _text(stored.Name())
    kinds = onnx.AttributeProto
    if kind == kinds.GRAPH:
        return kinds(name=name, type=kind, g=graph_of(stored.G(), depth + 1))
    if kind == kinds.STRING:
        return kinds(name=name, type=kind, s=stored.S() or b"")
    if kind == kinds.FLOAT:
        return kinds(name=name, type=kind, f=stored.F())
    return kinds(name=name, type=kind, i=stored.I()) if kind == kinds.INT else None


def _text(given: bytes | None) -> str:
    return (given or b"").decode("utf-8", "replace")


def installed_format(folder: pathlib.Path) -> str:
    """The version of the file format that the installed ONNX Runtime writes: it converts a
    model of one operator.
    """
    import onnx
    import onnxruntime
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

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
    return _text(InferenceSession.GetRootAs(written.read_bytes(), 0).OrtVersion())


def work(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """What is told of the file; its graph and the profile of its run are written into the
    folder.
    """
    import numpy
    import onnx
    import onnxruntime
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

    answer = {
        "version": onnxruntime.__version__,
        "format": "",
        "installed_format": "",
        "error": "",
        "refused": True,
    }
    content = path.read_bytes()
    if content[4:8] != b"ORTM":
        return {**answer, "error": "it has no mark 'ORTM'"}
    try:
        stored = InferenceSession.GetRootAs(content, 0)
        answer["format"] = _text(stored.OrtVersion())
        answer["installed_format"] = installed_format(folder)
        onnx.save(
            onnx.helper.make_model(graph_of(stored.Model().Graph())),
            str(folder / "optimized.onnx"),
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        # As a reduced build runs it; a full one optimizes what it loads once more.
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
        options.enable_profiling, options.profile_file_prefix = (
            True,
            str(folder / "profile"),
        )
        running = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except (
        Exception
    ) as error:  # ONNX Runtime's own classes, and whatever reading a damaged buffer raises
        return {**answer, "error": f"{type(error).__name__}: {error}"}
    kinds = {
        "tensor(float)": "float32",
        "tensor(double)": "float64",
        "tensor(float16)": "float16",
    }
    try:
        shapes = {
            end.name: [dim if isinstance(dim, int) and dim > 0 else 1 for dim in end.shape]
            for end in running.get_inputs()
        }
        running.run(
            None,
            {
                end.name: numpy.zeros(shapes[end.name], kinds.get(end.type, end.type[7:-1]))
                for end in running.get_inputs()
            },
        )
    except Exception as error:
        answer["error"] = str(error)
    return {**answer, "refused": False, "profile": running.end_profiling()}


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[2])
    (place / "answer.json").write_text(
        json.dumps(work(pathlib.Path(sys.argv[1]), place)), encoding="utf-8"
    )
