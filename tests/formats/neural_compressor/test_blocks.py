"""The grids that neural-compressor chooses are read without changing a number."""

import pytest
import torch
from torch import nn

from edgekit.errors import StepError

pytest.importorskip(
    "neural_compressor",
    reason="neural-compressor is not installed: pip install 'edgekit[intel]'",
)

import numpy

from edgekit.formats.neural_compressor import blocks
from edgekit.formats.neural_compressor import package as inc


def network(inputs: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 24), nn.GELU(), nn.Linear(24, 40, bias=False)
    ).eval()


@pytest.mark.parametrize("inputs", [64, 70, 32])
def test_a_grid_is_bit_for_bit_what_neural_compressor_holds(
    inputs: int,
) -> None:
    """Unpacked, a grid has the weights that INCWeightOnlyLinear recovers itself, also
    where the last block is short.
    """
    rounded = network(inputs)
    with inc.quiet(), torch.no_grad():
        inc.convert(
            rounded,
            inc.RTNConfig(
                dtype="int",
                bits=4,
                group_size=32,
                use_sym=False,
                use_layer_wise=False,
            ),
            use_optimum_format=False,
        )
    layers = [
        module
        for module in rounded.modules()
        if isinstance(module, inc.INCWeightOnlyLinear)
    ]
    assert len(layers) == 2
    for layer in layers:
        assert numpy.array_equal(
            blocks.grid_of(layer).weights(), layer.recover().numpy()
        )


def test_rounding_to_nearest_leaves_a_plain_network_with_the_grids_weights() -> (
    None
):
    """Linear layers stay linear layers with their biases; each weight is within half a step
    of the float one.
    """
    before, after = network(), network()
    grids = blocks.rtn(after)
    assert list(grids) == ["0", "2"]
    for path, grid in grids.items():
        layer, old = after.get_submodule(path), before.get_submodule(path)
        assert type(layer) is nn.Linear
        assert isinstance(old, nn.Linear)
        assert numpy.array_equal(layer.weight.detach().numpy(), grid.weights())
        step = torch.from_numpy(
            numpy.repeat(grid.scale, blocks.BLOCK, axis=1)[:, : old.in_features]
        )
        # A zero rounded to an integer moves the range's ends by half a step more.
        assert bool(((layer.weight - old.weight).abs() <= 1.01 * step).all())
        assert (layer.bias is None) == (old.bias is None)
    assert torch.equal(after[0].bias, before[0].bias)  # type: ignore[index]


def test_half_quadratic_grids_lose_less_than_rounding() -> None:
    """HQQ's grid has real zeros, one for each block of inputs, and its weights are nearer
    to the float ones than RTN's.
    """
    before, rounded, searched = network(), network(), network()
    blocks.rtn(rounded)
    grids = blocks.hqq(searched)
    assert list(grids) == ["0"], "24 inputs are no multiple of the block"
    assert grids["0"].zero.dtype == numpy.float32
    assert numpy.any(grids["0"].zero % 1)

    def lost(changed: nn.Module) -> float:
        return float(
            (changed[0].weight - before[0].weight).detach().abs().mean()
        )  # type: ignore[index]

    assert 0 < lost(searched) < lost(rounded)


def test_awq_without_a_language_model_is_refused() -> None:
    """The reason and a fix, before neural-compressor itself fails."""
    with pytest.raises(
        StepError,
        match="Hugging Face causal language models only.*\n.*w4-weight-rtn",
    ):
        blocks.awq(network(), lambda: None)


def test_what_neural_compressor_raises_becomes_one_sentence() -> None:
    """A failure inside it is a StepError with a fix, never a traceback."""
    with (
        pytest.raises(
            StepError,
            match="cannot quantize this network: ValueError: no such block\n.*take another",
        ),
        inc.translate_errors("take another"),
    ):
        raise ValueError("no such block")
