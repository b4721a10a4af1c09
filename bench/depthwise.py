"""A depthwise separable network (after MobileNet, Howard et al. 2017) with residuals, 32 to
256 channels wide, on MNIST.
"""

import torch
from torch import Tensor, nn

import edgekit
from bench import mnist


def _convolution(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            channels,
            width,
            kernel,
            stride,
            kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution; with a shortcut
    where the shape stays.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(channels, channels, 3, stride, channels),
            *_convolution(channels, width, 1),
        )
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Depthwise(nn.Module):
    """A stem, six separable layers, the mean, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        shapes = (
            (32, 64, 2),
            (64, 128, 1),
            (128, 128, 1),
            (128, 256, 2),
            (256, 256, 1),
            (256, 256, 1),
        )
        self.stem = nn.Sequential(*_convolution(1, 32, 3))
        self.layers = nn.Sequential(*(Separable(*shape) for shape in shapes))
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 1, 28, 28] to logits [n, 10]."""
        x = self.layers(self.stem(x))
        logits: Tensor = self.head(
            nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        )
        return logits


def model() -> torch.nn.Module:
    """The network, untrained."""
    return Depthwise()


def task() -> edgekit.Task:
    """MNIST as images [n, 1, 28, 28]."""
    return mnist.task("mnist-images", (1, mnist.SIDE, mnist.SIDE))
