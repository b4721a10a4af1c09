"""Small networks in the styles that people bring to an Edge TPU, with the habits that cut a
graph. Used by tests and by bench/edgetpu_mapping.py.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(
    before: int,
    after: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    layers = [
        nn.Conv2d(
            before,
            after,
            kernel,
            stride,
            kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(after),
    ]
    return nn.Sequential(*layers, *([act] if act is not None else []))


def vgg() -> nn.Module:
    """Convolutions, pools, a flattened map of 4x4 places and two linear layers."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [_conv(before, after, act=nn.ReLU()), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(64, 10),
        nn.Softmax(1),
    )


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = before * 4
        self.layers = nn.Sequential(
            _conv(before, wide, 1, act=nn.ReLU6()),
            _conv(wide, wide, 3, stride, groups=wide, act=nn.ReLU6()),
            _conv(wide, after, 1),
        )
        self.same = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.same else y


class MobileNetV2(nn.Module):
    """Inverted residual blocks, and ``mean((2, 3))`` before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16, 3, 2, act=nn.ReLU6())
        self.blocks = nn.Sequential(
            Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1)
        )
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


class Squeezed(nn.Module):
    """EfficientNet's block: SiLU, and a gate from the mean of each channel."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = before * 4
        self.wide, self.depth = (
            _conv(before, wide, 1, act=nn.SiLU()),
            _conv(wide, wide, 3, stride, groups=wide, act=nn.SiLU()),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, 8, 1),
            nn.SiLU(),
            nn.Conv2d(8, wide, 1),
            nn.Sigmoid(),
        )
        self.narrow = _conv(wide, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.wide(x))
        y = self.narrow(y * self.gate(y))
        return x + y if x.shape == y.shape else y


def efficientnet() -> nn.Module:
    """Blocks with SiLU and squeeze-excitation."""
    blocks = (Squeezed(16, 16, 1), Squeezed(16, 24, 2), Squeezed(24, 24, 1))
    return nn.Sequential(
        _conv(3, 16, 3, 2, act=nn.SiLU()),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


class Hard(nn.Module):
    """MobileNetV3's block: hardswish, and a hard sigmoid as gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = _conv(channels, channels * 2, 1, act=nn.Hardswish())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels * 2, 8, 1),
            nn.ReLU(),
            nn.Conv2d(8, channels * 2, 1),
            nn.Hardsigmoid(),
        )
        self.narrow = _conv(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        return x + self.narrow(y * self.gate(y))


def mobilenetv3() -> nn.Module:
    """Blocks with hardswish and hard gates."""
    return nn.Sequential(
        _conv(3, 16, 3, 2, act=nn.Hardswish()),
        Hard(16),
        Hard(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class Dense(nn.Module):
    """DenseNet's layer: normalization and ReLU first, then a convolution; the input is kept
    with its result.
    """

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = (
            nn.BatchNorm2d(before),
            nn.Conv2d(before, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


def densenet() -> nn.Module:
    """A stem with a padded max pool, two dense blocks with a transition between them."""
    stem = (_conv(3, 16, 3, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
    first, second = (Dense(16, 8), Dense(24, 8)), (Dense(16, 8), Dense(24, 8))
    middle = (
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 1),
        nn.AvgPool2d(2),
    )
    return nn.Sequential(
        *stem,
        *first,
        *middle,
        *second,
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class Residual(nn.Module):
    """ResNet's basic block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (
            _conv(channels, channels, act=nn.ReLU()),
            _conv(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two(self.one(x)))


def resnet_stem() -> nn.Module:
    """ImageNet's ResNet stem: a 7x7 convolution and a padded max pool; then two blocks, the
    mean, a linear layer.
    """
    stem = (_conv(3, 16, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(
        *stem,
        Residual(16),
        Residual(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class Yolo(nn.Module):
    """Darknet's style: leaky ReLU, space to depth by slices (YOLOv5's Focus), an upsampled
    branch, two raw heads, no decoding.
    """

    def __init__(self) -> None:
        super().__init__()
        leaky = nn.LeakyReLU(0.1)
        self.stem, self.down = (
            _conv(12, 16, act=leaky),
            _conv(16, 32, 3, 2, act=leaky),
        )
        self.deep, self.up = (
            _conv(32, 64, 3, 2, act=leaky),
            _conv(64, 32, 1, act=leaky),
        )
        self.small, self.large = nn.Conv2d(64, 18, 1), nn.Conv2d(64, 18, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat(
            [
                x[..., ::2, ::2],
                x[..., 1::2, ::2],
                x[..., ::2, 1::2],
                x[..., 1::2, 1::2],
            ],
            1,
        )
        middle = self.down(self.stem(x))
        deep = self.deep(middle)
        up = functional.interpolate(
            self.up(deep), scale_factor=2.0, mode="nearest"
        )
        return self.small(deep), self.large(torch.cat([middle, up], 1))


class Parametric(nn.Module):
    """PReLU with an alpha for each channel, and a padded max pool after a residual sum
    that may be negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.PReLU(8),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.pool, self.head = nn.MaxPool2d(3, 2, 1), nn.Linear(8, 10)
        self.act.weight.data = torch.linspace(0.05, 0.4, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.one(x))
        logits: Tensor = self.head(self.pool(x + self.two(x)).mean((2, 3)))
        return logits


class Shuffled(nn.Module):
    """ShuffleNetV2's block: half of the channels through a branch, then both halves mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            _conv(half, half, 1, act=nn.ReLU()),
            _conv(half, half, 3, groups=half),
            _conv(half, half, 1, act=nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    """Blocks of places as channels (PixelUnshuffle), padding at two sides only (as
    TensorFlow's networks have), mixed channels.
    """
    stem = (
        nn.PixelUnshuffle(2),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(12, 16, 3, 2),
        nn.ReLU(),
    )
    return nn.Sequential(
        *stem,
        Shuffled(16),
        Shuffled(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def segmenter() -> nn.Module:
    """A small encoder and decoder with a softmax over the channels of every place at the
    end.
    """
    down = (_conv(3, 16, 3, 2, act=nn.ReLU()), _conv(16, 16, 3, act=nn.ReLU()))
    return nn.Sequential(
        *down,
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(16, 4, 1),
        nn.Softmax(1),
    )


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "vgg-like (flatten, softmax)": vgg,
    "resnet stem (padded max pool)": resnet_stem,
    "mobilenetv2-like": MobileNetV2,
    "mobilenetv3-like (hardswish)": mobilenetv3,
    "efficientnet-like (SiLU, SE)": efficientnet,
    "densenet-like (padded max pool)": densenet,
    "yolo head (LeakyReLU, slices)": Yolo,
    "prelu, max pool of a sum": Parametric,
    "shufflenet-like (views, one-sided padding)": shufflenet,
    "segmenter (softmax over channels)": segmenter,
}
