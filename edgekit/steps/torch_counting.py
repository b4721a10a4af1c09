"""The size of a network: parameters, and multiply-accumulates for one sample."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgekit.signature import Signature


def count_parameters(network: nn.Module) -> int:
    """The number of trainable values; tied ones count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates of one call, as PyTorch counts them (1 MAC = 2 FLOP).

    Convolutions, matrix products and attention are counted. Gradients stay on, and
    attention uses its plain implementation: the counter does not see into the fused ones of
    the CPU.
    """
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        network(*inputs)
    return int(counter.get_total_flops()) // 2


def draw_inputs(
    signature: Signature, batch: int, seed: int = 0
) -> tuple[Tensor, ...]:
    """Random inputs of a part, in the order in which its network expects them."""
    feeds = signature.draw(batch, seed)
    return tuple(
        torch.from_numpy(feeds[spec.name]) for spec in signature.inputs
    )
