"""The quantized graph with quantizers that can be switched on and off.

It is used for training, and to measure what a single quantizer does. A quantizer that is on
rounds its tensor as the runtime will, with a straight-through gradient inside the range; off,
it is the identity.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.calibration import (
    Calibration,
    Constants,
    TensorQuantization,
)
from edgekit.quantization.capture import module_of
from edgekit.quantization.graph import FixedObserver, restore_observers
from edgekit.quantization.observers import EPSILON
from edgekit.quantization.operators import PASSTHROUGH, WEIGHTED
from edgekit.quantization.prepared import (
    build_float_graph,
    find_constant,
    observer_groups,
)
from edgekit.signature import Signature


class FakeQuantizer(torch.nn.Module):
    """Fake quantization of one tensor, which can be switched off.

    real = scale * (stored - zero_point), with stored in [quant_min, quant_max].
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, quantization: TensorQuantization) -> None:
        super().__init__()
        self.on = True
        #: Whether the scale is computed from the tensor's present range, as it is for a
        #: weight that is being trained.
        self.tracks_range = False
        self.axis = quantization.axis
        self.quant_min = quantization.quant_min
        self.quant_max = quantization.quant_max
        scale = torch.tensor(quantization.scale, dtype=torch.float32)
        zero_point = torch.tensor(quantization.zero_point, dtype=torch.int32)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.quantize(x) if self.on else x

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor after quantization, whether the quantizer is on or off."""
        if self.tracks_range:
            self.scale = symmetric_scale(x.detach(), self.axis, self.quant_max)
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(
                x, self.scale, self.zero_point, self.quant_min, self.quant_max
            )
        return torch.fake_quantize_per_channel_affine(
            x,
            self.scale,
            self.zero_point,
            self.axis,
            self.quant_min,
            self.quant_max,
        )


def symmetric_scale(
    x: torch.Tensor, axis: int | None, quant_max: int
) -> torch.Tensor:
    """The symmetric scale of a tensor: max |x| / quant_max.

    Per channel of ``axis``, shape (channels,); per-tensor if ``axis`` is None, shape (1,).
    """
    if axis is None:
        largest = x.abs().amax()[None]
    else:
        largest = x.abs().transpose(0, axis).flatten(1).amax(1)
    return (largest / quant_max).clamp(min=EPSILON)


@dataclasses.dataclass(frozen=True)
class WeightedOperator:
    """One convolution or linear layer of the graph, its quantizers and constants."""

    node: Node
    module: str
    #: The quantizer of the input; None if the input is float.
    input: FakeQuantizer | None
    weight: FakeQuantizer
    #: The names of the constants.
    weight_name: str
    bias_name: str | None
    #: Multiply-accumulates for one sample.
    macs: int

    @property
    def is_convolution(self) -> bool:
        """True for a convolution, False for a linear layer."""
        return "conv" in str(self.node.target)

    @property
    def channel_axis(self) -> int:
        """The axis of the output's channels."""
        return 1 if self.is_convolution else -1

    def compute(
        self, x: torch.Tensor, weight: torch.Tensor, bias: Any
    ) -> torch.Tensor:
        """Run the operator on another input, weight and bias."""
        target: Any = self.node.target
        result: torch.Tensor = target(
            x, weight, bias, *self.node.args[3:], **self.node.kwargs
        )
        return result


@dataclasses.dataclass(frozen=True)
class Simulator:
    """The graph, its quantizers, and its weighted operators in execution order.

    A quantizer's key is the key of its tensor in ``Calibration.tensors``.
    """

    graph: GraphModule
    quantizers: dict[str, FakeQuantizer]
    operators: tuple[WeightedOperator, ...]

    def set_all(self, on: bool) -> None:
        """Switch every quantizer on or off."""
        for quantizer in self.quantizers.values():
            quantizer.on = on

    def quantizers_by_module(self) -> dict[str, list[FakeQuantizer]]:
        """The quantizers of each module path.

        These are the quantizers that the module's operators read; an output of the network
        belongs to the module that computes it.
        """
        by_module: dict[str, list[FakeQuantizer]] = {}
        for node in self.graph.graph.nodes:
            quantizer = _quantizer(self.graph, node)
            if quantizer is None:
                continue
            for owner in _owners(node):
                quantizers = by_module.setdefault(module_of(owner), [])
                if not any(quantizer is listed for listed in quantizers):
                    quantizers.append(quantizer)
        return by_module


