"""Settings of the quantizer for one network: plain data, stored with every calibration."""

from typing import Literal

from edgekit.scheme import Observer
from edgekit.target import Runtime
from edgekit.value import Value


class Settings(Value):
    """How a network is quantized.

    The same settings on the same network quantize the same tensors.
    """

    #: Activations with zero point 0. 16-bit activations always have it.
    symmetric: bool = False
    #: Per-channel weight scales (one per output channel), or per-tensor.
    per_channel: bool = True
    activation_bits: Literal[8, 16] = 8
    observer: Observer = "histogram"
    #: linear: only the inputs of convolutions and linear layers are quantized; the outputs
    #: of linear layers stay in float.
    placement: Literal["all", "linear"] = "all"
    #: Modules (by path) whose operators stay in float, with everything below them.
    keep: tuple[str, ...] = ()
    #: Concatenations that compute an output stay in float; each of their inputs is
    #: quantized with its own scale.
    split_outputs: bool = False
    #: Layers that become two, (module path, channel): the channels from there on get a
    #: separate scale.
    split: tuple[tuple[str, int], ...] = ()
    #: Where the graph will run: an operator without an int8 kernel in that runtime stays in
    #: float. None: any runtime.
    runtime: Runtime | None = None

    def keeps(self, module: str) -> bool:
        """Whether a module (by path) stays in float."""
        return any(
            module == path or module.startswith(f"{path}.")
            for path in self.keep
        )
