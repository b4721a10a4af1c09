"""The table of precisions and GPUs, measured again: one small network a cell, each build in
a separate process.
"""

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import (
    NotImplemented as NoKernel,
)

from edgekit.formats.tensorrt import build as tensorrt_build
from edgekit.formats.tensorrt import nvidia
from edgekit.scheme import SCHEMES

#: precision -> dtype around the product, dtype of the quantized numbers, size of a block,
#: opset.
KINDS: dict[str, tuple[Any, Any, int, int]] = {
    "float": ("float32", None, 0, 20),
    "fp16": ("float16", None, 0, 20),
    "bf16": (ml_dtypes.bfloat16, None, 0, 22),
    "int8": ("float32", "int8", 0, 20),
    "int8 in fp16": ("float16", "int8", 0, 20),
    "fp8": ("float32", ml_dtypes.float8_e4m3fn, 0, 20),
    "int4": ("float16", ml_dtypes.int4, 32, 21),
    "fp4": ("float16", ml_dtypes.float4_e2m1fn, 16, 23),
}


def network(precision: str, operator: str) -> onnx.ModelProto:
    """One convolution or matrix product with stored weights and a ReLU; its input and
    output are float32.
    """
    around, quantized, block, opset = KINDS[precision]
    around = numpy.dtype(around)
    shape = (32, 32, 3, 3) if operator == "Conv" else (64, 64)
    weights = numpy.random.default_rng(0).standard_normal(shape)
    tensors, nodes = (
        [],
        [
            helper.make_node(
                "Cast",
                ["input"],
                ["x"],
                to=helper.np_dtype_to_tensor_dtype(around),
            )
        ],
    )

    def keep(name: str, value: Any, dtype: Any) -> None:
        tensors.append(
            numpy_helper.from_array(numpy.asarray(value).astype(dtype), name)
        )

    if quantized is None:
        keep("w", weights, around)
    elif block:
        keep("stored", weights.clip(-6, 6), quantized)
        if (
            precision == "fp4"
        ):  # two floors of scales: float8 ones for the blocks, one for all
            keep(
                "blocks",
                numpy.full((64 // block, 64), 0.5),
                ml_dtypes.float8_e4m3fn,
            )
            keep("scale", 0.1, around)
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", ["blocks", "scale"], ["scales"]
                )
            )
        else:
            keep("scales", numpy.full((64 // block, 64), 0.1), around)
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                ["stored", "scales"],
                ["w"],
                axis=0,
                block_size=block,
            )
        )
    else:
        keep("scale", 0.05, around)
        keep("zero", 0, quantized)
        keep("stored", (weights * 30).clip(-127, 127), quantized)
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node(
                "DequantizeLinear", ["q", "scale", "zero"], ["rounded"]
            ),
            helper.make_node(
                "DequantizeLinear", ["stored", "scale", "zero"], ["w"]
            ),
        ]
    data = "rounded" if quantized is not None and not block else "x"
    padding = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {}
    nodes += [
        helper.make_node(
            operator, [data, "w"], ["product"], name="product", **padding
        ),
        helper.make_node("Relu", ["product"], ["relu"]),
        helper.make_node("Cast", ["relu"], ["output"], to=TensorProto.FLOAT),
    ]
    dims = ["batch", 32, 8, 8] if operator == "Conv" else ["batch", 64]
    graph_input, graph_output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name in ("input", "output")
    )
    graph = helper.make_graph(
        nodes, "graph", [graph_input], [graph_output], tensors
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11
    )


