"""The quantized graph with quantizers that can be switched: for training, and to ask what
one quantizer alone does.

A switch that is on rounds its tensor as the runtime will (straight-through gradient inside
the range); off, it is the identity.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.quantization.calibration import Calibration, Constants, Observed
from edgekit.quantization.capture import module_of
from edgekit.quantization.graph import Stored, stored
from edgekit.quantization.observers import EPSILON
from edgekit.quantization.operators import SHARING, WEIGHTED
from edgekit.quantization.prepared import constant_of, groups, rewritten
from edgekit.signature import Signature


class Switch(torch.nn.Module):
    """Fake quantization of one tensor: ``real = scale * (stored - zero_point)``, stored in
    [quant_min, quant_max].
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, observed: Observed) -> None:
        super().__init__()
        self.on = True
        #: Whether the scale follows the tensor's present range, as a weight's does while it
        #: is trained.
        self.follows = False
        self.axis = observed.axis
        self.quant_min, self.quant_max = observed.quant_min, observed.quant_max
        self.register_buffer("scale", torch.tensor(observed.scale, dtype=torch.float32))
        self.register_buffer(
            "zero_point", torch.tensor(observed.zero_point, dtype=torch.int32)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rounded(x) if self.on else x

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor as it is after quantization, whether the switch is on or off."""
        if self.follows:
            self.scale = symmetric_scale(x.detach(), self.axis, self.quant_max)
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(
                x, self.scale, self.zero_point, self.quant_min, self.quant_max
            )
        return torch.fake_quantize_per_channel_affine(
            x, self.scale, self.zero_point, self.axis, self.quant_min, self.quant_max
        )


def symmetric_scale(x: torch.Tensor, axis: int | None, quant_max: int) -> torch.Tensor:
    """The scale with which the largest value of a tensor, or of each of its channels, is
    ``quant_max`` steps: shape (channels,) or (1,).
    """
    largest = (
        x.abs().amax()[None]
        if axis is None
        else x.abs().transpose(0, axis).flatten(1).amax(1)
    )
    return (largest / quant_max).clamp(min=EPSILON)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One convolution or linear layer of the graph, its quantizers and constants."""

    node: Node
    module: str
    #: Of its input and its weight; the input of a layer behind a float one may have none.
    input: Switch | None
    weight: Switch
    #: Names of the constants.
    weight_name: str
    bias_name: str | None
    #: Multiply-accumulates of one sample.
    macs: int

    @property
    def channel_axis(self) -> int:
        """The axis of the output's channels."""
        return 1 if "conv" in str(self.node.target) else -1

    def compute(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        """The operator on another input, weight and bias."""
        result: torch.Tensor = self.node.target(
            x, weight, bias, *self.node.args[3:], **self.node.kwargs
        )  # type: ignore[operator]
        return result


@dataclasses.dataclass(frozen=True)
class Simulator:
    """The graph, its switches by the key of their tensor, and its weighted operators in the
    order in which they run.
    """

    graph: GraphModule
    switches: dict[str, Switch]
    operators: tuple[Operator, ...]

    def all(self, on: bool) -> None:
        """Switch every quantizer."""
        for switch in self.switches.values():
            switch.on = on

    def of_modules(self) -> dict[str, list[Switch]]:
        """For each module path the quantizers of what its operators read, and those of the
        network's outputs by the module that makes them.
        """
        found: dict[str, list[Switch]] = {}
        for node in self.graph.graph.nodes:
            if node.op != "call_module" or not isinstance(
                self.graph.get_submodule(str(node.target)), Switch
            ):
                continue
            switch = self.graph.get_submodule(str(node.target))
            assert isinstance(switch, Switch)
            makers = (
                [node.args[0]] if any(user.op == "output" for user in node.users) else []
            )
            for reader in [
                user
                for user in node.users
                if user.op == "call_function" and user.target not in SHARING
            ] + makers:
                listed = found.setdefault(module_of(reader), [])
                if not any(switch is known for known in listed):
                    listed.append(switch)
        return found


def simulator(
    network: torch.nn.Module,
    signature: Signature,
    calibration: Calibration,
    constants: Constants | None = None,
) -> Simulator:
    """Rebuild the quantized graph of a calibration with switches, all of them on.

    The network is unchanged.

    Raises StepError where network and calibration do not match.
    """
    graph = stored(rewritten(network, signature, constants), calibration)
    switches = {}
    for key, nodes in groups(graph):
        assert isinstance(graph.get_submodule(str(nodes[0].target)), Stored)
        switches[key] = Switch(calibration.tensors[key])
        for node in nodes:
            setattr(graph, str(node.target), switches[key])
    return Simulator(graph, switches, tuple(_operators(graph)))


def _operators(graph: GraphModule) -> Iterator[Operator]:
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTED:
            continue
        weight, named = _switch(graph, node.args[1]), constant_of(graph, node.args[1])
        if weight is None or named is None:
            continue
        bias = constant_of(graph, node.args[2]) if len(node.args) > 2 else None
        value = node.meta["val"]
        places = (
            math.prod(int(size) for size in value.shape[2:])
            if "conv" in str(node.target)
            else math.prod(int(size) for size in value.shape[1:-1])
        )
        yield Operator(
            node,
            module_of(node),
            _switch(graph, node.args[0]),
            weight,
            named[0],
            None if bias is None else bias[0],
            named[1].numel() * places,
        )


def _switch(graph: GraphModule, node: object) -> Switch | None:
    found = (
        graph.get_submodule(str(node.target))
        if isinstance(node, Node) and node.op == "call_module"
        else None
    )
    return found if isinstance(found, Switch) else None


class Tap(torch.fx.Interpreter):
    """Runs the graph and shows each chosen operator its arguments: ``look(operator,
    arguments)``, the input first.
    """

    def __init__(
        self,
        simulated: Simulator,
        operators: Sequence[Operator],
        look: Callable[[Operator, tuple[Any, ...]], None],
    ) -> None:
        super().__init__(simulated.graph)
        self._chosen = {operator.node: operator for operator in operators}
        self._look = look

    def run_node(self, n: Node) -> Any:
        """As the graph does, with a look at the chosen ones."""
        if n in self._chosen:
            self._look(self._chosen[n], self.fetch_args_kwargs_from_env(n)[0])
        return super().run_node(n)


def observe(
    simulated: Simulator,
    operators: Sequence[Operator],
    rows: Iterable[tuple[torch.Tensor, ...]],
    look: Callable[[Operator, tuple[Any, ...]], None],
) -> None:
    """Run batches through the float graph (all switches off) and show the operators their
    arguments.
    """
    simulated.all(False)
    tap = Tap(simulated, operators, look)
    with torch.no_grad():
        for row in rows:
            tap.run(*row)
    simulated.all(True)
