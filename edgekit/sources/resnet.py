"""Small residual networks for small images (He et al. 2016, section 4.2, with wider
stages).
"""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the
    shape changes.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        same = stride == 1 and channels == width
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, width, h / stride, w / stride]."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem and three stages of blocks, of widths w, 2w and 4w and strides 1, 2 and 2;
    then the mean and a linear layer.
    """

    def __init__(self, channels: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages, before = [], width
        for wide, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            first = Block(before, wide, stride)
            stages.append(
                nn.Sequential(first, *(Block(wide, wide, 1) for _ in range(blocks - 1)))
            )
            before = wide
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, channels, h, w] to logits [n, classes]."""
        x = self.stages(functional.relu(self.norm(self.stem(x))))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet8(channels: int, classes: int, width: int = 64) -> nn.Module:
    """A residual network with 1 block in each of 3 stages: 7 convolutions deep, and a
    linear layer.
    """
    return ResNet(channels, classes, width, blocks=1)


def resnet14(channels: int, classes: int, width: int = 32) -> nn.Module:
    """A residual network with 2 blocks in each of 3 stages."""
    return ResNet(channels, classes, width, blocks=2)


def resnet20(channels: int, classes: int, width: int = 32) -> nn.Module:
    """A residual network with 3 blocks in each of 3 stages."""
    return ResNet(channels, classes, width, blocks=3)
