"""Compile an OpenVINO file for this processor and list what it executes, in its own process:

    python -I runtime_graph.py FILE.xml [FILE.bin]

Writes one JSON object to stdout. Needs openvino, and nothing of edgekit.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

#: Nodes that hold data and compute nothing.
_DATA = {"Const", "Input", "Output"}


def list_operators(path: str, weights: str) -> dict[str, Any]:
    """The operators of the compiled model for one sample, in the order of execution."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # see library.py
    import openvino

    core = openvino.Core()
    report: dict[str, Any] = {"version": openvino.__version__, "error": ""}
    try:
        model = (
            core.read_model(path, weights) if weights else core.read_model(path)
        )
        precision = _recorded(model, ["edgekit", "inference_precision"])
        _fix_dims(openvino, model)
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        compiled = core.compile_model(model, "CPU", options)
    except (
        Exception
    ) as error:  # whatever OpenVINO raises; it has only RuntimeError's text
        return {**report, "error": f"{type(error).__name__}: {error}"}
    executed = str(
        compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    )
    nodes = list(_executed(compiled.get_runtime_model()))
    return {
        **report,
        "requested_precision": precision,
        "float_precision": executed,
        "capabilities": list(
            core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        ),
        "products": _products(model),
        "operators": [_row(node) for node in nodes],
    }


def _executed(model: Any) -> Iterator[Any]:
    """What is computed at every inference; what depends on constants alone is computed once,
    when the file is compiled.
    """
    constant: set[str] = set()
    for node in model.get_ordered_ops():
        layer = _text(node, "layerType")
        sources = {
            port.get_source_output().get_node().get_friendly_name()
            for port in node.inputs()
        }
        if layer == "Const" or (sources and sources <= constant):
            constant.add(node.get_friendly_name())
        elif layer not in _DATA:
            yield node


def _fix_dims(openvino: Any, model: Any) -> None:
    """One sample: every free dimension becomes 1."""
    shapes = {}
    for port in model.inputs:
        dims = port.get_partial_shape()
        fixed = [1 if dim.is_dynamic else dim.get_length() for dim in dims]
        shapes[port] = openvino.PartialShape(fixed)
    model.reshape(shapes)


def _products(model: Any) -> dict[str, list[Any]]:
    """The matrix products of every node by its name, each as the shapes of its left operand
    and its result: OpenVINO fuses some into an attention, which does not list them.
    """
    products = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            products[node.get_friendly_name()] = [
                [_shape(node.input(0)), _shape(node.output(0))]
            ]
        if node.get_type_name() == "ScaledDotProductAttention":
            query, key, _ = (_shape(node.input(port)) for port in range(3))
            weights, result = [*query[:-1], key[-2]], _shape(node.output(0))
            products[node.get_friendly_name()] = [
                [query, weights],
                [weights, result],
            ]
    return products


def _row(node: Any) -> dict[str, Any]:
    return {
        "op": _text(node, "layerType"),
        "name": node.get_friendly_name(),
        "kernel": _text(node, "primitiveType"),
        "precision": _text(node, "runtimePrecision"),
        "results": _text(node, "outputPrecisions"),
        "layout": _text(node, "outputLayouts"),
        "layers": _text(node, "originalLayersNames"),
        "inputs": [_shape(port) for port in node.inputs()],
        "readers": [_text(reader, "layerType") for reader in _readers(node)],
        "output": _shape(node.output(0)) if node.get_output_size() else [],
    }


def _readers(node: Any) -> list[Any]:
    ports = [
        port for output in node.outputs() for port in output.get_target_inputs()
    ]
    return [port.get_node() for port in ports]


def _shape(port: Any) -> list[int]:
    """The dims; a dimension that stays free (the length of a result) counts as 1."""
    return [
        1 if dim.is_dynamic else dim.get_length()
        for dim in port.get_partial_shape()
    ]


def _text(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _recorded(model: Any, path: list[str]) -> str:
    return (
        str(model.get_rt_info(path).astype(str))
        if model.has_rt_info(path)
        else ""
    )


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # native code prints to stdout
    text = json.dumps(list_operators(sys.argv[1], (sys.argv[2:] or [""])[0]))
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write(text)
