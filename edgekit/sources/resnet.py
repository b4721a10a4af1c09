"""Small residual networks for small images.

As in He et al. 2016, section 4.2, with wider stages.
"""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    The shortcut is a 1x1 convolution if the shape changes.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, width, h / stride, w / stride]."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, three stages of blocks, the mean over all positions and a linear layer.

    The stages have the widths w, 2w and 4w and the strides 1, 2 and 2.
    """

    def __init__(
        self, channels: int, classes: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages = []
        previous = width
        for stage_width, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            first = Block(previous, stage_width, stride)
            others = [
                Block(stage_width, stage_width, 1) for _ in range(blocks - 1)
            ]
            stages.append(nn.Sequential(first, *others))
            previous = stage_width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, channels, h, w] to logits [n, classes]."""
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.adaptive_avg_pool2d(self.stages(x), 1)
        logits: Tensor = self.head(x.flatten(1))
        return logits


def resnet8(channels: int, classes: int, width: int = 64) -> nn.Module:
    """A residual network with 1 block per stage: 7 convolutions and a linear layer."""
    return ResNet(channels, classes, width, blocks=1)


def resnet14(channels: int, classes: int, width: int = 32) -> nn.Module:
    """A residual network with 2 blocks per stage."""
    return ResNet(channels, classes, width, blocks=2)


def resnet20(channels: int, classes: int, width: int = 32) -> nn.Module:
    """A residual network with 3 blocks per stage."""
    return ResNet(channels, classes, width, blocks=3)