def built(
    folder: pathlib.Path, model: onnx.ModelProto, *names: str
) -> dict[str, Any]:
    """The answer of one build for these GPUs."""
    onnx.save(model, str(folder / "main.onnx"))
    dims = [
        dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim
    ][1:]
    request = {
        "module": "tensorrt_rtx",
        "onnx": str(folder / "main.onnx"),
        "engine": str(folder / "main.engine"),
        "compute_capabilities": names,
        "profiles": [{"input": [[batch, *dims] for batch in (1, 1, 4)]}],
    }
    done = subprocess.run(
        [sys.executable, tensorrt_build.__file__, "-"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def runs_in(answer: dict[str, Any]) -> str:
    """The datatypes of the product's layer; empty if the build failed."""
    return "+".join(
        row["dtype"]
        for row in answer["layers"]
        if row["kind"] and "product" in row["origins"]
    )


@pytest.mark.parametrize(("precision", "operator"), nvidia.BUILT)
def test_the_table_is_what_tensorrt_builds(
    precision: str, operator: str, tmp_path: pathlib.Path
) -> None:
    """Every cell of a row, measured: the datatypes of the product by the build log, or a
    refusal that names the architecture or its datatype.
    """
    pytest.importorskip("tensorrt_rtx")
    model = network(precision, operator)
    answers = [
        built(tmp_path, model, f"SM{number}") for number in nvidia.MEASURED
    ]
    assert (
        tuple(runs_in(answer) for answer in answers)
        == nvidia.BUILT[precision, operator]
    )
    for answer in answers:
        reasons = "HW-specific datatypes: |FP32 GEMM is not supported"
        assert answer["ok"] or re.search(
            reasons, "".join(error["text"] for error in answer["errors"])
        )


def test_the_least_capability_of_a_precision_follows_from_the_table() -> None:
    """It is the oldest GPU from which on no cell is refused or falls back to floats."""
    for precision, minimum in nvidia.MIN_CAPABILITY.items():
        rows = [
            row for (name, _), row in nvidia.BUILT.items() if name == precision
        ]
        good = [
            number
            for k, number in enumerate(nvidia.MEASURED)
            if all(row[k] == row[-1] for row in rows)
        ]
        assert good == [
            number for number in nvidia.MEASURED if number >= minimum
        ], precision


def test_the_schemes_require_what_the_table_contains() -> None:
    """A scheme's least capability is that of its precision; fp16 runs everywhere."""
    precisions = {
        "float": "float",
        "w8a8-static": "int8",
        "w8a8-qat": "int8",
        "w4-weight": "int4",
        "fp8": "fp8",
    }
    requirements = {
        name: scheme.least_capability
        for name, scheme in SCHEMES.items()
        if "tensorrt" in scheme.formats
    }
    assert requirements == {
        **{
            name: nvidia.MIN_CAPABILITY[precision]
            for name, precision in precisions.items()
        },
        "fp16": 0,
    }
    assert set(nvidia.MEASURED) <= set(nvidia.GPUS)


@pytest.mark.parametrize(
    ("minimum", "names", "message"),
    [
        (89, ("SM87",), "SM87 cannot run x, which requires SM89 or newer"),
        (
            89,
            ("SM80", "SM89", "SM90"),
            "SM80 cannot run x, which requires SM89 or newer (of this target's compute "
            "capabilities SM89 and SM90 can)",
        ),
        (
            120,
            ("SM110", "SM120"),
            "SM110 cannot run x, which requires SM120 or newer (of this target's compute "
            "capabilities SM120 can)",
        ),
        (89, ("SM90", "SM110", "SM120"), None),
        (80, ("SM87", "SM90", "11.0"), None),
        (80, (), None),
    ],
)
def test_gpus_that_are_too_old_are_named_and_so_are_those_that_can(
    minimum: int, names: tuple[str, ...], message: str | None
) -> None:
    """Jetson Orin (87) is older than Ada (89), Hopper (90) and Thor (110) are not."""
    refusal = nvidia.explain_too_old("x", minimum, names)
    assert (refusal and refusal[0]) == message


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_onnx_runtime_has_no_bf16_on_a_processor(operator: str) -> None:
    """Why bf16 is no scheme: nothing here could compute its outputs.

    Where this fails, it can be offered.
    """
    with pytest.raises(
        NoKernel, match=f"Could not find an implementation for {operator}"
    ):
        onnxruntime.InferenceSession(
            network("bf16", operator).SerializeToString(),
            providers=["CPUExecutionProvider"],
        )
