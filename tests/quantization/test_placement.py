"""Operators are int8 where every runtime gains, and float with a reason elsewhere."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.quantization.capture import capture
from edgekit.quantization.placement import FloatNode, QuantizedNode, place
from edgekit.quantization.rewrite import rewrite
from edgekit.signature import Signature, TensorSpec


def placed(network: nn.Module, *dims: int) -> list[QuantizedNode | FloatNode]:
    spec = TensorSpec(name="input", dtype="float32", dims=("batch", *dims))
    signature = Signature(
        inputs=(spec,),
        outputs=(
            TensorSpec(name="output", dtype="float32", dims=("batch", 1)),
        ),
    )
    graph = capture(network.eval(), signature).module(check_guards=False)
    rewrite(graph)
    return list(place(graph))


def describe(network: nn.Module, *dims: int) -> list[tuple[str, str]]:
    return [
        (
            item.node.name,
            item.kind if isinstance(item, QuantizedNode) else item.reason,
        )
        for item in placed(network, *dims)
    ]


def test_an_activation_belongs_to_the_layer_before_it() -> None:
    """A ReLU6 that follows a convolution is part of it, not a separate operator."""
    decisions = placed(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6()), 1, 8, 8)
    assert [
        (item.node.name, item.tail.name)
        for item in decisions
        if isinstance(item, QuantizedNode)
    ] in ([("conv2d", "hardtanh")], [("conv2d", "relu6")])


def test_residuals_are_int8_only_where_both_sides_are() -> None:
    """Adding a mask to attention scores stays float: an int8 range over -1e9 would wipe out
    the scores.
    """

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.left(x) + self.right(x)
            return scores + (x > 0).float().log().clamp(min=-1e9)

    decisions = describe(Masked(), 8)
    assert ("add", "binary") in decisions and any(
        name.startswith("add") and reason == "one operand is float"
        for name, reason in decisions
    )


def test_transposed_convolutions_and_recurrent_layers_say_why_they_are_float() -> (
    None
):
    """The reasons are words for the report."""
    assert describe(nn.ConvTranspose2d(1, 2, 2), 1, 4, 4) == [
        (
            "conv_transpose2d",
            "no converter produces an int8 transposed convolution",
        )
    ]
    assert (
        "lstm",
        "recurrent layers stay float; the scheme w8-dynamic makes their weights int8",
    ) in describe(Last(nn.LSTM(4, 4, batch_first=True)), 3, 4)


def test_padding_with_other_numbers_than_zero_stays_float() -> None:
    """Zero is exact in every affine scale, another number is not."""

    class Pad(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(x, (1, 1), value=self.value)

    assert describe(Pad(0.0), 1, 4, 4) == [("pad", "passthrough")]
    assert describe(Pad(3.0), 1, 4, 4) == [
        ("pad", "only padding with zeros is the same in int8")
    ]


def test_computed_weights_stay_float() -> None:
    """Only a stored weight is quantized once and for all."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, torch.softmax(self.weight, 0))

    assert (
        "linear",
        "its weights are computed while the network runs",
    ) in describe(Computed(), 4)


class Last(nn.Module):
    """Only the sequence that a recurrent layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]
