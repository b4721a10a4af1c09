"""The channel-last rewrite is exact, and changes only what it can keep exact."""

import torch
from torch import nn

from edgekit.formats.tflite.channel_last import prefer_channel_last

A = torch.ops.aten


def traced(network: nn.Module, *samples: torch.Tensor) -> torch.fx.GraphModule:
    graph = torch.export.export(network.eval(), samples, strict=False).module(
        check_guards=False
    )
    assert isinstance(graph, torch.fx.GraphModule)
    return graph


def targets(graph: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes]


class Flat(nn.Module):
    """Features that are flattened and read by two layers; ``peek`` returns them too, ``tied``
    uses one weight twice.
    """

    def __init__(self, peek: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3 * 4 * 5, 6), nn.Linear(3 * 4 * 5, 7)
        self.peek, self.tied = peek, tied

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = torch.relu(x.flatten(1))
        more = (flat,) if self.peek else (self.one.weight,) if self.tied else ()
        return self.one(flat), self.two(flat), *more


def test_flattened_features_are_reordered_with_their_weights() -> None:
    """Every layer that reads the features gets its weights in the new order; the outputs
    stay the same.
    """
    network, x = Flat(), torch.randn(1, 3, 4, 5)
    expected = network(x)
    graph = traced(network, x)
    before = network.one.weight.clone()
    assert prefer_channel_last(graph) == 1
    assert A.permute.default in targets(graph)
    torch.testing.assert_close(graph(x), expected)
    torch.testing.assert_close(network.one.weight, before)


def test_features_that_others_read_are_left() -> None:
    """If the features or the weights are read elsewhere, nothing is changed."""
    x = torch.randn(1, 3, 4, 5)
    assert prefer_channel_last(traced(Flat(peek=True), x)) == 0
    assert prefer_channel_last(traced(Flat(tied=True), x)) == 0


def test_flat_maps_need_no_reordering() -> None:
    """A map of one pixel, or of one channel, has only one order."""
    assert (
        prefer_channel_last(
            traced(
                nn.Sequential(nn.Flatten(), nn.Linear(6, 2)),
                torch.randn(1, 6, 1, 1),
            )
        )
        == 0
    )
    assert (
        prefer_channel_last(
            traced(
                nn.Sequential(nn.Flatten(), nn.Linear(6, 2)),
                torch.randn(1, 1, 2, 3),
            )
        )
        == 0
    )
