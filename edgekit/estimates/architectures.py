"""The architectures of the networks that a latency table is recorded with.

All have random weights. Every function returns one network; ``networks.PROBES`` and
``networks.HELD_OUT`` list them with their input shapes. They are in one file because its hash is
part of the cache key of everything that is built from them.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.sources.cnn import plain_cnn
from edgekit.sources.resnet import Block, resnet8, resnet14, resnet20


class Separable(nn.Module):
    """Alternating depthwise and pointwise convolutions (Howard et al. 2017), with ReLU6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1), nn.ReLU6()]
        channels = width
        for factor, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
            layers += [
                nn.Conv2d(channels, channels, 3, stride, 1, groups=channels),
                nn.ReLU6(),
                nn.Conv2d(channels, factor * width, 1),
                nn.ReLU6(),
            ]
            channels = factor * width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] to logits [n, 10]."""
        pooled = functional.adaptive_avg_pool2d(self.layers(x), 1)
        logits: Tensor = self.head(pooled.flatten(1))
        return logits


class Encoder(nn.Module):
    """Transformer blocks (Vaswani et al. 2017, pre-norm), mean pooling and a linear layer."""

    def __init__(self, width: int, blocks: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(16, width)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) for _ in range(2 * blocks)
        )
        self.qkv = nn.ModuleList(
            nn.Linear(width, 3 * width) for _ in range(blocks)
        )
        self.project = nn.ModuleList(
            nn.Linear(width, width) for _ in range(blocks)
        )
        self.feed_forward = nn.ModuleList(
            _feed_forward(width) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences [n, t, 16] to logits [n, 10]."""
        x = self.embed(x)
        for index, project in enumerate(self.project):
            attended = self._attend(self.qkv[index](self.norms[2 * index](x)))
            x = x + project(attended)
            x = x + self.feed_forward[index](self.norms[2 * index + 1](x))
        logits: Tensor = self.head(x.mean(1))
        return logits

    def _attend(self, qkv: Tensor) -> Tensor:
        """Scaled dot-product attention: [n, t, 3 * width] to [n, t, width]."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
            for part in qkv.chunk(3, 2)
        )
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        attended: Tensor = scores.softmax(-1) @ value
        return attended.transpose(1, 2).flatten(2)


def _feed_forward(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    )


class Recurrent(nn.Module):
    """An LSTM, and a linear layer on its last output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences [n, t, 16] to logits [n, 10]."""
        outputs, _ = self.lstm(x)
        logits: Tensor = self.head(outputs[:, -1])
        return logits


class Residual(nn.Module):
    """Residual blocks of several widths, global average pooling and a linear layer."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1)
        blocks = []
        channels = widths[0]
        for number, width in enumerate(widths):
            blocks.append(Block(channels, width, 1 if number == 0 else 2))
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 100)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, h, w] to logits [n, 100]."""
        pooled = functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        logits: Tensor = self.head(pooled.flatten(1))
        return logits


class Elementwise(nn.Module):
    """Elementwise sums, products and activations, and a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        """Tensors of any shape to the same shape."""
        y = torch.sigmoid(x) * x + torch.tanh(x)
        y = functional.relu(y + x) * y
        result: Tensor = functional.gelu(y) + torch.softmax(x, -1) - y
        return result


def _convolutions(
    channels: int,
    widths: Sequence[int],
    strides: Sequence[int],
    kernels: Sequence[int] = (),
    depthwise: Sequence[int] = (),
) -> nn.Module:
    """Convolutions with ReLU. Kernels are 3x3 and not depthwise unless given per layer."""
    layers: list[nn.Module] = []
    for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        kernel = kernels[index] if kernels else 3
        groups = channels if depthwise and depthwise[index] else 1
        layers += [
            nn.Conv2d(
                channels, width, kernel, stride, kernel // 2, groups=groups
            ),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers)


