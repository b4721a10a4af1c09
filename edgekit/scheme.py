"""Schemes: the ways to quantize a network for a runtime.

Literal data; the work is done by the steps that the scheme names.
"""

from collections.abc import Mapping
from typing import Literal

import pydantic

from edgekit.artifact import FormatName
from edgekit.errors import EdgekitError, unknown
from edgekit.formats import FORMATS
from edgekit.value import Value

#: float: nothing is changed. cast: the weights (and the arithmetic where the runtime can)
#: in half precision. static: activation ranges are calibrated. dynamic: activation ranges
#: are found while the network runs. weight: only weights are quantized; a runtime may still
#: round activations inside its kernel.
Method = Literal["float", "cast", "static", "dynamic", "weight"]
#: Who finds the numbers: edgekit, or another package that edgekit calls and writes the
#: results of.
Provider = Literal["edgekit", "neural-compressor"]
Observer = Literal["histogram", "min-max", "percentile", "moving-average"]


class Tuning(Value):
    """How a scheme is adapted to one network: what a remedy changes.

    The default is the plain scheme.
    """

    #: How activation ranges are found: least squared error, all that was seen, the middle
    #: 99.99 %, or a moving average.
    observer: Observer = "histogram"
    #: Cross-layer equalization (Nagel et al. 2019): channels of neighbouring layers are
    #: scaled to equal weight ranges. Exact in float.
    equalize: bool = False
    #: SmoothQuant's alpha (Xiao et al. 2023): outliers of an activation move into the
    #: weights that read it. Exact in float.
    smooth: float | None = pydantic.Field(None, ge=0, le=1)
    #: Weights to the nearest step, or up or down as is best for the layer's output (after
    #: AdaRound, Nagel et al. 2020).
    rounding: Literal["nearest", "learned"] = "nearest"
    #: The mean error of each output channel goes into its bias (Nagel et al. 2019).
    correct_bias: bool = False
    #: Modules (by path) that stay in float.
    keep: tuple[str, ...] = ()
    #: An output that mixes ranges is left in float, its pieces quantized one by one.
    split_outputs: bool = False

    def describe(self) -> str:
        """The changes, joined by ``+`` as in a candidate's name; empty for the plain scheme."""
        words = {
            "observer": self.observer,
            "equalize": "equalize",
            "smooth": f"smooth-{self.smooth}",
            "rounding": "learned-rounding",
            "correct_bias": "bias",
            "keep": f"float-{len(self.keep)}",
            "split_outputs": "split-outputs",
        }
        plain = Tuning()
        return "+".join(
            word
            for field, word in words.items()
            if getattr(self, field) != getattr(plain, field)
        )


