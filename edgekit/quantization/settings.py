"""What the quantizer is told: how it is to quantize one network. Plain data, stored with every calibration."""

from typing import Literal

from edgekit.scheme import Observer
from edgekit.value import Value


class Settings(Value):
    """How a network is quantized. The same settings on the same network place the same quantizers."""

    #: Activations with zero point 0.
    symmetric: bool = False
    #: Weights: one scale for each output channel, or one for all.
    per_channel: bool = True
    activation_bits: Literal[8, 16] = 8
    observer: Observer = "histogram"
    #: linear: only what convolutions, linear layers read is quantized; their results stay float.
    placement: Literal["all", "linear"] = "all"
    #: Modules (by path) whose operators stay in float.
    keep: tuple[str, ...] = ()
    #: Concatenations that make an output stay in float; what they join is quantized piece by piece.
    split_outputs: bool = False
