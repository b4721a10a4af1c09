"""The residual networks of the zoo."""

import pytest
import torch
from torch import nn

from edgekit.sources import resnet


@pytest.mark.parametrize(
    ("make", "depth"),
    [(resnet.resnet8, 8), (resnet.resnet14, 14), (resnet.resnet20, 20)],
)
def test_the_name_counts_the_layers(make: object, depth: int) -> None:
    """The number in the name is that of the convolutions on the main path and the linear
    layer.
    """
    network = make(1, 10)  # type: ignore[operator]
    counted = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in path
    ]
    assert len(counted) == depth


def test_the_width_scales_every_stage() -> None:
    """Stages are w, 2w and 4w channels wide, and the strides are 1, 2 and 2."""
    network = resnet.resnet8(3, 4, width=8).eval()
    assert [stage[0].conv2.out_channels for stage in network.stages] == [
        8,
        16,
        32,
    ]  # type: ignore[union-attr, index]
    x = torch.zeros(1, 8, 16, 16)
    shapes = []
    for stage in network.stages:  # type: ignore[union-attr]
        x = stage(x)
        shapes.append(x.shape[-1])
    assert shapes == [16, 8, 4]
