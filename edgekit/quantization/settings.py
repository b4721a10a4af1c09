"""What the quantizer is told: how it is to quantize one network.

Plain data, stored with every calibration.
"""

from typing import Literal

from edgekit.scheme import Observer
from edgekit.target import Runtime
from edgekit.value import Value


class Settings(Value):
    """How a network is quantized.

    The same settings on the same network place the same quantizers.
    """

    #: Activations with zero point 0. 16-bit activations always have it.
    symmetric: bool = False
    #: Weights: one scale for each output channel, or one for all.
    per_channel: bool = True
    activation_bits: Literal[8, 16] = 8
    observer: Observer = "histogram"
    #: linear: only what convolutions, linear layers read is quantized; the results of
    #: linear layers stay float.
    placement: Literal["all", "linear"] = "all"
    #: Modules (by path) whose operators stay in float, with everything below them.
    keep: tuple[str, ...] = ()
    #: Concatenations that make an output stay in float; what they join is quantized piece
    #: by piece.
    split_outputs: bool = False
    #: Layers that become two, (module path, channel): the channels from there on get a
    #: scale of their own.
    split: tuple[tuple[str, int], ...] = ()
    #: Where the graph will run: what that runtime has no int8 kernel for stays float. None:
    #: any runtime.
    runtime: Runtime | None = None

    def keeps(self, module: str) -> bool:
        """Whether a module (by path) stays in float."""
        return any(module == path or module.startswith(f"{path}.") for path in self.keep)
