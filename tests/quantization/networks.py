"""Networks that are hard to quantize, and data for them, shared by the tests of this package."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from edgekit.signature import Signature, TensorSpec

Rows = Callable[[], Iterator[tuple[torch.Tensor, ...]]]


class Outlier(nn.Module):
    """One channel is 500 times as large as the others, and the next layer's weights make up
    for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.point = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32 * 4 * 4, 10)
        with torch.no_grad():
            self.first.weight[3] *= 500
            assert self.first.bias is not None
            self.first.bias[3] *= 500
            self.depthwise.weight[3] /= 500

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.first(x))))
        return self.head(
            torch.max_pool2d(torch.relu(self.point(x)), 2).flatten(1)
        )


class Normed(nn.Module):
    """Layer normalization whose weight makes two channels 100 times as large, read by
    linear layers whose weights make up for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            self.norm.weight[:2] *= 100
            for layer in (self.query, self.key):
                layer.weight[:, :2] /= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.head(torch.relu(self.query(x) + self.key(x)))


def dense() -> nn.Module:
    """Two linear layers; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)
        ).eval()


IMAGE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", dims=("batch", 1, 8, 8)),
    ),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)
VECTOR = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 32)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 10)),),
)


def outlier() -> nn.Module:
    """The same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Outlier().eval()


def normed() -> nn.Module:
    """The same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Normed().eval()


def correlated(seed: int = 0, batches: int = 3) -> Rows:
    """Vectors of 32 numbers that follow from 6: what real activations are like."""
    mixing = torch.randn(6, 32, generator=torch.Generator().manual_seed(99))
    drawn = [
        (
            torch.randn(
                32, 6, generator=torch.Generator().manual_seed(seed + k)
            )
            @ mixing,
        )
        for k in range(batches)
    ]
    return lambda: iter(drawn)


def rows(*shape: int, seed: int = 0, batches: int = 3) -> Rows:
    """Batches of 32 random samples, the same every time."""
    drawn = [
        (
            torch.randn(
                32, *shape, generator=torch.Generator().manual_seed(seed + k)
            ),
        )
        for k in range(batches)
    ]
    return lambda: iter(drawn)
