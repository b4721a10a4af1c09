"""Bias correction (Nagel et al. 2019, section 4.2): the mean error that rounding makes in
each output channel goes into the bias.
"""

import torch

from edgekit.quantization.calibration import Calibration, Constants, Rows
from edgekit.quantization.simulator import Operator, observe, simulator
from edgekit.signature import Signature


def corrected_biases(
    network: torch.nn.Module,
    signature: Signature,
    rows: Rows,
    calibration: Calibration,
    constants: Constants,
) -> dict[str, torch.Tensor]:
    """New biases by name.

    The mean is over the samples and places of ``rows()``; layers without a bias are left as
    they are.
    """
    simulated = simulator(network, signature, calibration, constants)
    chosen = [
        operator for operator in simulated.operators if operator.bias_name is not None
    ]
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    biases: dict[str, torch.Tensor] = {}

    def look(operator: Operator, arguments: tuple[torch.Tensor, ...]) -> None:
        x, weight, bias = arguments[:3]
        rounded = x if operator.input is None else operator.input.rounded(x)
        error = operator.compute(x, weight, bias) - operator.compute(
            rounded, operator.weight.rounded(weight), bias
        )
        by_channel = error.transpose(0, operator.channel_axis).flatten(1).double()
        assert operator.bias_name is not None
        sums[operator.bias_name] = sums.get(
            operator.bias_name, torch.zeros(())
        ) + by_channel.sum(1)
        counts[operator.bias_name] = counts.get(operator.bias_name, 0) + by_channel.shape[1]
        biases[operator.bias_name] = bias

    observe(simulated, chosen, rows(), look)
    return {name: (biases[name] + sums[name] / counts[name]).float() for name in biases}
