"""Why a quantized network loses accuracy, as plain data.

SQNR is the signal-to-quantization-noise ratio of the network's outputs in dB, 10 log10(E[y^2] /
E[(y - y_q)^2]): 40 is good, 10 is poor.
"""

from edgekit.scheme import Tuning
from edgekit.value import Value

#: Tensors whose ranges differ by more than this factor should not share one scale: the smaller
#: one keeps 4 of 8 bits.
MIXED = 16.0


class LayerNoise(Value):
    """Quantization noise of one PyTorch module.

    The SQNR of the network's outputs if only the inputs and weights of this module are
    quantized.
    """

    module: str
    sqnr_db: float
    #: Multiply-accumulates of its convolutions and linear layers for one sample.
    macs: int

    @property
    def noise(self) -> float:
        """The noise power relative to the signal power."""
        return float(10 ** (-self.sqnr_db / 10))


class Trial(Value):
    """A tuning that was simulated in PyTorch on calibration data, with the resulting SQNR."""

    tuning: Tuning
    sqnr_db: float


class Diagnosis(Value):
    """The quantization noise of one scheme on one network: how much, where, what reduces it."""

    #: All quantizers enabled; only those of weights; only those of activations.
    sqnr_db: float
    weights_db: float
    activations_db: float
    #: The noisiest first.
    layers: tuple[LayerNoise, ...]
    #: Largest ratio between the ranges of two tensors that are concatenated into one output; 1
    #: if there are none.
    mixed_output: float = 1.0
    trials: tuple[Trial, ...] = ()

    def describe(self) -> str:
        """Summarize the diagnosis in one sentence."""
        noisiest = "none"
        if self.layers:
            noisiest = self.layers[0].module or "the top-level module"
        source = (
            "weights"
            if self.weights_db < self.activations_db
            else "activations"
        )
        parts = [
            f"SQNR {self.sqnr_db:.1f} dB (weights only {self.weights_db:.1f}, "
            f"activations only {self.activations_db:.1f}): "
            f"{source} cause most of the noise, the noisiest layer is {noisiest}"
        ]
        if self.mixed_output > MIXED:
            ratio = f"{self.mixed_output:.0f}"
            parts.append(
                f"an output mixes ranges that differ by a factor of {ratio}"
            )
        return "; ".join(parts)
