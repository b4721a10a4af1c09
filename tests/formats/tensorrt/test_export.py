"""Engines built by TensorRT-RTX with no GPU: what is refused, what is promised, and what a
failure leaves in the folder.
"""

import hashlib
import json
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.tensorrt.export import (
    OnnxToTensorrt,
    attribute_nodes,
    run_build,
)
from edgekit.formats.tensorrt.graph import count_macs
from edgekit.signature import Signature, TensorSpec
from edgekit.task import Task

pytest.importorskip("tensorrt_rtx")

RTX = ("SM86", "SM89", "SM120")
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)
SYMMETRIC = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
}


class Net(torch.nn.Module):
    """Two plain convolutions, a depthwise one, a mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.first(x))))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Random(CalibrationDataReader):  # type: ignore[misc]
    """Eight random images."""

    def __init__(self) -> None:
        random = numpy.random.default_rng(0)
        self.images: Iterator[Any] = iter(
            [
                {
                    "input": random.standard_normal((1, 1, 8, 8)).astype(
                        "float32"
                    )
                }
                for _ in range(8)
            ]
        )

    def get_next(self) -> Any:
        return next(self.images, None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """ONNX files of one network: float, fp16, int8, int8 in fp16, and the ways of
    quantizing that TensorRT refuses.
    """
    folder = tmp_path_factory.mktemp("models")
    path = str(folder / "float.onnx")
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net().eval(),
            (torch.randn(2, 1, 8, 8),),
            path,
            dynamo=True,
            opset_version=20,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
        signed: dict[str, Any] = {
            "quant_format": QuantFormat.QDQ,
            "per_channel": True,
            "activation_type": QuantType.QInt8,
            "weight_type": QuantType.QInt8,
        }
        quantize_static(
            path,
            str(folder / "int8.onnx"),
            Random(),
            **signed,
            extra_options=SYMMETRIC,
        )
        quantize_static(
            path,
            str(folder / "asymmetric.onnx"),
            Random(),
            **signed,
            extra_options={"QuantizeBias": False},
        )
        quantize_static(
            path,
            str(folder / "bias.onnx"),
            Random(),
            **signed,
            extra_options={**SYMMETRIC, "QuantizeBias": True},
        )
        quantize_static(
            path,
            str(folder / "uint8.onnx"),
            Random(),
            **{**signed, "activation_type": QuantType.QUInt8},
            extra_options={"QuantizeBias": False},
        )
        quantize_static(
            path,
            str(folder / "qlinear.onnx"),
            Random(),
            **{**signed, "quant_format": QuantFormat.QOperator},
        )
        plain = onnx.load(path)
        del plain.graph.value_info[
            :
        ]  # quantize_dynamic turns a Gemm round and then stumbles over its stored shape
        quantize_dynamic(plain, str(folder / "dynamic.onnx"))
        for name in ("float", "int8"):
            half = convert_float_to_float16(
                onnx.load(str(folder / f"{name}.onnx")), keep_io_types=True
            )
            sort_nodes(half.graph)
            onnx.save(half, str(folder / f"{name}-fp16.onnx"))
    return folder


@pytest.fixture
def work(
    models: pathlib.Path, tmp_path: pathlib.Path
) -> Callable[..., tuple[Artifact, Artifact]]:
    """Require, run and ensure a step on one of the models; the artifacts before and after."""

    def done(
        name: str, step: OnnxToTensorrt, folder: str = "out"
    ) -> tuple[Artifact, Artifact]:
        before = artifact(models / f"{name}.onnx")
        step.requires(before)
        after = step.run(before, context(tmp_path / folder))
        step.ensures(before, after)
        return before, after

    return done


def artifact(path: pathlib.Path, signature: Signature = SIGNATURE) -> Artifact:
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=signature,
                files={"model": File(path=path.name)},
            ),
        ),
        folder=path.parent,
    )


def context(folder: pathlib.Path) -> Context:
    folder.mkdir()
    images = numpy.zeros((4, 1, 8, 8), "float32")
    return Context(
        folder=folder,
        networks=dict,
        task=Task(name="none", test=(images, numpy.zeros(4, "int64"))),
    )


def log_of(built: Artifact) -> dict[str, Any]:
    return json.loads(built.path(built.parts[0], "log").read_text())  # type: ignore[no-any-return]


def engine_hash(built: Artifact) -> str:
    return hashlib.sha256(
        built.path(built.parts[0], "engine").read_bytes()
    ).hexdigest()


def program_hash(built: Artifact) -> str:
    """The engine without the numbers in the compiler's own names, which follow the
    addresses of its objects.
    """
    engine = built.path(built.parts[0], "engine").read_bytes()
    return hashlib.sha256(re.sub(rb"__mye\d+", b"__mye", engine)).hexdigest()


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Each node after those that feed it; convert_float_to_float16 leaves its casts at the
    end.
    """
    left, available = (
        list(graph.node),
        {""} | {value.name for value in (*graph.input, *graph.initializer)},
    )
    del graph.node[:]
    while left:
        ready = [node for node in left if available.issuperset(node.input)]
        graph.node.extend(ready)
        available.update(name for node in ready for name in node.output)
        left = [node for node in left if not available.issuperset(node.output)]


