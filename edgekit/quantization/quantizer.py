"""The torchao PT2E quantizer of edgekit: int8 weights, int8 or int16 activations (one scale
a tensor), placed as ``placement`` decides.
"""

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError, unknown
from edgekit.quantization.decompose import decompose
from edgekit.quantization.observers import (
    activation_observer,
    constant_observer,
    weight_observer,
)
from edgekit.quantization.operators import BOUNDS, TFLITE
from edgekit.quantization.placement import Float, Placed, place
from edgekit.quantization.pt2e import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from edgekit.quantization.rewrite import constant, modules
from edgekit.quantization.settings import Settings

_KEY = "quantization_annotation"


class Int8Quantizer(Quantizer):  # type: ignore[misc]
    """Annotates a graph as ``placement`` decides.

    Weights lie in [-127, 127]; symmetric activations have zero point 0.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._wide = settings.activation_bits == 16
        self._symmetric = settings.symmetric or self._wide
        self._activation = self._spec(activation_observer(settings.observer))
        self._constant = self._spec(constant_observer(), constant=True)
        #: Operators that compute in int8 (those that only pass numbers on are not counted).
        self.quantized = 0
        #: (operator, module, reason)
        self.left_float: list[tuple[str, str, str]] = []

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write operators as others that runtimes have in int8.

        Raises StepError for a module path that the network does not have.
        """
        if self._wide and self._settings.runtime in TFLITE:
            fix = "make w8a16-static from the float TFLite file"
            raise StepError(
                "16-bit activations of a PyTorch graph are not right in TFLite: its converter writes other numbers.",
                fix=fix,
            )
        known = modules(model)
        for path in (*self._settings.keep, *(path for path, _ in self._settings.split)):
            if path not in known:
                raise StepError(
                    unknown("module", path, known),
                    fix="correct the path in the settings of the quantizer",
                )
        decompose(model, self._settings)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark every operator that computes in int8."""
        self.quantized, self.left_float = 0, []
        for placed in place(model, self._settings):
            if isinstance(placed, Float):
                self.left_float.append(placed.where)
                continue
            self.quantized += placed.kind in ("weighted", "joining")
            self._annotate(model, placed)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to refuse: what cannot be int8 stays float."""

    def _spec(self, observer: object, constant: bool = False) -> QuantizationSpec:
        # A constant operand in [-127, 127] holds its largest number exactly where the zero
        # point is 0.
        lowest = (-32768 if self._wide else -128) + (
            1 if self._symmetric and constant else 0
        )
        return QuantizationSpec(
            dtype=torch.int16 if self._wide else torch.int8,
            quant_min=lowest,
            quant_max=32767 if self._wide else 127,
            qscheme=torch.per_tensor_symmetric
            if self._symmetric
            else torch.per_tensor_affine,
            observer_or_fake_quant_ctr=observer,
        )

    def _weight(self) -> QuantizationSpec:
        per_channel = self._settings.per_channel
        return QuantizationSpec(
            dtype=torch.int8,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric
            if per_channel
            else torch.per_tensor_symmetric,
            ch_axis=0 if per_channel else None,
            observer_or_fake_quant_ctr=weight_observer(per_channel),
        )

    def _annotate(self, model: GraphModule, placed: Placed) -> None:
        node, first = placed.node, placed.inputs[0]
        inputs = {item: self._as_made(model, item) for item in placed.inputs}
        output: QuantizationSpecBase | None = self._activation
        if placed.kind == "weighted":
            weight = node.args[1]
            assert isinstance(weight, Node)
            inputs[weight] = self._weight()
        elif placed.kind == "sharing":
            output = SharedQuantizationSpec((first, node))
        elif placed.kind == "uniting":
            shared = SharedQuantizationSpec((first, node))
            inputs = {
                item: self._activation if item is first else shared
                for item in placed.inputs
            }
            output = shared
        elif placed.kind == "bounded":
            output = self._bounded(*BOUNDS[node.target])  # type: ignore[index]
        if not placed.result:
            output = None
        whole = placed.tail is node
        node.meta[_KEY] = QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=output if whole else None, _annotated=True
        )
        if not whole:
            placed.tail.meta[_KEY] = QuantizationAnnotation(
                output_qspec=output, _annotated=True
            )

    def _as_made(self, model: GraphModule, node: Node) -> QuantizationSpecBase:
        """The scale that a tensor was given where it was made; one of its own where it
        enters the graph, or comes from a float operator.
        """
        made = node.meta.get(_KEY)
        if made is not None and made.output_qspec is not None:
            return SharedQuantizationSpec(node)
        return self._activation if constant(model, node) is None else self._constant

    def _bounded(self, low: float, high: float) -> QuantizationSpecBase:
        """The scale of a known range, as TFLite asks for: all steps from ``low`` to just
        below ``high``.
        """
        if self._symmetric and not self._wide and low == 0:
            return self._activation
        scale, zero_point = (
            (1 / 32768, 0) if self._wide else ((high - low) / 256, -128 if low == 0 else 0)
        )
        return FixedQParamsQuantizationSpec(
            dtype=torch.int16 if self._wide else torch.int8,
            scale=scale,
            zero_point=zero_point,
            quant_min=-32768 if self._wide else -128,
            quant_max=32767 if self._wide else 127,
            qscheme=torch.per_tensor_symmetric
            if self._symmetric
            else torch.per_tensor_affine,
        )
