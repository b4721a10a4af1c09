"""One recipe for every desktop GPU and for the devices: GPUs, batches, one engine for SM80
to SM120, and what a GPU lacks is refused first.
"""

import hashlib
import json
import pathlib
from typing import Any

import ml_dtypes
import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edgekit.artifact import Artifact, File, Part
from edgekit.contracts import Context
from edgekit.errors import StepError
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.onnx.export import export
from edgekit.formats.tensorrt.engine_recipe import OnnxToEngineRecipe
from edgekit.formats.tensorrt.export import OnnxToTensorrt
from edgekit.quantization.graph import calibrate, simulate
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.sources.resnet import resnet8
from edgekit.task import Task
from edgekit.tasks.digits import digits

ALL = ("SM80", "SM86", "SM89", "SM120")
STEPS = (OnnxToTensorrt, OnnxToEngineRecipe)


class Transformer(nn.Module):
    """Two layers: attention of two heads over eight rows of eight pixels, and a head for
    ten classes.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "mixed": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "second": nn.LayerNorm(width),
                    "up": nn.Linear(width, 2 * width),
                    "down": nn.Linear(2 * width, width),
                }
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2))
        for block in self.blocks:
            query, key, value = (
                block["mixed"](block["norm"](x))
                .unflatten(-1, (3, 2, -1))
                .permute(2, 0, 3, 1, 4)
            )  # type: ignore[index]
            x = x + block["out"](
                functional.scaled_dot_product_attention(query, key, value)
                .transpose(1, 2)
                .flatten(2)
            )  # type: ignore[index]
            x = x + block["down"](
                functional.gelu(block["up"](block["second"](x)))
            )  # type: ignore[index]
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def int8(network: nn.Module, folder: pathlib.Path) -> Artifact:
    """A network for the digits, calibrated on 64 of them and exported for TensorRT."""
    folder.mkdir()
    spec = TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8))
    signature = Signature(
        inputs=(spec,),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 10)),
        ),
    )
    data = torch.from_numpy(
        digits().need("calibration", "the test").draw(64, 0).inputs["input"]
    )
    calibration = calibrate(
        network.eval(),
        [(data,)],
        signature,
        Settings(symmetric=True, runtime="tensorrt"),
    )
    onnx_graph.write(
        export(simulate(network, signature, calibration, fold=True), signature),
        folder / "main.onnx",
    )
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=signature,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


def run(
    step: Any, before: Artifact, folder: pathlib.Path
) -> tuple[Artifact, dict[str, Any]]:
    """Require, run, ensure; the artifact and its build log."""
    folder.mkdir()
    step.requires(before)
    images = numpy.zeros((4, 1, 8, 8), "float32")
    after = step.run(
        before,
        Context(
            folder=folder,
            networks=dict,
            task=Task(name="none", test=(images, numpy.zeros(4, "int64"))),
        ),
    )
    step.ensures(before, after)
    return after, json.loads(after.path(after.parts[0], "log").read_text())


@pytest.mark.parametrize(
    ("make", "least"),
    [(lambda: resnet8(1, 10, 16), 10), (Transformer, 10)],
    ids=["resnet", "transformer"],
)
def test_one_engine_runs_int8_on_every_gpu_from_ampere_to_blackwell(
    make: Any, least: int, tmp_path: pathlib.Path
) -> None:
    """SM80, 86, 89 and 120 in one engine from one recipe: every product with weights is
    Int8 by the log. Built twice it is the same file.
    """
    pytest.importorskip("tensorrt_rtx")
    torch.manual_seed(0)
    before = int8(make(), tmp_path / "onnx")
    built = [
        run(OnnxToTensorrt(ALL), before, tmp_path / name) for name in ("a", "b")
    ]
    log = built[0][1]
    assert (
        log["compute_capabilities"] == list(ALL)
        and len(log["promised"]) >= least
    )
    seen = {
        node: row["dtype"]
        for row in log["layers"]
        if row["kind"] in ("conv", "gemm")
        for node in row["nodes"]
    }
    assert {seen[node] for node in log["promised"]} == {"Int8"}
    hashes = {
        hashlib.sha256(
            built_artifact.path(built_artifact.parts[0], "engine").read_bytes()
        ).hexdigest()
        for built_artifact, _ in built
    }
    assert len(hashes) == 1 and built[1][1]["layers"] == log["layers"]


def held(folder: pathlib.Path, dtype: Any) -> Artifact:
    """A matrix product whose weights are stored in a datatype that not every GPU has."""
    block = {ml_dtypes.int4: 32, ml_dtypes.float4_e2m1fn: 16}.get(dtype, 0)
    scale = (
        numpy.full((64 // block, 64), 0.1, "float16")
        if block
        else numpy.asarray(0.1, "float16")
    )
    tensors = [
        numpy_helper.from_array(numpy.ones((64, 64), dtype), "stored"),
        numpy_helper.from_array(scale, "scale"),
    ]
    blocks = {"axis": 0, "block_size": block} if block else {}
    nodes = [
        helper.make_node(
            "DequantizeLinear", ["stored", "scale"], ["w"], **blocks
        ),
        helper.make_node(
            "MatMul", ["input", "w"], ["output"], name="head/MatMul"
        ),
    ]
    graph_input, graph_output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["batch", 64])
        for name in ("input", "output")
    )
    graph = helper.make_graph(
        nodes, "graph", [graph_input], [graph_output], tensors
    )
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11
        ),
        str(folder / "main.onnx"),
    )
    signature = Signature(
        inputs=(TensorSpec(name="input", dtype="float16", dims=("batch", 64)),),
        outputs=(
            TensorSpec(name="output", dtype="float16", dims=("batch", 64)),
        ),
    )
    return Artifact(
        format="onnx",
        parts=(
            Part(
                name="main",
                signature=signature,
                files={"model": File(path="main.onnx")},
            ),
        ),
        folder=folder,
    )


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("dtype", "names", "problem"),
    [
        (
            ml_dtypes.float8_e4m3fn,
            ALL,
            "SM80 and SM86 cannot run fp8, which requires SM89 or newer (of this target's compute "
            "capabilities SM89 and SM120 can)",
        ),
        (
            ml_dtypes.float8_e4m3fn,
            ("SM87",),
            "SM87 cannot run fp8, which requires SM89 or newer",
        ),
        (
            ml_dtypes.float4_e2m1fn,
            ALL,
            "SM80 and SM86 and SM89 cannot run fp4, which requires SM120 or newer (of this "
            "target's compute capabilities SM120 can)",
        ),
        (
            ml_dtypes.int4,
            ("SM75", "SM86"),
            "SM75 cannot run int4, which requires SM80 or newer (of this target's compute "
            "capabilities SM86 can)",
        ),
    ],
)
def test_what_a_gpu_lacks_is_refused_before_the_build(
    step: Any,
    dtype: Any,
    names: tuple[str, ...],
    problem: str,
    tmp_path: pathlib.Path,
) -> None:
    """The datatypes in the file are checked against the GPUs, and the message names
    which of them can.
    """
    with pytest.raises(StepError) as refusal:
        step(names).requires(held(tmp_path, dtype))
    assert problem in refusal.value.message
    assert refusal.value.fix


def test_fp4_is_built_where_the_gpu_has_it(tmp_path: pathlib.Path) -> None:
    """SM120 accepts 4-bit float weights; the log shows that they are dequantized before
    the product.
    """
    pytest.importorskip("tensorrt_rtx")
    _, log = run(
        OnnxToTensorrt(("SM120",)),
        held(tmp_path, ml_dtypes.float4_e2m1fn),
        tmp_path / "out",
    )
    assert log["precision"] == "FP4" and log["promised"] == {
        "head/MatMul": "FP4"
    }
    assert [row["dtype"] for row in log["layers"] if row["kind"]] == ["Half"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"max_batch": 0}, "[1, 1, 0]"),
        ({"opt_batch": 17}, "[1, 17, 16]"),
        ({"profiles": [[4, 2, 8]]}, "[4, 2, 8]"),
        ({"profiles": [[1, 2]]}, "[1, 2]"),
    ],
)
def test_batches_that_do_not_grow_are_rejected(
    step: Any, settings: dict[str, Any], wrong: str
) -> None:
    """min <= opt <= max, and at least 1, when the step is created."""
    with pytest.raises(StepError) as refusal:
        step(("SM86",), **settings)
    assert f"profile {wrong}" in refusal.value.message


def test_several_profiles_reach_the_engine(tmp_path: pathlib.Path) -> None:
    """One for single samples, one tuned for 32 at once; both are in the request and the
    build accepts them.
    """
    pytest.importorskip("tensorrt_rtx")
    before = int8(resnet8(1, 10, 8), tmp_path / "onnx")
    _, log = run(
        OnnxToTensorrt(
            ("SM86",), max_batch=4, opt_batch=2, profiles=((16, 32, 64),)
        ),
        before,
        tmp_path / "out",
    )
    assert [
        [shape[0] for shape in row["input"]] for row in log["profiles"]
    ] == [
        [1, 2, 4],
        [16, 32, 64],
    ]