def compute(log: dict[str, Any]) -> dict[str, str]:
    return {
        "+".join(row["nodes"]): row["dtype"]
        for row in log["layers"]
        if row["kind"] in ("conv", "gemm")
    }


def test_an_int8_graph_becomes_one_engine_whose_products_all_run_in_int8(
    models: pathlib.Path, work: Any
) -> None:
    """SM86, SM89 and SM120 in one engine; every convolution and the linear layer are Int8
    by the build log.
    """
    before, after = work("int8", OnnxToTensorrt(RTX))
    log = log_of(after)
    assert after.format == "tensorrt" and set(after.parts[0].files) == {
        "engine",
        "model",
        "log",
    }
    assert (
        after.path(after.parts[0]).read_bytes()
        == before.path(before.parts[0]).read_bytes()
    )
    assert len(compute(log)) == 4 and set(compute(log).values()) == {"Int8"}
    assert log["profiles"] == [
        {"input": [[1, 1, 8, 8], [1, 1, 8, 8], [16, 1, 8, 8]]}
    ]
    notes = after.notes["tensorrt"]["main"]
    assert notes["layers"] == {"conv Int8": 3, "gemm Int8": 1} and notes[
        "compute_capabilities"
    ] == list(RTX)
    assert (
        notes["builder"].startswith("tensorrt_rtx 1.")
        and notes["engine_bytes"]
        == after.path(after.parts[0], "engine").stat().st_size
    )
    # 8*9 + 8*9 + 16*8*9 + 16*10 weights of one byte, and their scales and biases.
    assert 1456 < notes["weights_bytes"] < 20000


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float", "Float"), ("float-fp16", "Half"), ("int8-fp16", "Int8")],
)
def test_the_precision_is_that_of_the_graph(
    work: Any, name: str, dtype: str
) -> None:
    """A float, a half-float and a mixed graph build, and run in the datatypes that the
    graph has.
    """
    _, after = work(name, OnnxToTensorrt(RTX))
    assert set(compute(log_of(after)).values()) == {dtype}


def test_the_same_graph_gives_the_same_engine(work: Any) -> None:
    """Two builds in two processes: a float engine is the same byte for byte, an int8 one
    but for the compiler's own names.
    """
    first, second = (
        work("float", OnnxToTensorrt(RTX), folder)[1] for folder in ("a", "b")
    )
    assert engine_hash(first) == engine_hash(second) and log_of(
        first
    ) == log_of(second)
    first, second = (
        work("int8", OnnxToTensorrt(RTX), folder)[1] for folder in ("c", "d")
    )
    assert program_hash(first) == program_hash(second) and compute(
        log_of(first)
    ) == compute(log_of(second))


def test_a_failed_turing_build_does_not_change_the_next_one(
    work: Any, tmp_path: pathlib.Path
) -> None:
    """After a refused SM75 build the SM86 engine is that of a fresh machine, and still
    int8.
    """
    clean = work("int8", OnnxToTensorrt(("SM86",)), "clean")[1]
    with pytest.raises(
        StepError, match=r"SM75 \(Turing\) has no float32 matrix multiplication"
    ) as refusal:
        work("float", OnnxToTensorrt(("SM75",)), "failed")
    assert "fp16" in (refusal.value.fix or "")
    assert list((tmp_path / "failed").iterdir()) == []
    later = work("int8", OnnxToTensorrt(("SM86",)), "later")[1]
    assert engine_hash(later) == engine_hash(clean) and set(
        compute(log_of(later)).values()
    ) == {"Int8"}


