"""Schemes: the ways to quantize a network for a runtime. Literal data; the work is done by the steps that the scheme names."""

from collections.abc import Mapping
from typing import Literal

from edgekit.artifact import Form
from edgekit.errors import EdgekitError
from edgekit.value import Value, nearest

#: float: nothing is changed. cast: the weights (and the arithmetic where the runtime can) in half precision.
#: static: activation ranges are calibrated. dynamic: activation ranges are found while the network runs.
Method = Literal["float", "cast", "static", "dynamic"]


class Scheme(Value):
    """One way to quantize: bits of weights and activations, granularity, and which forms can have it."""

    name: str
    title: str
    method: Method
    weight_bits: int
    activation_bits: int
    #: Weights: one scale for each output channel, or one for all.
    per_channel: bool = True
    #: Activations with zero point 0 (TensorRT asks for it). A target's limit can force it.
    symmetric: bool = False
    forms: tuple[Form, ...]
    #: The largest difference to torch that is still the same computation, in output quantization steps
    #: (for a scheme with float outputs: in steps of 1/255 of the reference's output range).
    parity_steps: float

    @property
    def calibrated(self) -> bool:
        """True where calibration data are needed."""
        return self.method == "static"


_ALL: tuple[Form, ...] = ("onnx", "tensorrt", "tflite")
SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="float", title="32-bit float, nothing quantized", method="float", weight_bits=32, activation_bits=32,
               forms=(*_ALL, "edgetpu"), parity_steps=0.05),
        Scheme(name="fp16", title="16-bit float weights", method="cast", weight_bits=16, activation_bits=16, forms=_ALL, parity_steps=4),
        Scheme(name="w8a8-static", title="8-bit weights (per channel) and 8-bit activations, calibrated", method="static", weight_bits=8,
               activation_bits=8, forms=(*_ALL, "edgetpu"), parity_steps=2),
        Scheme(name="w8-dynamic", title="8-bit weights, 8-bit activations scaled while the network runs", method="dynamic", weight_bits=8,
               activation_bits=8, forms=("tflite",), parity_steps=26),
    )
}  # fmt: skip


def find(name: str) -> Scheme:
    """The scheme called ``name``, or an error with the nearest known one."""
    if name not in SCHEMES:
        raise EdgekitError(f"No scheme is called {name!r}; {nearest(name, SCHEMES)}", fix="edgekit schemes lists them")
    return SCHEMES[name]
