"""A plain convolutional network: the smallest one that every step applies to."""

from torch import nn

#: Channels of the three convolutions.
WIDTHS = (16, 32, 64)


def plain_cnn(channels: int, classes: int) -> nn.Module:
    """Three 3x3 convolutions of stride 2 with batch normalization and ReLU.

    Then the mean over all positions, and a linear layer. The input is [n, channels, h, w]
    of any size from 8x8 on, the output are logits [n, classes].
    """
    layers: list[nn.Module] = []
    previous = channels
    for width in WIDTHS:
        layers.append(nn.Conv2d(previous, width, 3, 2, 1, bias=False))
        layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        previous = width
    layers += [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(previous, classes),
    ]
    return nn.Sequential(*layers)
