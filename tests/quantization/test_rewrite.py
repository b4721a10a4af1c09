"""The rewritten graph computes what the network computes, with every batch normalization
folded away.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import StepError
from edgekit.quantization.capture import capture
from edgekit.quantization.rewrite import rewrite
from edgekit.signature import Signature, TensorSpec


def rewritten(
    network: nn.Module, *dims: int
) -> tuple[torch.fx.GraphModule, Tensor]:
    """The graph, and random inputs; the output's dims do not matter here."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    spec = TensorSpec(name="input", dtype="float32", dims=("batch", *dims))
    signature = Signature(
        inputs=(spec,),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 1)),
        ),
    )
    graph = capture(network.eval(), signature).module(check_guards=False)
    rewrite(graph)
    return graph, torch.randn(5, *dims)


def targets(graph: torch.fx.GraphModule) -> list[str]:
    return [
        str(node.target).removeprefix("aten.")
        for node in graph.graph.nodes
        if node.op == "call_function"
    ]


CASES = {
    "after a convolution": (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.BatchNorm2d(8)
        ),
        (3, 6, 6),
        ["conv2d.default"],
    ),
    "after a linear layer": (
        nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)),
        (6,),
        ["linear.default"],
    ),
    "before a grouped, unpadded convolution": (
        nn.Sequential(
            nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)
        ),
        (4, 6, 6),
        ["relu.default", "conv2d.default"],
    ),
    "before a linear layer": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        (6,),
        ["relu.default", "linear.default"],
    ),
    "before a padded convolution": (
        nn.Sequential(
            nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)
        ),
        (3, 6, 6),
        ["relu.default", "conv2d.default", "conv2d.default"],
    ),
    "alone, features": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6)),
        (6,),
        ["relu.default", "view.default", "conv2d.default", "view.default"],
    ),
    "alone, a sequence": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6)),
        (6, 5),
        ["relu.default", "conv1d.default"],
    ),
    "alone, a volume": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm3d(2)),
        (2, 3, 4, 5),
        ["relu.default", "conv3d.default"],
    ),
    "without an own weight": (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)),
        (3, 6, 6),
        ["conv2d.default"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_batch_normalization_is_folded_exactly(case: str) -> None:
    """Same numbers, and exactly these operators, wherever the batch normalization stands."""
    network, dims, expected = CASES[case]
    graph, data = rewritten(network, *dims)
    assert targets(graph) == expected
    with torch.no_grad():
        torch.testing.assert_close(
            graph(data), network(data), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            graph(data[:1]), network(data[:1]), rtol=1e-4, atol=1e-5
        )


def test_a_convolution_that_is_read_twice_keeps_its_weights() -> None:
    """Folding would change the other reader."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) - y

    network = Twice()
    graph, data = rewritten(network, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            graph(data), network(data), rtol=1e-4, atol=1e-5
        )


def test_spatial_means_become_pools_and_dropout_goes() -> None:
    """mean((2, 3)) has no int8 kernel in ONNX Runtime; a pool has."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x.mean((-1, 2)), training=self.training)

    graph, data = rewritten(Mean(), 3, 4, 5)
    assert targets(graph) == [
        "adaptive_avg_pool2d.default",
        "flatten.using_ints",
    ]
    torch.testing.assert_close(graph(data), data.mean((2, 3)))


def test_work_in_place_gives_the_same_numbers() -> None:
    """Later readers of a changed tensor see the change."""

    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            z = functional.relu_(y)
            return z + y * 2

    graph, data = rewritten(InPlace(), 4)
    assert "relu.default" in targets(graph)
    torch.testing.assert_close(graph(data), functional.relu(data + 1) * 3)


def test_a_changed_view_that_is_read_again_is_refused() -> None:
    """Quantizing would lose the change, so it is refused and not computed wrongly."""

    class View(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[:, :2].add_(1.0)
            return y

    with pytest.raises(StepError, match="in place"):
        rewritten(View(), 4)