def _linear_layers(widths: Sequence[int]) -> nn.Module:
    """Linear layers with ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


# Probes: networks that are cut into files.


def dense_small() -> nn.Module:
    """3x3 convolutions of 12 to 160 channels, images of 40x40 down to 5x5."""
    widths = (12, 24, 24, 24, 48, 96, 96, 160)
    return _convolutions(3, widths, strides=(1, 1, 2, 1, 1, 2, 1, 2))


def dense_wide() -> nn.Module:
    """3x3 convolutions of 48 to 256 channels, images of 12x12 down to 2x2."""
    widths = (48, 80, 128, 128, 192, 192, 256)
    return _convolutions(1, widths, strides=(1, 1, 2, 1, 2, 1, 2))


def dense_tiny() -> nn.Module:
    """3x3 convolutions of 8 to 64 channels, images of 10x10 down to 2x2, and a linear layer."""
    widths = (8, 16, 16, 32, 32, 48, 64, 64)
    layers = _convolutions(1, widths, strides=(1, 1, 2, 1, 1, 2, 1, 2))
    return nn.Sequential(
        layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 20)
    )


def pointwise() -> nn.Module:
    """1x1 convolutions, one of them with stride 2."""
    return _convolutions(
        3,
        widths=(24, 48, 24, 96, 96, 192, 64, 320),
        strides=(2, 1, 1, 1, 2, 1, 1, 1),
        kernels=(3, 1, 1, 1, 1, 1, 1, 1),
    )


def depthwise() -> nn.Module:
    """Depthwise convolutions of 24 to 192 channels, strides 1 and 2, kernels 3x3 and 5x5."""
    return _convolutions(
        3,
        widths=(24, 24, 48, 48, 48, 96, 96, 96, 192, 192, 192),
        strides=(2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1),
        kernels=(3, 3, 1, 3, 3, 1, 3, 5, 1, 3, 3),
        depthwise=(0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1),
    )


def blocks() -> nn.Module:
    """Residual blocks of 24, 40 and 112 channels."""
    return Residual((24, 40, 112))


def pools() -> nn.Module:
    """Max and average pooling of 2x2 and 3x3 between convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 1),
        nn.AvgPool2d(2),
        nn.Conv2d(48, 64, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4, 40),
    )


def layers() -> nn.Module:
    """Linear layers of 16 to 1024 features."""
    return _linear_layers((32, 512, 512, 96, 160, 1024, 48, 16))


def small_layers() -> nn.Module:
    """Linear layers of 8 to 320 features."""
    return _linear_layers((48, 128, 128, 320, 320, 64, 64, 8))


def elements() -> nn.Module:
    """Elementwise operators on 24 x 48 x 32 elements, and on a quarter of them.

    They follow a convolution, since a network without weights is not quantized.
    """
    return nn.Sequential(
        nn.Conv2d(8, 24, 1), Elementwise(), nn.MaxPool2d(2), Elementwise()
    )


def narrow_tokens() -> nn.Module:
    """A transformer block of width 48."""
    return Encoder(48, 1, heads=2)


def wide_tokens() -> nn.Module:
    """Two transformer blocks of width 160."""
    return Encoder(160, 2, heads=5)


def short_tokens() -> nn.Module:
    """Two transformer blocks of width 80."""
    return Encoder(80, 2, heads=4)


def few_units() -> nn.Module:
    """An LSTM of 24 units."""
    return Recurrent(24)


def many_units() -> nn.Module:
    """An LSTM of 128 units."""
    return Recurrent(128)


# Held-out networks, for the error of the estimates.


def cnn() -> nn.Module:
    """The plain network of the zoo."""
    return plain_cnn(1, 10)


def residual() -> nn.Module:
    """The smallest residual network of the zoo, 64 channels wide."""
    return resnet8(1, 10)


def narrow_residual() -> nn.Module:
    """A residual network, 16 channels wide, 14 layers deep."""
    return resnet14(3, 10, 16)


def deep_residual() -> nn.Module:
    """A residual network, 32 channels wide, 20 layers deep."""
    return resnet20(3, 10)


def narrow_separable() -> nn.Module:
    """Separable convolutions of 16 to 128 channels."""
    return Separable(16)


def wide_separable() -> nn.Module:
    """Separable convolutions of 32 to 256 channels."""
    return Separable(32)


def pooled() -> nn.Module:
    """Convolutions of stride 1 with max pooling, as in VGG."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = width
    head = [nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head)


def plain_layers() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def small_encoder() -> nn.Module:
    """A transformer of two blocks of width 64."""
    return Encoder(64, 2)


def encoder() -> nn.Module:
    """A transformer of three blocks of width 128."""
    return Encoder(128, 3)


def recurrent() -> nn.Module:
    """An LSTM of 64 units."""
    return Recurrent(64)
