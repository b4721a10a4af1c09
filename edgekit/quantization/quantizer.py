"""The PT2E quantizer of edgekit: int8 weights, per-tensor int8 or int16 activations.

``placement`` decides which operators are quantized.
"""

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError, unknown
from edgekit.quantization.decompose import decompose
from edgekit.quantization.graph_edit import constant_value
from edgekit.quantization.observers import (
    activation_observer,
    constant_observer,
    weight_observer,
)
from edgekit.quantization.operators import BOUNDS, TFLITE
from edgekit.quantization.placement import FloatNode, QuantizedNode, place
from edgekit.quantization.pt2e import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from edgekit.quantization.rewrite import module_paths
from edgekit.quantization.settings import Settings

#: The key under which PT2E reads a node's annotation.
_KEY = "quantization_annotation"
#: Kinds that are counted as quantized operators; the others only follow their inputs.
_COUNTED = ("weighted", "binary")
_INT8 = (-128, 127)
_INT16 = (-32768, 32767)


class Int8Quantizer(Quantizer):  # type: ignore[misc]
    """Annotates the operators that ``placement`` selects.

    Weights are in [-127, 127] with zero point 0; symmetric activations have zero point 0.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._is_int16 = settings.activation_bits == 16
        self._symmetric = settings.symmetric or self._is_int16
        self._activation = self._activation_spec()
        self._constant = self._constant_spec()
        #: Operators that compute in int8 (those that only move values are not counted).
        self.quantized = 0
        #: (operator, module, reason)
        self.left_float: list[tuple[str, str, str]] = []

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Replace operators by others that runtimes have in int8.

        Raises StepError for a module path that the network does not have, and for int16
        activations in TFLite.
        """
        if self._is_int16 and self._settings.runtime in TFLITE:
            raise StepError(
                "16-bit activations of a PyTorch graph are not supported for TFLite: "
                "its converter writes wrong values.",
                fix="build w8a16-static from the float TFLite file",
            )
        existing = module_paths(model)
        split_paths = [path for path, _ in self._settings.split]
        for path in (*self._settings.keep, *split_paths):
            if path not in existing:
                raise StepError(
                    unknown("module", path, existing),
                    fix="correct the path in the settings of the quantizer",
                )
        decompose(model, self._settings)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every operator that computes in int8."""
        self.quantized = 0
        self.left_float = []
        for decision in place(model, self._settings):
            if isinstance(decision, FloatNode):
                self.left_float.append(decision.row)
                continue
            self.quantized += decision.kind in _COUNTED
            self._annotate(model, decision)
        return model

    def validate(self, model: GraphModule) -> None:
        """Do nothing: what cannot be int8 stays in float."""

    def _activation_spec(self) -> QuantizationSpec:
        lowest, highest = _INT16 if self._is_int16 else _INT8
        observer = activation_observer(self._settings.observer)
        return self._per_tensor_spec(lowest, highest, observer)

    def _constant_spec(self) -> QuantizationSpec:
        lowest, highest = _INT16 if self._is_int16 else _INT8
        if self._symmetric:
            # In [-127, 127] a constant operand represents its largest value exactly.
            lowest += 1
        return self._per_tensor_spec(lowest, highest, constant_observer())

    def _per_tensor_spec(
        self, lowest: int, highest: int, observer: object
    ) -> QuantizationSpec:
        return QuantizationSpec(
            dtype=self._dtype,
            quant_min=lowest,
            quant_max=highest,
            qscheme=self._qscheme,
            observer_or_fake_quant_ctr=observer,
        )

    def _weight_spec(self) -> QuantizationSpec:
        per_channel = self._settings.per_channel
        qscheme = torch.per_tensor_symmetric
        if per_channel:
            qscheme = torch.per_channel_symmetric
        return QuantizationSpec(
            dtype=torch.int8,
            quant_min=-127,
            quant_max=127,
            qscheme=qscheme,
            ch_axis=0 if per_channel else None,
            observer_or_fake_quant_ctr=weight_observer(per_channel),
        )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.int16 if self._is_int16 else torch.int8

    @property
    def _qscheme(self) -> torch.qscheme:
        return (
            torch.per_tensor_symmetric
            if self._symmetric
            else torch.per_tensor_affine
        )

    def _annotate(self, model: GraphModule, decision: QuantizedNode) -> None:
        node, tail = decision.node, decision.tail
        inputs = self._input_specs(model, decision)
        output = (
            self._output_spec(decision) if decision.quantizes_output else None
        )
        if tail is node:
            node.meta[_KEY] = QuantizationAnnotation(
                input_qspec_map=inputs, output_qspec=output, _annotated=True
            )
            return
        node.meta[_KEY] = QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=None, _annotated=True
        )
        tail.meta[_KEY] = QuantizationAnnotation(
            output_qspec=output, _annotated=True
        )

    def _input_specs(
        self, model: GraphModule, decision: QuantizedNode
    ) -> dict[Node, QuantizationSpecBase]:
        node, first = decision.node, decision.inputs[0]
        if decision.kind == "shared-inputs":
            shared = SharedQuantizationSpec((first, node))
            specs = dict.fromkeys(decision.inputs, shared)
            specs[first] = self._activation
            return specs
        specs = {
            item: self._source_spec(model, item) for item in decision.inputs
        }
        if decision.kind == "weighted":
            weight = node.args[1]
            assert isinstance(weight, Node)
            specs[weight] = self._weight_spec()
        return specs

    def _output_spec(self, decision: QuantizedNode) -> QuantizationSpecBase:
        node, first = decision.node, decision.inputs[0]
        if decision.kind in ("passthrough", "shared-inputs"):
            return SharedQuantizationSpec((first, node))
        if decision.kind == "fixed-range":
            low, high = BOUNDS[node.target]  # type: ignore[index]
            return self._fixed_range_spec(low, high)
        return self._activation

    def _source_spec(
        self, model: GraphModule, node: Node
    ) -> QuantizationSpecBase:
        """The quantization that a tensor has at its producer.

        A tensor that enters the graph, or comes from a float operator, gets its own.
        """
        annotation = node.meta.get(_KEY)
        if annotation is not None and annotation.output_qspec is not None:
            return SharedQuantizationSpec(node)
        is_constant = constant_value(model, node) is not None
        return self._constant if is_constant else self._activation

    def _fixed_range_spec(
        self, low: float, high: float
    ) -> QuantizationSpecBase:
        """The quantization that TFLite requires for a known range.

        All steps are used, from ``low`` to just below ``high``.
        """
        if self._symmetric and not self._is_int16 and low == 0:
            return self._activation
        lowest, highest = _INT16 if self._is_int16 else _INT8
        if self._is_int16:
            scale, zero_point = 1 / 32768, 0
        else:
            scale = (high - low) / 256
            zero_point = -128 if low == 0 else 0
        return FixedQParamsQuantizationSpec(
            dtype=self._dtype,
            scale=scale,
            zero_point=zero_point,
            quant_min=lowest,
            quant_max=highest,
            qscheme=self._qscheme,
        )
