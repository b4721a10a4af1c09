"""What the Edge TPU's compiler asks of each operator, from Google's published tables and
its own logs.

``edgekit.formats.edgetpu.mapper`` applies these rules. The compiler may refuse more; it is
not open.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from edgekit.formats.tflite.graph import Operator

_CORAL = "coral.ai/docs/edgetpu/models-intro (supported operations)"
_AXIS = "developer.axis.com, ARTPEC-7 supported operations (a newer copy of Coral's table)"
_CHANGES = "google-coral/edgetpu CHANGES.md, compiler 2.0.29"
_LOGS = "logs in google-coral/edgetpu issues 512 and 671, and system-software-lab/nrf20: partly mapped files"
_SIXTEEN = "google-coral/edgetpu issue 193: compiler 16 has it; issue 433: it refused one of an image"
_LARGEST_SOFTMAX = 16_000
_REDUCTION_MULTIPLE = 4
#: google-coral/edgetpu issue 461: a MEAN over [1, 256, 128, 3] was refused, in four pieces
#: it was taken.
_LARGEST_MEAN = 256 * 128 * 3
_BY_SIZE = "depending on its size it may stay on the CPU, where the device would lose digits (Coral's table)"

#: Answers with the reason why an operator does not fit, or nothing.
Test = Callable[[Operator], str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An operator that the Edge TPU has, where that is written, and what else it asks."""

    source: str
    tests: tuple[Test, ...] = ()
    #: What some of these are refused for, of which no rule is published.
    caution: str = ""
    #: Inputs that must be stored in the file; a network that computes them has tensors
    #: without a fixed size.
    stored: tuple[int, ...] = ()
    #: Why only some are taken, where that is all that is known: they count as refused in
    #: the prediction, as taken in its upper end.
    doubt: Test | None = None


def _wide(shape: Sequence[int]) -> int:
    """How many dims are larger than 1."""
    return sum(dim > 1 for dim in shape)


def _no_fused_activation(operator: Operator) -> str | None:
    return (
        "it has a fused activation"
        if operator.options.get("fusedActivationFunction")
        else None
    )


def _same_dilation(operator: Operator) -> str | None:
    same = operator.options.get("dilationWFactor", 1) == operator.options.get(
        "dilationHFactor", 1
    )
    return None if same else "its dilations in x and y differ"


def _row_output(operator: Operator) -> str | None:
    shape = operator.outputs[0].shape
    return f"its output {list(shape)} is no single row" if _wide(shape) > 1 else None


def _softmax(operator: Operator) -> str | None:
    shape = operator.input(0).shape
    if _wide(shape) > 1:
        return f"its input {list(shape)} is no single row"
    return (
        f"its input has more than {_LARGEST_SOFTMAX} numbers"
        if math.prod(shape) > _LARGEST_SOFTMAX
        else None
    )


def _not_batch(operator: Operator) -> str | None:
    """Reductions: not over the samples; over the channels only in multiples of 4."""
    rank, axes = len(operator.input(0).shape), operator.input(1).values
    if axes is None:
        return "its axes are not constant"
    positions = {axis % rank for axis in axes}
    if 0 in positions and operator.input(0).shape[0] > 1:
        return "it reduces over the batch"
    channels = operator.input(0).shape[-1]
    return (
        f"it reduces over {channels} channels, no multiple of {_REDUCTION_MULTIPLE}"
        if rank - 1 in positions and channels % _REDUCTION_MULTIPLE
        else None
    )


def _pads_no_batch(operator: Operator) -> str | None:
    paddings = operator.input(1).values
    if paddings is None:
        return "its paddings are not constant"
    return "it pads the batch" if any(paddings[:2]) else None


def _unit_strides(operator: Operator) -> str | None:
    strides = operator.input(3).values
    plain = strides is not None and all(stride == 1 for stride in strides)
    masks = any(operator.options.get(name) for name in ("ellipsisMask", "newAxisMask"))
    return (
        None
        if plain and not masks
        else "its strides are not 1, or it has an ellipsis or new-axis mask"
    )


def _not_on_batch(operator: Operator) -> str | None:
    axis = operator.options.get("axis", 0) % len(operator.outputs[0].shape)
    return "it packs along the batch" if axis == 0 else None


def _one_alpha(operator: Operator) -> str | None:
    return "its alpha has more than one dim" if _wide(operator.input(1).shape) > 1 else None


def _zeros_only(operator: Operator) -> str | None:
    stored = [tensor for tensor in operator.inputs if tensor is not None and tensor.stored]
    padding = len(operator.inputs) == 2 and len(stored) == 1 and stored[0].is_zero
    return (
        None
        if not stored or padding
        else "an input is constant (allowed only as zeros, one of two)"
    )


def _default_format(operator: Operator) -> str | None:
    return "its weights are shuffled" if operator.options.get("weightsFormat") else None


def _not_split_on_batch(operator: Operator) -> str | None:
    axis, value = operator.input(0).values, operator.input(1)
    return (
        "it splits the batch"
        if axis and axis[0] % len(value.shape) == 0 and value.shape[0] > 1
        else None
    )


