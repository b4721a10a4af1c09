"""Grids in MatMulNBits nodes: every number kept, ONNX Runtime computes with them, and
nothing else is replaced.
"""

import pytest
import torch
from torch import nn

from edgekit.errors import StepError
from edgekit.formats.onnx.export import export
from edgekit.signature import Signature, TensorSpec

pytest.importorskip(
    "neural_compressor",
    reason="neural-compressor is not installed: pip install 'edgekit[intel]'",
)

import numpy
import onnx
import onnxruntime

from edgekit.formats.neural_compressor import blocks, nodes

INPUTS = 70  # two full blocks and a short one


def signature(*dims: int) -> Signature:
    return Signature(
        inputs=(
            TensorSpec(
                name="input", dtype="float32", dims=("batch", *dims, INPUTS)
            ),
        ),
        outputs=(
            TensorSpec(
                name="output", dtype="float32", dims=("batch", *dims, 40)
            ),
        ),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 40, bias=False)
    ).eval()


@pytest.mark.parametrize("dims", [(), (3,)], ids=["rows", "tokens"])
@pytest.mark.parametrize("method", [blocks.rtn, blocks.hqq], ids=["rtn", "hqq"])
def test_the_file_computes_with_exactly_the_grid(
    method: object, dims: tuple[int, ...]
) -> None:
    """Read back, each node has the grid bit for bit, and ONNX Runtime computes what torch
    computes with these weights.
    """
    changed = network()
    grids = method(changed)  # type: ignore[operator]
    model = export(changed, signature(*dims))
    assert nodes.write_grids(model, grids.values()) == len(grids) > 0
    written = [
        nodes.read_grid(model.graph, node)
        for node in model.graph.node
        if node.op_type == "MatMulNBits"
    ]
    for grid, stored in zip(grids.values(), written, strict=True):
        assert numpy.array_equal(grid.stored, stored.stored)
        assert numpy.array_equal(grid.weights(), stored.weights())
    data = torch.randn(5, *dims, INPUTS)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    got = session.run(None, {"input": data.numpy()})[0]
    assert numpy.allclose(got, changed(data).detach().numpy(), atol=1e-5)


def test_only_quantized_layers_are_replaced() -> None:
    """The layer without a grid keeps its float product, and the float weights of the other
    are gone from the file.
    """
    changed = network()
    grids = blocks.rtn(changed)
    model = export(changed, signature())
    before = model.ByteSize()
    nodes.write_grids(model, [grids["0"]])
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 1
    assert kinds.count("MatMul") + kinds.count("Gemm") == 1
    assert model.ByteSize() < before - 3 * INPUTS * 64
    onnx.checker.check_model(model)


def test_a_grid_that_is_not_in_the_graph_is_an_error() -> None:
    """A file that silently kept float weights would prove nothing."""
    grids = blocks.rtn(network())
    with pytest.raises(
        StepError, match="2 of 2 quantized layers are not in the ONNX graph"
    ):
        nodes.write_grids(export(network(), signature()), grids.values())
