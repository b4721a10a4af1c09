"""Which operators of a TFLite file the Edge TPU could run: a prediction from Google's published rules, without its compiler.

The compiler maps one piece of the graph: from the inputs up to the first operator that it cannot map; all that follows
runs on the CPU. It may refuse more than these rules say, so the prediction is an upper bound.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from edgekit.checks.tflite_graph import Graph, Operator, Tensor

#: The compiler's own words.
MAPPED = "Mapped to Edge TPU"
UNSUPPORTED = "Operation not supported"
DTYPE = "Operation is working on an unsupported data type"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
SUBGRAPH = "More than one subgraph is not supported"
LIMITATION = "Operation is otherwise supported, but not mapped due to some unspecified limitation"

_CORAL = "coral.ai/docs/edgetpu/models-intro (supported operations)"
_AXIS = "developer.axis.com, ARTPEC-7 supported operations (a newer copy of Coral's table)"
_CHANGES = "google-coral/edgetpu CHANGES.md, compiler 2.0.29"
_LARGEST_SOFTMAX = 16_000
_REDUCTION_MULTIPLE = 4

#: Answers with the reason why an operator does not fit, or nothing.
Test = Callable[[Operator], str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An operator that the Edge TPU has, where that is written, and what else it asks."""

    source: str
    tests: tuple[Test, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fate:
    """What happens to one operator: the compiler's status word, and the reason in ours."""

    status: str
    reason: str = ""


def _no_fused_activation(operator: Operator) -> str | None:
    return "it has a fused activation" if operator.options.get("fusedActivationFunction") else None


def _same_dilation(operator: Operator) -> str | None:
    same = operator.options.get("dilationWFactor", 1) == operator.options.get("dilationHFactor", 1)
    return None if same else "its dilations in x and y differ"


def _row_output(operator: Operator) -> str | None:
    shape = operator.outputs[0].shape
    return f"its output {list(shape)} is no single row" if _wide(shape) > 1 else None


def _softmax(operator: Operator) -> str | None:
    shape = operator.input(0).shape
    if _wide(shape) > 1:
        return f"its input {list(shape)} is no single row"
    return f"its input has more than {_LARGEST_SOFTMAX} numbers" if math.prod(shape) > _LARGEST_SOFTMAX else None


def _not_batch(operator: Operator) -> str | None:
    """Reductions: not over the samples; over the channels only in multiples of 4."""
    rank, axes = len(operator.input(0).shape), operator.input(1).values
    if axes is None:
        return "its axes are not constant"
    positions = {axis % rank for axis in axes}
    if 0 in positions and operator.input(0).shape[0] > 1:
        return "it reduces over the batch"
    channels = operator.input(0).shape[-1]
    return f"it reduces over {channels} channels, no multiple of {_REDUCTION_MULTIPLE}" if rank - 1 in positions and channels % _REDUCTION_MULTIPLE else None


def _pads_no_batch(operator: Operator) -> str | None:
    paddings = operator.input(1).values
    if paddings is None:
        return "its paddings are not constant"
    return "it pads the batch" if any(paddings[:2]) else None


def _unit_strides(operator: Operator) -> str | None:
    strides = operator.input(3).values
    plain = strides is not None and all(stride == 1 for stride in strides)
    masks = any(operator.options.get(name) for name in ("ellipsisMask", "newAxisMask"))
    return None if plain and not masks else "its strides are not 1, or it has an ellipsis or new-axis mask"


def _not_on_batch(operator: Operator) -> str | None:
    return "it packs along the batch" if operator.options.get("axis") == 0 else None


def _one_alpha(operator: Operator) -> str | None:
    return "its alpha has more than one dim" if _wide(operator.input(1).shape) > 1 else None


def _no_constant(operator: Operator) -> str | None:
    stored = sum(tensor is not None and tensor.stored for tensor in operator.inputs)
    return "an input is constant (allowed only as zeros, one of two)" if stored else None


RULES: Mapping[str, Rule] = {
    "ADD": Rule(_CORAL),
    "AVERAGE_POOL_2D": Rule(_CORAL, (_no_fused_activation,)),
    "CONCATENATION": Rule(_CORAL, (_no_fused_activation, _no_constant)),
    "CONV_2D": Rule(_CORAL, (_same_dilation,)),
    "DEPTHWISE_CONV_2D": Rule(_CORAL, (_same_dilation,)),
    "EXPAND_DIMS": Rule(_CHANGES),
    "FULLY_CONNECTED": Rule(_CORAL, (_row_output,)),
    "L2_NORMALIZATION": Rule(_CORAL),
    "LOGISTIC": Rule(_CORAL),
    "MAXIMUM": Rule(_CORAL),
    "MAX_POOL_2D": Rule(_CORAL, (_no_fused_activation,)),
    "MEAN": Rule(_CORAL, (_not_batch,)),
    "MINIMUM": Rule(_CORAL),
    "MUL": Rule(_CORAL),
    "PACK": Rule(_CHANGES, (_not_on_batch,)),
    "PAD": Rule(_CORAL, (_pads_no_batch,)),
    "PRELU": Rule(_AXIS, (_one_alpha,)),
    "QUANTIZE": Rule(_CHANGES),
    "REDUCE_MAX": Rule(_AXIS, (_not_batch,)),
    "REDUCE_MIN": Rule(_AXIS, (_not_batch,)),
    "RELU": Rule(_CORAL),
    "RELU6": Rule(_CORAL),
    "RELU_N1_TO_1": Rule(_CORAL),
    "RESHAPE": Rule(_CORAL),
    "RESIZE_BILINEAR": Rule(_CORAL),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_CORAL),
    "SLICE": Rule(_CORAL),
    "SOFTMAX": Rule(_CORAL, (_softmax,)),
    "SPACE_TO_DEPTH": Rule(_CORAL),
    "SPLIT": Rule(_CORAL),
    "SQUEEZE": Rule(_CORAL),
    "STRIDED_SLICE": Rule(_CORAL, (_unit_strides,)),
    "SUB": Rule(_CORAL),
    "SUM": Rule(_CHANGES, (_not_batch,)),
    "TANH": Rule(_CORAL),
    "TRANSPOSE_CONV": Rule(_CHANGES),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rule(_CORAL),
}


