"""Parameters and multiply-accumulates."""

import torch
from torch import nn

from edgekit.steps import torch_counting


def test_macs_of_a_convolution() -> None:
    """Output places times kernel times input channels times output channels; groups divide
    it.
    """
    x = torch.zeros(1, 4, 8, 8)
    assert (
        torch_counting.count_macs(nn.Conv2d(4, 6, 3, padding=1), [x])
        == 8 * 8 * 3 * 3 * 4 * 6
    )
    assert (
        torch_counting.count_macs(nn.Conv2d(4, 6, 3, padding=1, groups=2), [x])
        == 8 * 8 * 3 * 3 * 4 * 6 // 2
    )


def test_macs_of_attention_are_seen_in_eval_mode() -> None:
    """The fused attention of nn.TransformerEncoderLayer is counted as well."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    linear = 5 * (3 * 8 * 8 + 8 * 8 + 2 * 8 * 16)
    attention = 2 * 5 * 5 * 8
    assert (
        torch_counting.count_macs(layer, [torch.zeros(1, 5, 8)])
        == linear + attention
    )


def test_tied_parameters_count_once() -> None:
    """A shared weight is one weight."""
    layer = nn.Linear(4, 4, bias=False)
    assert torch_counting.count_parameters(nn.Sequential(layer, layer)) == 16
