"""What the Edge TPU's compiler requires of each operator, from Google's published tables and
its own logs.

``edgekit.formats.edgetpu.mapper`` applies these rules. The compiler is not open, and may
reject more.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from edgekit.formats.tflite.graph import Operator

_CORAL = "coral.ai/docs/edgetpu/models-intro (supported operations)"
_AXIS = "developer.axis.com, ARTPEC-7 supported operations (a newer copy of Coral's table)"
_CHANGES = "google-coral/edgetpu CHANGES.md, compiler 2.0.29"
_LOGS = (
    "logs in google-coral/edgetpu issues 512 and 671, and system-software-lab/nrf20: partly "
    "mapped files"
)
_SIXTEEN = "google-coral/edgetpu issues 193 (in compiler 16) and 433 (rejected for an image)"
_MAX_SOFTMAX = 16_000
_REDUCTION_MULTIPLE = 4
#: google-coral/edgetpu issue 461: a MEAN over [1, 256, 128, 3] was rejected, but mapped when
#: split into four.
_MAX_MEAN = 256 * 128 * 3
_BY_SIZE = (
    "depending on its size it may stay on the CPU, where the device would lose precision "
    "(Coral's table)"
)

#: Returns the reason why an operator is not supported, or None.
Check = Callable[[Operator], str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An operator that the Edge TPU supports, and under which conditions."""

    #: The publication that lists it.
    source: str
    checks: tuple[Check, ...] = ()
    #: Why some of these operators are rejected although no rule is published.
    caution: str = ""
    #: Positions of inputs that must be stored in the file; a network that computes them has
    #: tensors without a fixed size.
    constants: tuple[int, ...] = ()
    #: Returns a reason if only some compilers map the operator. Such an operator counts as
    #: rejected in the prediction, and as mapped in its upper end.
    doubt: Check | None = None


def _count_large_dims(shape: Sequence[int]) -> int:
    return sum(dim > 1 for dim in shape)


def _check_fused_activation(operator: Operator) -> str | None:
    if operator.options.get("fusedActivationFunction"):
        return "it has a fused activation"
    return None


def _check_dilation(operator: Operator) -> str | None:
    width = operator.options.get("dilationWFactor", 1)
    height = operator.options.get("dilationHFactor", 1)
    return None if width == height else "its dilations in x and y differ"


def _check_row_output(operator: Operator) -> str | None:
    shape = operator.outputs[0].shape
    if _count_large_dims(shape) > 1:
        return f"its output {list(shape)} is not a single row"
    return None


def _check_softmax(operator: Operator) -> str | None:
    shape = operator.input(0).shape
    if _count_large_dims(shape) > 1:
        return f"its input {list(shape)} is not a single row"
    if math.prod(shape) > _MAX_SOFTMAX:
        return f"its input has more than {_MAX_SOFTMAX} elements"
    return None


def _check_reduction(operator: Operator) -> str | None:
    """Not over the batch; over the channels only in multiples of 4."""
    shape = operator.input(0).shape
    axes = operator.input(1).values
    if axes is None:
        return "its axes are not constant"
    positions = {axis % len(shape) for axis in axes}
    if 0 in positions and shape[0] > 1:
        return "it reduces over the batch"
    channels = shape[-1]
    if len(shape) - 1 in positions and channels % _REDUCTION_MULTIPLE:
        return f"it reduces over {channels} channels, not a multiple of {_REDUCTION_MULTIPLE}"
    return None


def _check_padding(operator: Operator) -> str | None:
    paddings = operator.input(1).values
    if paddings is None:
        return "its paddings are not constant"
    return "it pads the batch" if any(paddings[:2]) else None


def _check_strides(operator: Operator) -> str | None:
    strides = operator.input(3).values
    has_unit_strides = strides is not None and all(
        stride == 1 for stride in strides
    )
    has_masks = any(
        operator.options.get(name) for name in ("ellipsisMask", "newAxisMask")
    )
    if has_unit_strides and not has_masks:
        return None
    return "its strides are not 1, or it has an ellipsis or new-axis mask"


def _check_pack_axis(operator: Operator) -> str | None:
    axis = operator.options.get("axis", 0) % len(operator.outputs[0].shape)
    return "it packs along the batch" if axis == 0 else None


def _check_alpha(operator: Operator) -> str | None:
    if _count_large_dims(operator.input(1).shape) > 1:
        return "its alpha has more than one dim"
    return None


def _check_constant_zeros(operator: Operator) -> str | None:
    constants = operator.constants
    is_padding = (
        len(operator.inputs) == 2
        and len(constants) == 1
        and constants[0].is_zero
    )
    if not constants or is_padding:
        return None
    return "an input is constant (allowed only as zeros, one of two)"


def _check_weight_format(operator: Operator) -> str | None:
    return (
        "its weights are shuffled"
        if operator.options.get("weightsFormat")
        else None
    )


def _check_split_axis(operator: Operator) -> str | None:
    axis = operator.input(0).values
    shape = operator.input(1).shape
    if axis and axis[0] % len(shape) == 0 and shape[0] > 1:
        return "it splits the batch"
    return None


def _check_quantize_input(operator: Operator) -> str | None:
    """A QUANTIZE of floats at the start stays on the CPU, with this status in the logs."""
    return (
        None
        if operator.input(0).dtype in ("int8", "uint8")
        else "it reads floats"
    )


def _doubt_transpose(operator: Operator) -> str | None:
    return "compiler 16 maps some transposes and rejects others, older ones reject all"


def _doubt_large_mean(operator: Operator) -> str | None:
    if operator.input(0).size >= _MAX_MEAN:
        return "means of so many elements were rejected"
    return None