def _owners(node: Node) -> list[Node]:
    """The operators that read a quantizer; also its producer, if it is an output."""
    owners = [
        user
        for user in node.users
        if user.op == "call_function" and user.target not in PASSTHROUGH
    ]
    producer = node.args[0]
    if any(user.op == "output" for user in node.users) and isinstance(
        producer, Node
    ):
        owners.append(producer)
    return owners


def build_simulator(
    network: torch.nn.Module,
    signature: Signature,
    calibration: Calibration,
    constants: Constants | None = None,
) -> Simulator:
    """Rebuild the quantized graph of a calibration with all quantizers on.

    The network is unchanged. Raises StepError if network and calibration do not match.
    """
    graph = build_float_graph(network, signature, constants)
    prepared = restore_observers(graph, calibration)
    quantizers = {}
    for key, nodes in observer_groups(prepared):
        assert isinstance(
            prepared.get_submodule(str(nodes[0].target)), FixedObserver
        )
        quantizers[key] = FakeQuantizer(calibration.tensors[key])
        for node in nodes:
            setattr(prepared, str(node.target), quantizers[key])
    return Simulator(prepared, quantizers, tuple(_weighted_operators(prepared)))


def _weighted_operators(graph: GraphModule) -> Iterator[WeightedOperator]:
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTED:
            continue
        quantizer = _quantizer(graph, node.args[1])
        weight = find_constant(graph, node.args[1])
        if quantizer is None or weight is None:
            continue
        bias = (
            find_constant(graph, node.args[2]) if len(node.args) > 2 else None
        )
        yield WeightedOperator(
            node=node,
            module=module_of(node),
            input=_quantizer(graph, node.args[0]),
            weight=quantizer,
            weight_name=weight[0],
            bias_name=None if bias is None else bias[0],
            macs=weight[1].numel() * _positions(node),
        )


def _positions(node: Node) -> int:
    """How often one sample uses each weight: positions of an image, rows of a sequence."""
    shape = node.meta["val"].shape
    positions = shape[2:] if "conv" in str(node.target) else shape[1:-1]
    return math.prod(int(size) for size in positions)


def _quantizer(graph: GraphModule, node: object) -> FakeQuantizer | None:
    if not isinstance(node, Node) or node.op != "call_module":
        return None
    module = graph.get_submodule(str(node.target))
    return module if isinstance(module, FakeQuantizer) else None


#: Called with an operator and its arguments, the input first.
Visitor = Callable[[WeightedOperator, tuple[Any, ...]], None]


class _VisitingInterpreter(torch.fx.Interpreter):
    """Runs a graph and calls ``visit`` before each of the chosen operators."""

    def __init__(
        self,
        simulator: Simulator,
        operators: Sequence[WeightedOperator],
        visit: Visitor,
    ) -> None:
        super().__init__(simulator.graph)
        self._chosen = {operator.node: operator for operator in operators}
        self._visit = visit

    def run_node(self, n: Node) -> Any:
        if n in self._chosen:
            arguments, _ = self.fetch_args_kwargs_from_env(n)
            self._visit(self._chosen[n], arguments)
        return super().run_node(n)


def visit_operators(
    simulator: Simulator,
    operators: Sequence[WeightedOperator],
    batches: Iterable[tuple[torch.Tensor, ...]],
    visit: Visitor,
) -> None:
    """Run batches through the float graph and call ``visit`` for each chosen operator.

    All quantizers are off during the run and on afterwards.
    """
    simulator.set_all(False)
    interpreter = _VisitingInterpreter(simulator, operators, visit)
    with torch.no_grad():
        for batch in batches:
            interpreter.run(*batch)
    simulator.set_all(True)