def test_an_int8_graph_whose_convolutions_fall_back_is_not_let_through(
    work: Any,
) -> None:
    """On SM75 TensorRT builds the graph but computes the convolutions in Half; the step
    reports which.
    """
    with pytest.raises(
        StepError,
        match=r"is int8, but not its engine for SM75:(.|\n)*runs in Half",
    ) as broken:
        work("int8-fp16", OnnxToTensorrt(("SM75",)))
    assert "SM75" in (broken.value.fix or "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("asymmetric", "its zero point is not 0 .asymmetric."),
        ("uint8", "its zero point is uint8, not int8"),
        ("bias", "a bias is quantized to int32"),
        ("qlinear", "QLinearConv is an integer operator"),
        ("dynamic", "DynamicQuantizeLinear is an integer operator"),
    ],
)
def test_other_quantization_is_refused_before_any_work(
    models: pathlib.Path, name: str, reason: str
) -> None:
    """Every node that TensorRT cannot take is listed at once, with the scheme to use
    instead.
    """
    with pytest.raises(StepError, match=reason) as refusal:
        OnnxToTensorrt(RTX).requires(artifact(models / f"{name}.onnx"))
    assert "symmetric int8" in (refusal.value.fix or "")
    assert len(refusal.value.message.splitlines()) > 2


@pytest.mark.parametrize("capability", ["SM87", "SM90"])
def test_a_capability_that_the_library_lacks_is_refused(
    work: Any, tmp_path: pathlib.Path, capability: str
) -> None:
    """Jetson Orin and Hopper are refused by name, with what the library has; no file is
    left.
    """
    with pytest.raises(
        StepError,
        match=f"{capability} is not a compute capability of this version; it has SM75",
    ) as refusal:
        work("int8", OnnxToTensorrt(("SM86", capability)))
    assert "on the device itself" in (refusal.value.fix or "")
    assert list((tmp_path / "out").iterdir()) == []


def test_capabilities_are_read_in_the_ways_people_write_them() -> None:
    """8.6, sm_86 and 86 are SM86; named twice they count once; anything else is an error."""
    assert OnnxToTensorrt(
        ("8.6", "sm_86", "86", "12.0")
    ).compute_capabilities == (
        "SM86",
        "SM120",
    )
    assert OnnxToTensorrt(["SM86"]) == OnnxToTensorrt(("SM86",))
    with pytest.raises(StepError, match="'ampere' is not a compute capability"):
        OnnxToTensorrt(("ampere",))
    with pytest.raises(
        StepError,
        match=r"expected 1 <= min <= opt <= max, got profile \[1, 1, 0\]",
    ):
        OnnxToTensorrt(RTX, max_batch=0)


def test_every_operator_that_tensorrt_lacks_is_named(
    tmp_path: pathlib.Path,
) -> None:
    """The scatter that ends the parsing and the custom operator after it are both reported,
    each with a fix.
    """
    nodes = [
        helper.make_node(
            "ScatterND",
            ["input", "places", "updates"],
            ["sum"],
            name="index_add",
            reduction="add",
        ),
        helper.make_node(
            "Frobnicate", ["sum"], ["output"], name="custom", domain="my.own"
        ),
    ]
    constants = [
        numpy_helper.from_array(numpy.array([[0], [1]]), "places"),
        numpy_helper.from_array(numpy.ones((2, 4), "float32"), "updates"),
    ]
    path = save(tmp_path / "refused.onnx", nodes, [4, 4], [4, 4], constants)
    signature = Signature(
        inputs=(TensorSpec(name="input", dtype="float32", dims=(4, 4)),),
        outputs=(TensorSpec(name="output", dtype="float32", dims=(4, 4)),),
    )
    step, before = OnnxToTensorrt(RTX), artifact(path, signature)
    step.requires(before)
    with pytest.raises(
        StepError,
        match=r"index_add \[ScatterND\]: TensorRT has no scatter with a reduction"
        r"(.|\n)*custom \[Frobnicate\]",
    ) as refusal:
        step.run(before, context(tmp_path / "out"))
    assert (
        "one-hot" in (refusal.value.fix or "")
        and list((tmp_path / "out").iterdir()) == []
    )


def test_a_second_free_dimension_is_rejected(tmp_path: pathlib.Path) -> None:
    """There is no profile for it, so the graph is refused before the build."""
    path = save(
        tmp_path / "free.onnx",
        [helper.make_node("Relu", ["input"], ["output"])],
        ["batch", "length"],
        ["batch", "length"],
        [],
    )
    with pytest.raises(
        StepError,
        match="the input input has free dimensions other than the batch: 1",
    ):
        OnnxToTensorrt(RTX).requires(artifact(path))