RULES: Mapping[str, Rule] = {
    "ADD": Rule(_CORAL),
    "AVERAGE_POOL_2D": Rule(_CORAL, (_check_fused_activation,)),
    "CONCATENATION": Rule(
        _CORAL, (_check_fused_activation, _check_constant_zeros)
    ),
    "CONV_2D": Rule(_CORAL, (_check_dilation,), constants=(1, 2)),
    "DEPTHWISE_CONV_2D": Rule(_CORAL, (_check_dilation,), constants=(1, 2)),
    "DEQUANTIZE": Rule(_LOGS),
    "EXPAND_DIMS": Rule(_CHANGES, constants=(1,)),
    "FULLY_CONNECTED": Rule(
        _CORAL, (_check_weight_format, _check_row_output), constants=(1, 2)
    ),
    "L2_NORMALIZATION": Rule(_CORAL),
    "LOGISTIC": Rule(_CORAL),
    "MAXIMUM": Rule(_CORAL),
    "MAX_POOL_2D": Rule(_CORAL, (_check_fused_activation,)),
    "MEAN": Rule(
        _CORAL, (_check_reduction,), constants=(1,), doubt=_doubt_large_mean
    ),
    "MINIMUM": Rule(_CORAL),
    "MUL": Rule(_CORAL),
    "PACK": Rule(_CHANGES, (_check_pack_axis,)),
    "PAD": Rule(_CORAL, (_check_padding,), constants=(1,)),
    "PRELU": Rule(_AXIS, (_check_alpha,), constants=(1,)),
    "QUANTIZE": Rule(_CHANGES, (_check_quantize_input,)),
    "REDUCE_MAX": Rule(_AXIS, (_check_reduction,), constants=(1,)),
    "REDUCE_MIN": Rule(_AXIS, (_check_reduction,), constants=(1,)),
    "RELU": Rule(_CORAL),
    "RELU6": Rule(_CORAL),
    "RELU_N1_TO_1": Rule(_CORAL),
    "RESHAPE": Rule(_CORAL, constants=(1,)),
    "RESIZE_BILINEAR": Rule(_CORAL, caution=_BY_SIZE, constants=(1,)),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_CORAL, caution=_BY_SIZE, constants=(1,)),
    "SLICE": Rule(_CORAL, constants=(1, 2)),
    "SOFTMAX": Rule(_CORAL, (_check_softmax,)),
    "SPACE_TO_DEPTH": Rule(_CORAL),
    "SPLIT": Rule(_CORAL, (_check_split_axis,), constants=(0,)),
    "SQUEEZE": Rule(_CORAL),
    "STRIDED_SLICE": Rule(_CORAL, (_check_strides,), constants=(1, 2, 3)),
    "SUB": Rule(_CORAL),
    "SUM": Rule(_CHANGES, (_check_reduction,), constants=(1,)),
    "TANH": Rule(_CORAL),
    "TRANSPOSE": Rule(_SIXTEEN, constants=(1,), doubt=_doubt_transpose),
    "TRANSPOSE_CONV": Rule(_CHANGES, constants=(0, 1, 3)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rule(_CORAL),
}
#: The newest operator versions in TensorFlow's register.cc at commit 00b1ec2a (end of
#: 2021), some months after compiler 16 (July 2021), which cannot support newer ones (issue
#: 384: "Didn't find op for builtin opcode 'RSQRT' version '2'").
VERSIONS: Mapping[str, int] = {
    "ADD": 4,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 3,
    "CONV_2D": 6,
    "DEPTHWISE_CONV_2D": 6,
    "DEQUANTIZE": 5,
    "EXPAND_DIMS": 1,
    "FULLY_CONNECTED": 9,
    "L2_NORMALIZATION": 2,
    "LOGISTIC": 3,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MINIMUM": 4,
    "MUL": 5,
    "PACK": 3,
    "PAD": 4,
    "PRELU": 1,
    "QUANTIZE": 3,
    "REDUCE_MAX": 3,
    "REDUCE_MIN": 3,
    "RELU": 3,
    "RELU6": 3,
    "RELU_N1_TO_1": 1,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SLICE": 5,
    "SOFTMAX": 3,
    "SPACE_TO_DEPTH": 2,
    "SPLIT": 4,
    "SQUEEZE": 2,
    "STRIDED_SLICE": 6,
    "SUB": 5,
    "SUM": 2,
    "TANH": 3,
    "TRANSPOSE": 5,
    "TRANSPOSE_CONV": 3,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3,
}
#: What to write in PyTorch instead. The first four change the network's numbers, so edgekit
#: never does it on its own: train again, or measure.
FIXES: Mapping[str, str] = {
    "GELU": (
        "write x * torch.sigmoid(1.702 * x), which is close to it but not the same, or ReLU; "
        "then train or measure again"
    ),
    "ELU": "write ReLU or LeakyReLU, then train again",
    "SOFTMAX": "remove the last softmax: the largest logit is the same class",
    "BATCH_MATMUL": (
        "none: attention runs on the CPU; export the part before it as a separate network"
    ),
    "HARD_SWISH": (
        "export with a target of the format edgetpu, which writes it as x * relu6(x + 3) / 6"
    ),
    "LEAKY_RELU": "export with a target of the format edgetpu, which writes it as PRELU",
    "PADV2": (
        "export with a target of the format edgetpu, which pads a max pool with an operator "
        "that the Edge TPU supports"
    ),
    "TRANSPOSE": (
        "keep images channel-last; write mean((2, 3)) or AdaptiveAvgPool2d(1) before the "
        "linear layers"
    ),
    "DEPTH_TO_SPACE": (
        "write Upsample(mode='nearest') and a convolution for PixelShuffle, then train again"
    ),
    "DEQUANTIZE": "quantize the operator after it, or end the network before it",
}