def predict(graph: Graph) -> list[Fate]:
    """The fate of every operator, in the graph's order.

    Once a tensor was made on the CPU, what reads it stays there ("more than one subgraph").
    """
    on_cpu: set[int] = set()
    fates = []
    for operator in graph.operators:
        fate = judge(operator)
        if fate.status == MAPPED and any(tensor.index in on_cpu for tensor in operator.activations):
            fate = Fate(SUBGRAPH, "an operator before it runs on the CPU")
        if fate.status != MAPPED:
            on_cpu.update(tensor.index for tensor in operator.outputs)
        fates.append(fate)
    return fates


def judge(operator: Operator) -> Fate:
    """The fate of one operator on its own."""
    rule = RULES.get(operator.op)
    if rule is None:
        return Fate(UNSUPPORTED, f"{operator.op} is in no published table")
    wrong = next((tensor for tensor in operator.activations if tensor.dtype not in ("int8", "uint8")), None)
    if wrong is not None:
        return Fate(DTYPE, f"it works on {wrong.dtype}")
    deep = next((tensor for tensor in operator.activations if any(dim > 1 for dim in tensor.shape[:-3])), None)
    if deep is not None:
        return Fate(RANK, f"a tensor has the shape {list(deep.shape)}")
    reason = next((found for test in rule.tests if (found := test(operator)) is not None), None)
    return Fate(MAPPED) if reason is None else Fate(LIMITATION, reason)


def parameter_bytes(operators: Sequence[Operator]) -> int:
    """Bytes of the weights that these operators read, each counted once."""
    stored: dict[int, Tensor] = {tensor.index: tensor for operator in operators for tensor in operator.inputs if tensor is not None and tensor.stored}
    return sum(tensor.bytes for tensor in stored.values())


def _wide(shape: Sequence[int]) -> int:
    """How many dims are larger than 1."""
    return sum(dim > 1 for dim in shape)
