"""Booleans are gathered as integers: the same numbers, and a file that tflite-runtime 2.14
loads too.
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy
import pytest
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, File, Part
from edgekit.formats.tflite import conversion as litert_conversion
from edgekit.formats.tflite import interpreter as litert
from edgekit.formats.tflite import tflite_runtime_compat
from edgekit.hosts.local import LocalHost
from edgekit.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from edgekit.hosts.runner import WorkerHost


class Masked(nn.Module):
    """Adds what a boolean mask lets through, indexed by row and column as in Hugging Face's
    masks.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[1, 6] to [1, 6]."""
        order = torch.tensor([5, 0, 3, 3, 1, 2])
        chosen = (x > 0)[torch.zeros(6, dtype=torch.int64)[None], order[None]]
        return x + torch.where(chosen, 1.0, -2.0)


def traced() -> torch.fx.GraphModule:
    graph = torch.export.export(
        Masked(), (torch.randn(1, 6),), strict=False
    ).module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    return graph


def test_the_numbers_stay() -> None:
    """One place is changed, and another pass changes nothing."""
    graph, x = traced(), torch.randn(1, 6)
    assert tflite_runtime_compat.index_booleans_as_integers(graph) == 1
    assert torch.equal(graph(x), Masked()(x))
    assert [
        node.meta["val"].dtype
        for node in graph.graph.nodes
        if node.target is torch.ops.aten.index.Tensor
    ] == [torch.int32]
    assert tflite_runtime_compat.index_booleans_as_integers(graph) == 0


def test_what_gathers_numbers_is_left_alone() -> None:
    """Every runtime supports an index into floats."""

    class Floats(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """[1, 6] to [1, 2]."""
            return x[torch.tensor([[0, 0]]), torch.tensor([[5, 1]])]

    graph = torch.export.export(
        Floats(), (torch.randn(1, 6),), strict=False
    ).module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    assert tflite_runtime_compat.index_booleans_as_integers(graph) == 0


@pytest.mark.slow
def test_the_old_runtime_loads_the_file(
    tmp_path: pathlib.Path, ready_host: "Callable[[str], WorkerHost]"
) -> None:
    """In both runtimes the file computes what torch computes; without the change the old one
    rejects it.
    """
    graph, x = traced(), torch.randn(1, 6)
    litert_conversion.convert(
        traced(),
        (x,),
        tmp_path / "before.tflite",
        quantized=False,
        channel_last_inputs=(),
        channel_last_outputs=(),
    )
    tflite_runtime_compat.index_booleans_as_integers(graph)
    litert_conversion.convert(
        graph,
        (x,),
        tmp_path / "after.tflite",
        quantized=False,
        channel_last_inputs=(),
        channel_last_outputs=(),
    )
    spec = TensorSpec(name="x", dtype="float32", dims=(1, 6))
    signature = litert.read_signature(
        tmp_path / "after.tflite",
        Signature(
            inputs=(spec,), outputs=(spec.model_copy(update={"name": "y"}),)
        ),
    )
    before, after = (
        Artifact(
            format="tflite",
            parts=(
                Part(
                    name="main",
                    signature=signature,
                    files={"model": File(path=name)},
                ),
            ),
            folder=tmp_path,
        )
        for name in ("before.tflite", "after.tflite")
    )
    old = ready_host("tflite-runtime")
    for host in (LocalHost(), old):
        with host.open(after) as runner:
            assert numpy.array_equal(
                next(iter(runner.infer({"x": x.numpy()}).values())),
                Masked()(x).numpy(),
            )
    with pytest.raises(Exception, match="GATHER_ND"):
        old.open(before)
