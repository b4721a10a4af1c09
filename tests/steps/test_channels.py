"""Which channels can go, and removing them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.errors import StepError
from edgekit.sources.resnet import resnet8
from edgekit.steps import channels

IMAGE = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "left"),
    [
        (32, 0.5, 8, 16),
        (24, 0.5, 8, 16),
        (12, 0.5, 8, 8),
        (10, 0.7, 1, 3),
        (8, 0.9, 8, 8),
        (6, 0.5, 8, 6),
        (10, 0.99, 1, 1),
        (100, 0.3, 1, 70),
    ],
)
def test_how_many_channels_are_kept(
    width: int, ratio: float, multiple: int, left: int
) -> None:
    """At least the share that stays, in multiples, never more than there are; float
    rounding does not matter.
    """
    assert channels.channels_to_keep(width, ratio, multiple) == left


class InputSum(nn.Module):
    """A residual sum with the input itself; the sum is also an output."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.inner, self.head = (
            nn.Conv2d(3, 3, 3, 1, 1),
            nn.Conv2d(3, 16, 3),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.same(x) + x
        return self.head(functional.relu(self.inner(y)).mean((2, 3))), y


class Joined(nn.Module):
    """A concatenation, a grouped and a depthwise convolution, group normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(3, 16, 1)
        self.grouped, self.norm = (
            nn.Conv2d(32, 32, 3, 1, 1, groups=4),
            nn.GroupNorm(4, 32),
        )
        self.depthwise, self.point, self.head = (
            nn.Conv2d(32, 32, 3, groups=32),
            nn.Conv2d(32, 16, 1),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(
            functional.relu(self.point(self.depthwise(x))).mean((2, 3))
        )


class Attention(nn.Module):
    """Self-attention with a position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = (
            nn.Linear(6, 32),
            nn.Parameter(torch.rand(1, 5, 32)),
        )
        self.attention, self.norm = (
            nn.MultiheadAttention(32, 4, batch_first=True),
            nn.LayerNorm(32),
        )
        self.wide, self.narrow, self.head = (
            nn.Linear(32, 64),
            nn.Linear(64, 32),
            nn.Linear(32, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(
            (x + self.narrow(functional.gelu(self.wide(x)))).mean(1)
        )


def test_a_residual_network_is_halved_everywhere_but_at_its_ends() -> None:
    """Every convolution of resnet8 loses half its channels; the last layer keeps its
    classes; the answer has the same shape.
    """
    network = resnet8(3, 5, width=32).eval()
    before = channels.output_widths(network)
    channels.remove_channels(network, [IMAGE], 0.5, 8, ())
    after = channels.output_widths(network)
    assert {path: before[path] // 2 for path in before if path != "head"} | {
        "head": 5
    } == after
    assert network(IMAGE).shape == (2, 5)


def test_groups_that_reach_an_input_or_an_output_stay() -> None:
    """A sum with the input, and a tensor that is returned as well, keep their channels; the
    layer inside is pruned.
    """
    network = InputSum().eval()
    channels.remove_channels(network, [IMAGE], 0.5, 1, ())
    assert channels.output_widths(network) == {"same": 3, "inner": 8, "head": 5}
    assert [tuple(tensor.shape) for tensor in network(IMAGE)] == [
        (2, 5),
        (2, 3, 8, 8),
    ]


def test_the_smallest_channels_go() -> None:
    """What is left of a layer are its largest rows, in their old order, and the answer
    without small ones is nearly the same.
    """
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        network[0].weight[::2] *= 1e-6  # type: ignore[index]
        network[0].bias[::2] *= 1e-6  # type: ignore[index]
        network[2].weight[:, ::2] *= 1e-3  # type: ignore[index]
    x = torch.rand(3, 4)
    weight, answer = network[0].weight[1::2].clone(), network(x)  # type: ignore[index]
    channels.remove_channels(network, [x], 0.5, 1, ())
    assert torch.equal(network[0].weight, weight)  # type: ignore[arg-type]
    assert torch.allclose(network(x), answer, atol=1e-5)


def test_joined_and_grouped_layers_are_pruned_together() -> None:
    """Grouped and depthwise convolutions and GroupNorm lose the same places in each block.

    What is joined before a grouped convolution stays: its blocks would lose different
    places.
    """
    network = Joined().eval()
    channels.remove_channels(network, [IMAGE], 0.5, 8, ())
    assert network(IMAGE).shape == (2, 2)
    assert channels.output_widths(network) == {
        "left": 16,
        "right": 16,
        "grouped": 16,
        "depthwise": 16,
        "point": 8,
        "head": 2,
    }
    assert (
        network.grouped.groups,
        network.norm.num_channels,
        network.depthwise.groups,
    ) == (4, 16, 16)


def test_attention_keeps_its_heads() -> None:
    """The embedding loses the same places in each head, and the position embedding with it."""
    network = Attention().eval()
    channels.remove_channels(network, [torch.rand(2, 5, 6)], 0.5, 8, ())
    assert (
        network.attention.embed_dim,
        network.attention.num_heads,
        network.place.shape[-1],
    ) == (16, 4, 16)
    assert network(torch.rand(2, 5, 6)).shape == (2, 3)


def test_skipped_modules_keep_their_outputs() -> None:
    """A skipped layer protects its entire group."""
    network = resnet8(3, 5, width=32).eval()
    channels.remove_channels(network, [IMAGE], 0.5, 8, {network.stem})  # type: ignore[arg-type]
    after = channels.output_widths(network)
    assert (
        after["stem"],
        after["stages.0.0.conv2"],
        after["stages.0.0.conv1"],
    ) == (
        32,
        32,
        16,
    )


def test_two_networks_do_not_share_anything() -> None:
    """The library's default arguments remember groups between calls; a second network is
    pruned as if it were the first.
    """
    sizes = []
    for _ in range(2):
        network = Joined().eval()
        channels.remove_channels(network, [IMAGE], 0.5, 8, ())
        sizes.append(channels.output_widths(network))
    assert sizes[0] == sizes[1]


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    """An exception inside torch-pruning becomes a StepError."""
    network = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(StepError, match="cannot be followed"):
        channels.remove_channels(network, [torch.zeros(2, 3)], 0.5, 1, ())


def test_a_concatenation_keeps_its_order() -> None:
    """Two joined layers are pruned each by its own channels, and the layer after them loses
    just these places.
    """

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = (
                nn.Linear(4, 8),
                nn.Linear(4, 8),
                nn.Linear(16, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.left(x), self.right(x)], 1))

    network = Two().eval()
    with torch.no_grad():
        for layer, small in (
            (network.left, slice(0, 4)),
            (network.right, slice(4, 8)),
        ):
            layer.weight[small] = layer.bias[small] = 0
        network.head.weight[:, [0, 1, 2, 3, 12, 13, 14, 15]] *= 1e-3
    x = torch.rand(3, 4)
    answer = network(x)
    channels.remove_channels(network, [x], 0.5, 1, ())
    assert torch.allclose(network(x), answer, atol=1e-6)
    assert network.head.in_features == 8
