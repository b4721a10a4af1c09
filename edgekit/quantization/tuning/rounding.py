"""Learned rounding (after AdaRound, Nagel et al. 2020): each weight goes up or down so that
its layer's output is right, not the weight.

For each layer by itself, min over h of |W x - s clip(floor(W / s) + h) x|^2 + lambda *
sum(1 - |2 h - 1|^beta), where h = clip(1.2 sigmoid(v) - 0.1, 0, 1) and beta falls from 20
to 2 (the paper's eq. 21 to 24). Unlike there x is the float network's own input: on few
samples the weights would learn the noise of its rounding.
"""

import torch

from edgekit.quantization.calibration import Calibration, Constants, Rows
from edgekit.quantization.simulator import Operator, Simulator, observe, simulator
from edgekit.signature import Signature

#: Samples (of a convolution) or rows (of a linear layer) that one step looks at, and how
#: many such pieces there are at most.
PIECE = {True: 8, False: 128}
PIECES = 8
#: Batches of calibration data that a layer learns from.
BATCHES, STEPS, RATE = 4, 500, 0.05
WARM, LAMBDA = 0.2, 0.003
STRETCH, SHIFT = 1.2, 0.1


def learned_rounding(
    network: torch.nn.Module,
    signature: Signature,
    rows: Rows,
    calibration: Calibration,
    constants: Constants,
) -> dict[str, torch.Tensor]:
    """New weights by name, each a whole number of steps.

    A layer whose output does not come closer keeps its own. The same data give the same
    weights.
    """
    simulated = simulator(network, signature, calibration, constants)
    changed = {}
    for operator in simulated.operators:
        learned = _learn(operator, _inputs(simulated, operator, rows))
        if learned is not None:
            changed[operator.weight_name] = learned
    return changed


def _inputs(
    simulated: Simulator, operator: Operator, rows: Rows
) -> list[tuple[torch.Tensor, ...]]:
    """The operator's arguments (input, weight, bias) in the float network, for the first
    batches.
    """
    found: list[tuple[torch.Tensor, ...]] = []
    first = [row for row, _ in zip(rows(), range(BATCHES), strict=False)]
    observe(simulated, [operator], first, lambda _, arguments: found.append(arguments))
    return found


def _learn(operator: Operator, seen: list[tuple[torch.Tensor, ...]]) -> torch.Tensor | None:
    switch, weight = operator.weight, seen[0][1].detach()
    scale = (
        switch.scale.reshape(-1, *[1] * (weight.dim() - 1))
        if switch.axis == 0
        else switch.scale
    )
    if not isinstance(scale, torch.Tensor) or switch.axis not in (None, 0):
        return None
    bias = seen[0][2].detach() if len(seen[0]) > 2 and seen[0][2] is not None else None
    with torch.no_grad():
        pairs = [
            (x, operator.compute(x, weight, bias))
            for x in _pieces(operator, [arguments[0] for arguments in seen])
        ]
    size = (
        torch.stack([wanted.square().mean() for _, wanted in pairs]).mean().clamp(min=1e-12)
    )
    floor = torch.floor(weight / scale)
    v = _inverse((weight / scale - floor).clamp(0.01, 0.99)).requires_grad_(True)
    optimizer = torch.optim.Adam([v], lr=RATE)
    for step in range(STEPS):
        x, wanted = pairs[step % len(pairs)]
        h = (torch.sigmoid(v) * STRETCH - SHIFT).clamp(0, 1)
        made = operator.compute(
            x, scale * (floor + h).clamp(switch.quant_min, switch.quant_max), bias
        )
        loss = (made - wanted).square().mean() / size
        done = step / STEPS
        if done > WARM:
            beta = 2 + 18 * (1 - (done - WARM) / (1 - WARM))
            loss = loss + LAMBDA * (1 - (2 * h - 1).abs().pow(beta)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = scale * (floor + (v >= 0)).clamp(switch.quant_min, switch.quant_max)
        better = _error(operator, learned, bias, pairs) < _error(
            operator, switch.rounded(weight), bias, pairs
        )
    return learned if better else None


def _pieces(operator: Operator, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """A few small pieces of all that was seen, drawn with a fixed seed: whole samples for a
    convolution, rows for a linear layer.
    """
    conv = operator.channel_axis == 1
    rows = torch.cat(inputs) if conv else torch.cat([x.flatten(0, -2) for x in inputs])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[
        : PIECES * PIECE[conv]
    ]
    return list(torch.split(rows[order], PIECE[conv]))


def _error(
    operator: Operator,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pairs: list[tuple[torch.Tensor, torch.Tensor]],
) -> float:
    return sum(
        float((operator.compute(x, weight, bias) - wanted).square().mean())
        for x, wanted in pairs
    )


def _inverse(fraction: torch.Tensor) -> torch.Tensor:
    """v with clip(1.2 sigmoid(v) - 0.1) = fraction."""
    inside = (fraction + SHIFT) / STRETCH
    return torch.log(inside / (1 - inside))
