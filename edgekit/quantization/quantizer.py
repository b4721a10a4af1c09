"""The torchao PT2E quantizer of edgekit: int8 weights (one scale a channel), int8 activations (one scale a tensor)."""

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.placement import BOUNDED, Float, Placed, place
from edgekit.quantization.pt2e import (
    FixedQParamsQuantizationSpec,
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from edgekit.quantization.settings import Settings

#: The smallest scale: a tensor that is always zero must not divide by zero (TFLite's and XNNPACK's kernels ask for about as much).
EPSILON = 2.0**-16
_KEY = "quantization_annotation"


class Int8Quantizer(Quantizer):  # type: ignore[misc]
    """Annotates a graph as ``placement`` decides. Weights lie in [-127, 127]; symmetric activations have zero point 0."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        symmetric = settings.symmetric
        observer = HistogramObserver if settings.observer == "histogram" else MinMaxObserver
        self._activation = QuantizationSpec(
            dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
            observer_or_fake_quant_ctr=observer.with_args(eps=EPSILON),
        )  # fmt: skip
        self._weight = QuantizationSpec(
            dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric, ch_axis=0,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=EPSILON),
        )  # fmt: skip
        self._symmetric = symmetric
        #: Operators that compute in int8 (those that only pass numbers on are not counted).
        self.quantized = 0
        #: (operator, module, reason)
        self.left_float: list[tuple[str, str, str]] = []

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark every operator that computes in int8."""
        self.quantized, self.left_float = 0, []
        for placed in place(model):
            if isinstance(placed, Float):
                self.left_float.append(placed.where)
                continue
            self.quantized += placed.kind in ("weighted", "joining")
            self._annotate(placed)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to refuse: what cannot be int8 stays float."""

    def _annotate(self, placed: Placed) -> None:
        node, first = placed.node, placed.inputs[0]
        inputs: dict[Node, QuantizationSpecBase] = dict.fromkeys(placed.inputs, self._activation)
        output: QuantizationSpecBase = self._activation
        if placed.kind == "weighted":
            weight = node.args[1]
            assert isinstance(weight, Node)
            inputs[weight] = self._weight
        elif placed.kind in ("sharing", "concatenation"):
            shared = SharedQuantizationSpec((first, node))
            inputs = {item: self._activation if item is first else shared for item in placed.inputs}
            output = shared
        elif node.target in BOUNDED and not self._symmetric:
            output = _bounded(*BOUNDED[node.target])
        whole = placed.tail is node
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output if whole else None, _annotated=True)
        if not whole:
            placed.tail.meta[_KEY] = QuantizationAnnotation(output_qspec=output, _annotated=True)


def _bounded(scale: float, zero_point: int) -> FixedQParamsQuantizationSpec:
    return FixedQParamsQuantizationSpec(dtype=torch.int8, scale=scale, zero_point=zero_point, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine)
