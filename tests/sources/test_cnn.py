"""The plain network of the zoo."""

from torch import nn

from edgekit.sources.cnn import WIDTHS, plain_cnn


def test_it_is_three_convolutions_and_a_linear_layer() -> None:
    """The network has the documented layers."""
    layers = list(plain_cnn(3, 7).modules())
    assert [
        layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)
    ] == list(WIDTHS)
    assert [
        layer.out_features for layer in layers if isinstance(layer, nn.Linear)
    ] == [7]
