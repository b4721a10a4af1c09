"""How large a network is: parameters, and multiply-accumulates for one sample."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgekit.signature import Signature


def parameters(network: nn.Module) -> int:
    """The number of trained values; tied ones count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates of one call, as PyTorch counts them (convolutions, matrix
    products and attention; 1 MAC = 2 FLOP).

    Gradients stay on, and attention takes its plain path: the counter does not see into the
    fused ones of the CPU.
    """
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        network(*inputs)
    return int(counter.get_total_flops()) // 2


def drawn(signature: Signature, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of a part, in the order in which its network takes them."""
    feeds = signature.draw(batch, seed)
    return tuple(torch.from_numpy(feeds[spec.name]) for spec in signature.inputs)