def _from_integers(operator: Operator) -> str | None:
    """A QUANTIZE of floats at the start stays on the CPU, with these words of the
    compiler's.
    """
    return None if operator.input(0).dtype in ("int8", "uint8") else "it reads floats"


def _transposed(operator: Operator) -> str | None:
    return "compiler 16 takes some transposes and refuses others, older ones all"


def _large_mean(operator: Operator) -> str | None:
    return (
        "means of so many numbers were refused"
        if operator.input(0).size >= _LARGEST_MEAN
        else None
    )


RULES: Mapping[str, Rule] = {
    "ADD": Rule(_CORAL),
    "AVERAGE_POOL_2D": Rule(_CORAL, (_no_fused_activation,)),
    "CONCATENATION": Rule(_CORAL, (_no_fused_activation, _zeros_only)),
    "CONV_2D": Rule(_CORAL, (_same_dilation,), stored=(1, 2)),
    "DEPTHWISE_CONV_2D": Rule(_CORAL, (_same_dilation,), stored=(1, 2)),
    "DEQUANTIZE": Rule(_LOGS),
    "EXPAND_DIMS": Rule(_CHANGES, stored=(1,)),
    "FULLY_CONNECTED": Rule(_CORAL, (_default_format, _row_output), stored=(1, 2)),
    "L2_NORMALIZATION": Rule(_CORAL),
    "LOGISTIC": Rule(_CORAL),
    "MAXIMUM": Rule(_CORAL),
    "MAX_POOL_2D": Rule(_CORAL, (_no_fused_activation,)),
    "MEAN": Rule(_CORAL, (_not_batch,), stored=(1,), doubt=_large_mean),
    "MINIMUM": Rule(_CORAL),
    "MUL": Rule(_CORAL),
    "PACK": Rule(_CHANGES, (_not_on_batch,)),
    "PAD": Rule(_CORAL, (_pads_no_batch,), stored=(1,)),
    "PRELU": Rule(_AXIS, (_one_alpha,), stored=(1,)),
    "QUANTIZE": Rule(_CHANGES, (_from_integers,)),
    "REDUCE_MAX": Rule(_AXIS, (_not_batch,), stored=(1,)),
    "REDUCE_MIN": Rule(_AXIS, (_not_batch,), stored=(1,)),
    "RELU": Rule(_CORAL),
    "RELU6": Rule(_CORAL),
    "RELU_N1_TO_1": Rule(_CORAL),
    "RESHAPE": Rule(_CORAL, stored=(1,)),
    "RESIZE_BILINEAR": Rule(_CORAL, caution=_BY_SIZE, stored=(1,)),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_CORAL, caution=_BY_SIZE, stored=(1,)),
    "SLICE": Rule(_CORAL, stored=(1, 2)),
    "SOFTMAX": Rule(_CORAL, (_softmax,)),
    "SPACE_TO_DEPTH": Rule(_CORAL),
    "SPLIT": Rule(_CORAL, (_not_split_on_batch,), stored=(0,)),
    "SQUEEZE": Rule(_CORAL),
    "STRIDED_SLICE": Rule(_CORAL, (_unit_strides,), stored=(1, 2, 3)),
    "SUB": Rule(_CORAL),
    "SUM": Rule(_CHANGES, (_not_batch,), stored=(1,)),
    "TANH": Rule(_CORAL),
    "TRANSPOSE": Rule(_SIXTEEN, stored=(1,), doubt=_transposed),
    "TRANSPOSE_CONV": Rule(_CHANGES, stored=(0, 1, 3)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rule(_CORAL),
}
#: The newest operator versions in TensorFlow's register.cc at commit 00b1ec2a (end of
#: 2021), some months after compiler 16 (July 2021): what is newer, the compiler cannot know
#: (issue 384: "Didn't find op for builtin opcode 'RSQRT' version '2'").
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
#: never does it unasked: train again, or measure.
WAYS_OUT: Mapping[str, str] = {
    "GELU": "write x * torch.sigmoid(1.702 * x), which is close to it but not the same, or ReLU; then train or measure again",
    "ELU": "write ReLU or LeakyReLU, then train again",
    "SOFTMAX": "leave the last softmax out: the largest logit is the same class",
    "BATCH_MATMUL": "none: attention runs on the CPU; keep the part before it as a network of its own",
    "HARD_SWISH": "export with a target of the format edgetpu, which writes it as x * relu6(x + 3) / 6",
    "LEAKY_RELU": "export with a target of the format edgetpu, which writes it as PRELU",
    "PADV2": "export with a target of the format edgetpu, which pads a max pool with what the Edge TPU has",
    "TRANSPOSE": "keep images channel-last; write mean((2, 3)) or AdaptiveAvgPool2d(1) before the linear layers",
    "DEPTH_TO_SPACE": "write Upsample(mode='nearest') and a convolution for PixelShuffle, then train again",
    "DEQUANTIZE": "quantize the operator behind it, or end the network before it",
}
