"""Bias correction (Nagel et al. 2019, section 4.2).

The mean error that rounding causes in each output channel is added to the bias.
"""

import torch

from edgekit.quantization.calibration import BatchSource, Calibration, Constants
from edgekit.quantization.simulator import (
    WeightedOperator,
    build_simulator,
    visit_operators,
)
from edgekit.signature import Signature


def correct_biases(
    network: torch.nn.Module,
    signature: Signature,
    batches: BatchSource,
    calibration: Calibration,
    constants: Constants,
) -> dict[str, torch.Tensor]:
    """New biases by name, each (channels,) float32.

    The mean is over all samples and positions of ``batches()``. Layers without a bias are
    unchanged.
    """
    simulator = build_simulator(network, signature, calibration, constants)
    with_bias = [
        operator
        for operator in simulator.operators
        if operator.bias_name is not None
    ]
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    biases: dict[str, torch.Tensor] = {}

    def add_error(
        operator: WeightedOperator, arguments: tuple[torch.Tensor, ...]
    ) -> None:
        name = operator.bias_name
        assert name is not None
        error = _rounding_error(operator, *arguments[:3])
        by_channel = (
            error.transpose(0, operator.channel_axis).flatten(1).double()
        )
        sums[name] = sums.get(name, torch.zeros(())) + by_channel.sum(1)
        counts[name] = counts.get(name, 0) + by_channel.shape[1]
        biases[name] = arguments[2]

    visit_operators(simulator, with_bias, batches(), add_error)
    return {
        name: (biases[name] + sums[name] / counts[name]).float()
        for name in biases
    }


def _rounding_error(
    operator: WeightedOperator,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """What the output of an operator loses by quantizing its input and weight."""
    rounded = x if operator.input is None else operator.input.quantize(x)
    exact = operator.compute(x, weight, bias)
    return exact - operator.compute(
        rounded, operator.weight.quantize(weight), bias
    )
