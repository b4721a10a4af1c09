"""What is rewritten for the Edge TPU computes the same float numbers, with operators that
it has.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.quantization.capture import capture
from edgekit.quantization.decompose import decompose
from edgekit.quantization.rewrite import rewrite
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature, TensorSpec
from edgekit.target import Runtime


class Function(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def decomposed(
    network: nn.Module,
    dims: tuple[int, ...],
    runtime: Runtime = "edgetpu",
    **more: object,
) -> torch.fx.GraphModule:
    spec = TensorSpec(name="input", dtype="float32", dims=("batch", *dims))
    signature = Signature(
        inputs=(spec,),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 1)),
        ),
    )
    graph = capture(network.eval(), signature).module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    rewrite(graph)
    decompose(graph, Settings.model_validate({"runtime": runtime, **more}))
    return graph


def targets(graph: torch.fx.GraphModule) -> list[str]:
    return [
        str(node.target).removeprefix("aten.").removesuffix(".default")
        for node in graph.graph.nodes
        if node.op == "call_function"
    ]


def slopes(*values: float) -> nn.Module:
    act = nn.PReLU(len(values))
    act.weight.data = torch.tensor(values)
    return act


def relu_then(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ReLU(), pool)


def mixed(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return (
        x.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    )


def mixed_by_permute(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).flatten(1, 2)


CASES: dict[str, tuple[nn.Module, tuple[int, ...], list[str]]] = {
    "padded pool after a ReLU": (
        relu_then(nn.MaxPool2d(3, 2, 1)),
        (4, 8, 8),
        ["relu", "pad", "max_pool2d"],
    ),
    "padded pool after a pool after a clip": (
        nn.Sequential(nn.ReLU6(), nn.AvgPool2d(2), nn.MaxPool2d(3, 1, 1)),
        (4, 8, 8),
        ["hardtanh", "avg_pool2d", "pad", "max_pool2d"],
    ),
    "padded pool of a sum of two ReLUs": (
        Function(lambda x: functional.max_pool2d(x.relu() + x.relu(), 3, 2, 1)),
        (2, 7, 9),
        ["relu", "relu", "add.Tensor", "pad", "max_pool2d"],
    ),
    "padded pool of any numbers": (
        nn.MaxPool2d(3, 2, 1),
        (4, 8, 8),
        ["slice.Tensor", "cat", "slice.Tensor", "cat", "max_pool2d"],
    ),
    "padded pool of any numbers, odd size": (
        nn.MaxPool2d(3, 2, 1),
        (4, 7, 7),
        ["slice.Tensor", "slice.Tensor", "cat"] * 2 + ["max_pool2d"],
    ),
    "wide padded pool of any numbers": (
        nn.MaxPool2d(5, 1, 2),
        (2, 6, 7),
        ["slice.Tensor", "slice.Tensor", "cat"] * 2 + ["max_pool2d"],
    ),
    "padded pool, rounded up": (
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        (2, 6, 8),
        ["slice.Tensor", "slice.Tensor", "cat"] * 2 + ["max_pool2d"],
    ),
    "padded pool of rows only": (
        nn.MaxPool2d((3, 1), (2, 1), (1, 0)),
        (2, 8, 8),
        ["slice.Tensor", "cat", "max_pool2d"],
    ),
    "padded pool after a clip below zero": (
        nn.Sequential(nn.Hardtanh(-1, 1), nn.MaxPool2d(3, 2, 1)),
        (2, 8, 8),
        [
            "hardtanh",
            "slice.Tensor",
            "cat",
            "slice.Tensor",
            "cat",
            "max_pool2d",
        ],
    ),
    "plain pool": (nn.MaxPool2d(2), (2, 8, 8), ["max_pool2d"]),
    "dilated padded pool": (
        nn.MaxPool2d(3, 1, 1, dilation=2),
        (2, 8, 8),
        ["max_pool2d"],
    ),
    "every second place": (
        Function(lambda x: x[..., ::2, 1::2]),
        (3, 8, 9),
        ["max_pool2d", "slice.Tensor", "max_pool2d"],
    ),
    "every third row up to one": (
        Function(lambda x: x[:, :, 1:6:3]),
        (3, 8, 9),
        ["slice.Tensor", "slice.Tensor", "max_pool2d"],
    ),
    "every second channel": (
        Function(lambda x: x[:, ::2]),
        (4, 5, 5),
        ["slice.Tensor", "slice.Tensor"],
    ),
    "hardswish": (
        nn.Hardswish(),
        (3, 5, 5),
        ["add.Tensor", "relu6", "mul.Tensor", "mul.Tensor"],
    ),
    "one slope": (slopes(0.2), (3, 5, 5), ["leaky_relu"]),
    "slopes below one": (
        slopes(0.1, 0.5, 1.0),
        (3, 5, 5),
        ["mul.Tensor", "maximum"],
    ),
    "any slopes": (
        slopes(-0.1, 0.5, 2.0),
        (3, 5, 5),
        ["relu", "sub.Tensor", "mul.Tensor", "add.Tensor"],
    ),
    "slopes of features": (
        slopes(0.1, 0.5, 0.9),
        (3,),
        ["mul.Tensor", "maximum"],
    ),
    "blocks as channels": (nn.PixelUnshuffle(2), (3, 8, 6), ["conv2d"]),
    "mixed channels": (Function(mixed), (12, 4, 5), ["conv2d"]),
    "mixed channels by permute": (
        Function(mixed_by_permute),
        (6, 4, 5),
        ["conv2d"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_stay(case: str) -> None:
    """Same numbers to 1e-5, for several samples and one, with exactly these operators."""
    network, dims, expected = CASES[case]
    torch.manual_seed(0)
    graph, data = decomposed(network, dims), torch.randn(5, *dims) * 3
    assert targets(graph) == expected
    with torch.no_grad():
        torch.testing.assert_close(
            graph(data), network(data), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            graph(data[:1]), network(data[:1]), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    "case",
    [
        "padded pool of any numbers",
        "every second place",
        "hardswish",
        "mixed channels",
        "blocks as channels",
    ],
)
def test_other_runtimes_keep_their_operators(case: str) -> None:
    """What is written for the Edge TPU is written for nothing else."""
    network, dims, expected = CASES[case]
    for runtime in ("litert", "onnxruntime", "tensorrt"):
        assert targets(decomposed(network, dims, runtime)) != expected  # type: ignore[arg-type]


def test_other_views_are_left() -> None:
    """A view of five dims that moves places, or that does not come back to its shape, is no
    mixing of channels.
    """

    def places(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(3, 4).reshape(n, c, h, w)

    assert "conv2d" not in targets(decomposed(Function(places), (4, 5, 5)))
    assert "conv2d" not in targets(
        decomposed(
            Function(
                lambda x: (
                    x.view(-1, 2, 2, 5, 5).transpose(1, 2).reshape(-1, 2, 10, 5)
                )
            ),
            (4, 5, 5),
        )
    )


def test_kept_modules_are_left() -> None:
    """A module that stays in float keeps its operators."""
    assert targets(
        decomposed(
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardswish()),
            (3, 5, 5),
            keep=("1",),
        )
    ) == ["conv2d", "hardswish"]