def test_a_broken_file_is_an_error_with_its_name(
    tmp_path: pathlib.Path,
) -> None:
    """A file that is not ONNX is reported as such."""
    path = tmp_path / "main.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(StepError, match="main.onnx is not a valid ONNX file"):
        OnnxToTensorrt(RTX).requires(artifact(path))


def test_a_part_that_fails_takes_the_parts_before_it_along(
    models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The first part is built, the second is refused by the parser (zero point): nothing
    stays in the folder.
    """
    names = ("float.onnx", "asymmetric.onnx")
    parts = tuple(
        Part(
            name=name.partition(".")[0],
            signature=SIGNATURE,
            files={"model": File(path=name)},
        )
        for name in names
    )
    before = Artifact(format="onnx", parts=parts, folder=models)
    with pytest.raises(
        StepError,
        match=r"cannot read the graph of 'asymmetric':\n.*QuantizeLinear.*: a zero point is not 0",
    ) as refusal:
        OnnxToTensorrt(RTX).run(before, context(tmp_path / "out"))
    assert (
        "symmetric int8" in (refusal.value.fix or "")
        and list((tmp_path / "out").iterdir()) == []
    )


def request(models: pathlib.Path, engine: pathlib.Path) -> dict[str, Any]:
    return {
        "module": "tensorrt_rtx",
        "onnx": str(models / "int8.onnx"),
        "engine": str(engine),
        "compute_capabilities": ["SM86"],
        "profiles": [{"input": [[1, 1, 8, 8]] * 3}],
    }


def test_a_build_that_hangs_is_ended(
    models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The time limit is an error of the step, and no engine is left."""
    with pytest.raises(StepError, match=r"did not finish within 0\.05 s"):
        run_build(request(models, tmp_path / "x.engine"), timeout_s=0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_crashes_is_an_error_of_the_step(
    models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A crash is reported with its signal and its last output, and the partial file is
    removed.
    """
    engine = tmp_path / "x.engine"
    code = (
        f"import os, sys; open({str(engine) + '.partial'!r}, 'w').write('half'); "
        "print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)"
    )
    with pytest.raises(StepError, match=r"signal 11:\n  last words"):
        run_build(request(models, engine), command=(sys.executable, "-c", code))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_engine_breaks_the_contract(work: Any) -> None:
    """The step rejects an empty engine file."""
    before, after = work("float", OnnxToTensorrt(RTX))
    after.path(after.parts[0], "engine").write_bytes(b"")
    with pytest.raises(StepError, match="the engine of 'main' is empty"):
        OnnxToTensorrt(RTX).ensures(before, after)


def test_multiply_accumulates_are_those_of_the_formula(
    models: pathlib.Path,
) -> None:
    """8x8 positions: 8*9 and 8*9 (depthwise), 4x4 positions: 16*8*9, and 16*10; the same
    for the quantized graph.
    """
    expected_macs = [64 * 8 * 9, 64 * 8 * 9, 16 * 16 * 8 * 9, 16 * 10]
    for name in ("float", "int8", "int8-fp16"):
        assert (
            list(count_macs(onnx.load(str(models / f"{name}.onnx"))).values())
            == expected_macs
        )


def test_the_work_of_a_node_goes_to_the_layers_that_multiply() -> None:
    """A following kernel that also names the node gets nothing; two layers share; a lone
    kernel takes the product in.
    """
    rows: list[dict[str, Any]] = [
        {"kind": "conv", "origins": ["a"]},
        {"kind": "", "origins": ["a"]},
        {"kind": "gemm", "origins": ["b"]},
        {"kind": "gemm", "origins": ["b"]},
        {"kind": "", "origins": ["c", "relu"]},
    ]
    attribute_nodes(rows, {"a": 10, "b": 7, "c": 3, "folded away": 5})
    assert [(row["kind"], row["nodes"], row["macs"]) for row in rows] == [
        ("conv", ["a"], 10),
        ("", [], 0),
        ("gemm", ["b"], 4),
        ("gemm", ["b"], 3),
        ("kernel", ["c"], 3),
    ]


def save(
    path: pathlib.Path,
    nodes: list[Any],
    input_dims: list[Any],
    output_dims: list[Any],
    constants: list[Any],
) -> pathlib.Path:
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("input", input_dims), ("output", output_dims))
    ]
    graph = helper.make_graph(
        nodes, "graph", tensors[:1], tensors[1:], constants
    )
    onnx.save(
        helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", 20),
                helper.make_opsetid("my.own", 1),
            ],
            ir_version=10,
        ),
        str(path),
    )
    return path