class Scheme(Value):
    """One way to quantize: bits of weights and activations, granularity, and which formats
    can have it.
    """

    name: str
    title: str
    method: Method
    weight_bits: int
    activation_bits: int
    #: Weights: one scale for each output channel, or one for all.
    per_channel: bool = True
    #: Which operators compute in int8: all that can, or only what convolutions and linear
    #: layers read (their results stay float).
    placement: Literal["all", "linear"] = "all"
    #: Activations that are scaled while the network runs: one scale for each row (token,
    #: sample), or one for all.
    per_row: bool = False
    #: The quantized network is trained further, with the float network as its teacher.
    trained: bool = False
    provider: Provider = "edgekit"
    #: Activations with zero point 0 (TensorRT asks for it). A target's limit can force it.
    symmetric: bool = False
    #: The oldest NVIDIA GPU whose TensorRT has this arithmetic for every product
    #: (edgekit/formats/tensorrt/nvidia.py: 89 for SM89); 0: no matter.
    least_capability: int = 0
    #: The largest difference to torch that is still the same computation, in output
    #: quantization steps (for a scheme with float outputs: in steps of 1/255 of the
    #: reference's output range).
    parity_steps: float

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def formats(self) -> tuple[FormatName, ...]:
        """The formats whose records list this scheme."""
        return tuple(
            name
            for name, record in FORMATS.items()
            if self.name in record.schemes
        )

    @property
    def wide_activations(self) -> bool:
        """True if activations are calibrated to 16 bits."""
        return self.calibrated and self.activation_bits == 16

    @property
    def calibrated(self) -> bool:
        """True if calibration data are needed."""
        return self.method == "static"


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="float",
            title="32-bit float, nothing quantized",
            method="float",
            weight_bits=32,
            activation_bits=32,
            least_capability=80,
            parity_steps=0.05,
        ),
        Scheme(
            name="fp16",
            title="16-bit float weights",
            method="cast",
            weight_bits=16,
            activation_bits=16,
            parity_steps=4,
        ),
        Scheme(
            name="bf16",
            title="16-bit weights, bfloat16 arithmetic",
            method="cast",
            weight_bits=16,
            activation_bits=16,
            parity_steps=20,
        ),
        Scheme(
            name="w8a8-static",
            title="8-bit weights (per channel) and 8-bit activations, calibrated",
            method="static",
            weight_bits=8,
            activation_bits=8,
            least_capability=80,
            parity_steps=2,
        ),
        Scheme(
            name="w8a8-static-linear",
            title="as w8a8-static, but only inputs of convolutions and linear layers are 8-bit",
            method="static",
            weight_bits=8,
            activation_bits=8,
            placement="linear",
            parity_steps=2,
        ),
        Scheme(
            name="w8a8-qat",
            title="as w8a8-static, the quantized network trained further with the "
            "float one as its teacher",
            method="static",
            weight_bits=8,
            activation_bits=8,
            trained=True,
            least_capability=80,
            parity_steps=2,
        ),
        Scheme(
            name="w8a16-static",
            title="8-bit weights and 16-bit activations, calibrated",
            method="static",
            weight_bits=8,
            activation_bits=16,
            symmetric=True,
            parity_steps=3300,
        ),  # 26 of 255 steps, in the steps of a 16-bit output with room for twice its range
        Scheme(
            name="w8-dynamic",
            title="8-bit weights, 8-bit activations scaled row by row while the network runs",
            method="dynamic",
            weight_bits=8,
            activation_bits=8,
            per_row=True,
            parity_steps=64,
        ),
        Scheme(
            name="w8-dynamic-tensor",
            title="8-bit weights, 8-bit per-tensor activations; what tflite-runtime 2.14 requires",
            method="dynamic",
            weight_bits=8,
            activation_bits=8,
            parity_steps=64,
        ),
        Scheme(
            name="w8-weight",
            title="8-bit weights only",
            method="weight",
            weight_bits=8,
            activation_bits=32,
            parity_steps=64,
        ),
        Scheme(
            name="w4-weight",
            title="4-bit weights only, in blocks",
            method="weight",
            weight_bits=4,
            activation_bits=32,
            least_capability=80,
            parity_steps=80,
        ),
        Scheme(
            name="fp8",
            title="8-bit float weights and activations, calibrated",
            method="static",
            weight_bits=8,
            activation_bits=8,
            symmetric=True,
            least_capability=89,
            parity_steps=26,
        ),
        Scheme(
            name="w8a8-static-inc",
            title="as w8a8-static, by neural-compressor, its accuracy-driven tuning included",
            method="static",
            weight_bits=8,
            activation_bits=8,
            provider="neural-compressor",
            parity_steps=80,
        ),
        Scheme(
            name="w4-weight-rtn",
            title="4-bit weights in blocks, by neural-compressor's round to nearest",
            method="weight",
            weight_bits=4,
            activation_bits=32,
            provider="neural-compressor",
            parity_steps=80,
        ),
        Scheme(
            name="w4-weight-awq",
            title="4-bit weights in blocks, by neural-compressor's AWQ (language models)",
            method="weight",
            weight_bits=4,
            activation_bits=32,
            provider="neural-compressor",
            parity_steps=80,
        ),
        Scheme(
            name="w4-weight-hqq",
            title="4-bit weights in blocks, by neural-compressor's HQQ",
            method="weight",
            weight_bits=4,
            activation_bits=32,
            provider="neural-compressor",
            parity_steps=80,
        ),
    )
}

