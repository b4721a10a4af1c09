"""What is wrong with a quantized network, as plain data: how loud its rounding is, which
layers make the noise, and what would help.

SQNR is the signal-to-quantization-noise ratio of the network's outputs, 10 log10(E[y^2] /
E[(y - y_q)^2]) in dB: 40 is quiet, 10 is loud.
"""

from edgekit.scheme import Tuning
from edgekit.value import Value


class LayerNoise(Value):
    """One PyTorch module: the SQNR of the network's outputs where only what this module
    reads is rounded.
    """

    module: str
    sqnr_db: float
    #: Multiply-accumulates of its convolutions and linear layers, one sample.
    macs: int

    @property
    def noise(self) -> float:
        """The noise's power as a share of the signal's."""
        return float(10 ** (-self.sqnr_db / 10))


class Trial(Value):
    """A tuning that was tried in the PyTorch simulation on calibration data, and the SQNR
    that it gave.
    """

    tuning: Tuning
    sqnr_db: float


class Diagnosis(Value):
    """Everything that was found out about one scheme on one network."""

    #: All quantizers on; only those of weights; only those of activations.
    sqnr_db: float
    weights_db: float
    activations_db: float
    #: The loudest first.
    layers: tuple[LayerNoise, ...]
    #: Largest ratio of the ranges of two tensors that are joined into one output; 1 where
    #: none is.
    mixed_output: float = 1.0
    trials: tuple[Trial, ...] = ()

    def words(self) -> str:
        """The diagnosis in one sentence."""
        loudest = self.layers[0].module or "the network's top" if self.layers else "none"
        source = "weights" if self.weights_db < self.activations_db else "activations"
        mixed = (
            f"; an output mixes ranges that differ {self.mixed_output:.0f} times"
            if self.mixed_output > MIXED
            else ""
        )
        levels = f"SQNR {self.sqnr_db:.1f} dB (weights alone {self.weights_db:.1f}, activations alone {self.activations_db:.1f})"
        return f"{levels}: {source} make most of the noise, the loudest layer is {loudest}{mixed}"


#: Ranges that differ by more than this should not share one scale: the smaller one keeps 4
#: bits of 8.
MIXED = 16.0
