"""A plain convolutional network: the smallest thing that shows every step."""

from torch import nn

#: Channels of the three convolutions.
WIDTHS = (16, 32, 64)


def plain_cnn(channels: int, classes: int) -> nn.Module:
    """Three 3x3 convolutions of stride 2, each with batch normalization and ReLU; then the
    mean and a linear layer.

    Images [n, channels, h, w] of any size from 8x8 on give logits [n, classes].
    """
    layers: list[nn.Module] = []
    before = channels
    for width in WIDTHS:
        layers += [
            nn.Conv2d(before, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
    )