#: What neural-compressor 3.10 cannot do for a file that runs: the name that one would
#: write, the reason, what edgekit offers instead.
REFUSED: Mapping[str, tuple[str, str]] = {
    "w4-weight-gptq": (
        "its GPTQ asks for the name of a model on a hub, even for a model in memory",
        "w4-weight, w4-weight-rtn or w4-weight-hqq",
    ),
    "w4-weight-teq": (
        "its TEQ needs a training loop of yours, and its scales have not been measured "
        "to gain anything",
        "w4-weight-awq or w4-weight-hqq",
    ),
    "w4-weight-autoround": (
        "its AutoRound fails on a network that is not a Hugging Face model, and other "
        "networks were not tried",
        "w4-weight, w4-weight-rtn or w4-weight-hqq",
    ),
    "w8a8-smoothquant-inc": (
        "its SmoothQuant needs intel-extension-for-pytorch, which its package does not bring",
        "w8a8-static, which can be smoothed",
    ),
    "w8-dynamic-inc": (
        "the graphs of its dynamic PT2E cannot be exported to ONNX",
        "w8-dynamic",
    ),
    "w8a8-qat-inc": (
        "its quantization-aware training simulates MX formats, which become a thousand float "
        "operators in the file",
        "w8a8-qat",
    ),
    "bf16-inc": (
        "its mixed precision produces bfloat16 convolutions, which ONNX Runtime does not execute "
        "on a processor",
        "fp16",
    ),
}
#: What TensorRT builds and edgekit does not offer: the reason, what it offers instead.
NOT_OFFERED: Mapping[str, tuple[str, str]] = {
    "fp4": (
        "TensorRT was seen to build it for SM120 only and to convert the weights to half "
        "floats first, and ONNX Runtime has no 4-bit floats, so its accuracy could not be "
        "measured",
        "fp8 or w4-weight",
    ),
}
#: Other names for the same.
_ALSO: Mapping[str, str] = {
    "gptq": "w4-weight-gptq",
    "gptq-inc": "w4-weight-gptq",
    "teq": "w4-weight-teq",
    "teq-inc": "w4-weight-teq",
    "autoround": "w4-weight-autoround",
    "autoround-inc": "w4-weight-autoround",
    "smoothquant": "w8a8-smoothquant-inc",
    "smoothquant-inc": "w8a8-smoothquant-inc",
    "w8a8-dynamic-inc": "w8-dynamic-inc",
    "dynamic-inc": "w8-dynamic-inc",
    "qat-inc": "w8a8-qat-inc",
    "w8a8-static-qat-inc": "w8a8-qat-inc",
}


def refused(name: str) -> str | None:
    """Why a scheme of neural-compressor or TensorRT is not offered, and what is.

    None for any other name.
    """
    if name in NOT_OFFERED:
        return f"{name}: {NOT_OFFERED[name][0]}; use {NOT_OFFERED[name][1]}"
    reason = REFUSED.get(_ALSO.get(name, name))
    if reason is None:
        return None
    return (
        f"{name}: neural-compressor 3.10 cannot: {reason[0]}; use {reason[1]}"
    )


def find(name: str) -> Scheme:
    """The scheme called ``name``; an EdgekitError with the nearest name if there is none.

    What a remedy adds after ``+`` is ignored.
    """
    name = name.partition("+")[0]
    if name not in SCHEMES:
        refusal = refused(name)
        if refusal is not None:
            raise EdgekitError(
                f"{refusal}.", fix="edgekit schemes lists what is offered"
            )
        raise EdgekitError(
            unknown("scheme", name, SCHEMES),
            fix="'edgekit schemes' lists them",
        )
    return SCHEMES[name]
