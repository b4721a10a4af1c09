"""Learned rounding (after AdaRound, Nagel et al. 2020).

Each weight is rounded up or down so that the output of its layer is right, not the weight.

For each layer by itself, min over h of |W x - s clip(floor(W / s) + h) x|^2 + lambda *
sum(1 - |2 h - 1|^beta), with h = clip(1.2 sigmoid(v) - 0.1, 0, 1) and beta falling from 20
to 2 (the paper's eq. 21 to 24). Unlike there, x is the float network's own input: on few
samples the weights would learn the noise of its rounding.
"""

import dataclasses

import torch

from edgekit.quantization.calibration import BatchSource, Calibration, Constants
from edgekit.quantization.simulator import (
    Simulator,
    WeightedOperator,
    build_simulator,
    visit_operators,
)
from edgekit.signature import Signature

#: Samples of a convolution that one optimizer step uses, and rows of a linear layer.
CONVOLUTION_PIECE = 8
LINEAR_PIECE = 128
#: The largest number of such pieces.
PIECES = 8
#: Batches of calibration data that a layer learns from.
BATCHES = 4
STEPS = 500
LEARNING_RATE = 0.05
#: The share of the steps before the regularization (with the weight lambda) begins.
WARM_UP = 0.2
LAMBDA = 0.003
#: h = clip(STRETCH * sigmoid(v) - SHIFT, 0, 1)
STRETCH = 1.2
SHIFT = 0.1


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The rounding of one layer: inputs with the outputs of the float weight."""

    operator: WeightedOperator
    weight: torch.Tensor
    bias: torch.Tensor | None
    #: Broadcastable to the weight.
    scale: torch.Tensor
    #: (input, output) for each piece.
    pairs: list[tuple[torch.Tensor, torch.Tensor]]

    def dequantize(self, steps: torch.Tensor) -> torch.Tensor:
        """The weight of a number of steps, clipped to the range of int8."""
        quantizer = self.operator.weight
        return self.scale * steps.clamp(
            quantizer.quant_min, quantizer.quant_max
        )

    def error(self, weight: torch.Tensor) -> float:
        """The sum over the pieces of the mean squared error of the output."""
        total = 0.0
        for x, output in self.pairs:
            difference = self.operator.compute(x, weight, self.bias) - output
            total += float(difference.square().mean())
        return total


def learn_rounding(
    network: torch.nn.Module,
    signature: Signature,
    batches: BatchSource,
    calibration: Calibration,
    constants: Constants,
) -> dict[str, torch.Tensor]:
    """New weights by name, each an integer number of steps of its scale.

    A layer whose output does not become closer to the float output keeps its weight. The
    same data produce the same weights.
    """
    simulator = build_simulator(network, signature, calibration, constants)
    changed = {}
    for operator in simulator.operators:
        arguments = _record_arguments(simulator, operator, batches)
        learned = _learn(operator, arguments)
        if learned is not None:
            changed[operator.weight_name] = learned
    return changed


def _record_arguments(
    simulator: Simulator, operator: WeightedOperator, batches: BatchSource
) -> list[tuple[torch.Tensor, ...]]:
    """The operator's arguments (input, weight, bias) in the float network.

    One tuple for each of the first batches.
    """
    recorded: list[tuple[torch.Tensor, ...]] = []
    first = [batch for batch, _ in zip(batches(), range(BATCHES), strict=False)]

    def record(
        _: WeightedOperator, arguments: tuple[torch.Tensor, ...]
    ) -> None:
        recorded.append(arguments)

    visit_operators(simulator, [operator], first, record)
    return recorded


def _learn(
    operator: WeightedOperator, arguments: list[tuple[torch.Tensor, ...]]
) -> torch.Tensor | None:
    """The learned weight of one layer; None if rounding to nearest is as good."""
    problem = _build_problem(operator, arguments)
    if problem is None:
        return None
    steps = problem.weight / problem.scale
    floor = torch.floor(steps)
    v = _optimize(problem, floor, (steps - floor).clamp(0.01, 0.99))
    with torch.no_grad():
        learned = problem.dequantize(floor + (v >= 0))
        nearest = operator.weight.quantize(problem.weight)
        is_better = problem.error(learned) < problem.error(nearest)
    return learned if is_better else None


def _build_problem(
    operator: WeightedOperator, arguments: list[tuple[torch.Tensor, ...]]
) -> _Problem | None:
    quantizer = operator.weight
    if quantizer.axis not in (None, 0):
        return None
    _, weight, *rest = arguments[0]
    weight = weight.detach()
    bias = rest[0].detach() if rest and rest[0] is not None else None
    scale = quantizer.scale
    if quantizer.axis == 0:
        scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    pieces = _draw_pieces(operator, [inputs for inputs, *_ in arguments])
    with torch.no_grad():
        pairs = [(x, operator.compute(x, weight, bias)) for x in pieces]
    return _Problem(operator, weight, bias, scale, pairs)


def _optimize(
    problem: _Problem, floor: torch.Tensor, fraction: torch.Tensor
) -> torch.Tensor:
    """Minimize the loss of the module's docstring; returns v."""
    powers = torch.stack(
        [output.square().mean() for _, output in problem.pairs]
    )
    power = powers.mean().clamp(min=1e-12)
    v = _inverse(fraction).requires_grad_(True)
    optimizer = torch.optim.Adam([v], lr=LEARNING_RATE)
    for step in range(STEPS):
        x, output = problem.pairs[step % len(problem.pairs)]
        h = (torch.sigmoid(v) * STRETCH - SHIFT).clamp(0, 1)
        rounded = problem.dequantize(floor + h)
        result = problem.operator.compute(x, rounded, problem.bias)
        loss = (result - output).square().mean() / power
        progress = step / STEPS
        if progress > WARM_UP:
            beta = 2 + 18 * (1 - (progress - WARM_UP) / (1 - WARM_UP))
            loss = loss + LAMBDA * (1 - (2 * h - 1).abs().pow(beta)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return v


def _draw_pieces(
    operator: WeightedOperator, inputs: list[torch.Tensor]
) -> list[torch.Tensor]:
    """A few random pieces of all inputs, drawn with a fixed seed.

    A piece contains complete samples for a convolution, rows for a linear layer.
    """
    if operator.is_convolution:
        size = CONVOLUTION_PIECE
        rows = torch.cat(inputs)
    else:
        size = LINEAR_PIECE
        rows = torch.cat([x.flatten(0, -2) for x in inputs])
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=generator)[: PIECES * size]
    return list(torch.split(rows[order], size))


def _inverse(fraction: torch.Tensor) -> torch.Tensor:
    """v with clip(1.2 sigmoid(v) - 0.1) = fraction."""
    inside = (fraction + SHIFT) / STRETCH
    return torch.log(inside / (1 - inside))
