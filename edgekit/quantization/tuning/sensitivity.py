"""How loud quantization is, layer by layer and altogether, and which changes would make it
quieter; all simulated in PyTorch.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch.fx import GraphModule, Node

from edgekit.diagnosis import Diagnosis, LayerNoise, Trial
from edgekit.errors import StepError
from edgekit.quantization.calibration import Calibration, Constants, Rows
from edgekit.quantization.prepared import rewritten
from edgekit.quantization.simulator import Simulator, simulator
from edgekit.quantization.tuning.adapt import adapt
from edgekit.scheme import Tuning
from edgekit.signature import Signature

A = torch.ops.aten
#: SQNR where there is no noise at all.
QUIET_DB = 120.0
#: Batches on which noise is measured, and on which a trial is calibrated.
MEASURED, CALIBRATED = 1, 4
_SHAPES = {
    A.view.default,
    A.reshape.default,
    A.permute.default,
    A.transpose.int,
    A.flatten.using_ints,
    A.unsqueeze.default,
    A.squeeze.dim,
}


def diagnose(
    network: torch.nn.Module,
    signature: Signature,
    rows: Rows,
    found: tuple[Calibration, Constants],
    trials: Sequence[Tuning] = (),
) -> Diagnosis:
    """Measure the noise of a calibrated network on its first calibration batch, and of
    every tuning in ``trials`` that can be made.

    ``found`` is what ``adapt`` gave. A trial that finds nothing to change is left out.
    """
    calibration, constants = found
    batches = list(itertools.islice(rows(), MEASURED))
    simulated = simulator(network, signature, calibration, constants)
    wanted = _outputs(simulated, batches, on=())
    weights = {id(operator.weight) for operator in simulated.operators}
    everything = list(simulated.switches.values())

    def level(on: Sequence[torch.nn.Module]) -> float:
        return sqnr(wanted, _outputs(simulated, batches, on))

    # A trial is measured against the network's own outputs, which changed constants would
    # not give.
    original = (
        wanted
        if not constants
        else _outputs(simulator(network, signature, calibration), batches, on=())
    )

    def attempt(tuning: Tuning) -> Trial | None:
        changed = calibration.settings.model_copy(
            update={
                "observer": tuning.observer,
                "keep": tuning.keep,
                "split_outputs": tuning.split_outputs,
            }
        )
        try:
            made = adapt(
                network,
                lambda: itertools.islice(rows(), CALIBRATED),
                signature,
                changed,
                tuning,
            )
        except StepError:
            return None  # it finds nothing to change
        tried = simulator(network, signature, *made)
        return Trial(
            tuning=tuning,
            sqnr_db=sqnr(original, _outputs(tried, batches, list(tried.switches.values()))),
        )

    macs: dict[str, int] = {}
    for operator in simulated.operators:
        macs[operator.module] = macs.get(operator.module, 0) + operator.macs
    layers = [
        LayerNoise(module=module, sqnr_db=level(switches), macs=macs.get(module, 0))
        for module, switches in simulated.of_modules().items()
    ]
    return Diagnosis(
        sqnr_db=level(everything),
        weights_db=level([switch for switch in everything if id(switch) in weights]),
        activations_db=level(
            [switch for switch in everything if id(switch) not in weights]
        ),
        layers=tuple(sorted(layers, key=lambda layer: (layer.sqnr_db, layer.module))),
        mixed_output=mixed_output(rewritten(network, signature, constants), batches),
        trials=tuple(trial for tuning in trials if (trial := attempt(tuning)) is not None),
    )


def sqnr(wanted: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> float:
    """The lowest SQNR of several outputs in dB, each at most QUIET_DB."""
    levels = [QUIET_DB]
    for signal, other in zip(wanted, given, strict=True):
        power, noise = (
            float(signal.double().square().mean()),
            float((signal.double() - other.double()).square().mean()),
        )
        if noise > 0:
            levels.append(10 * math.log10(max(power, 1e-30) / noise))
    return min(levels)


def mixed_output(graph: GraphModule, batches: Sequence[tuple[torch.Tensor, ...]]) -> float:
    """The largest ratio of the ranges of tensors that one concatenation joins into an
    output of the network; 1 where there is none.
    """
    joins = list(_joined(graph))
    ranges: dict[Node, float] = {}

    class Look(torch.fx.Interpreter):
        def run_node(self, n: Node) -> object:
            result = super().run_node(n)
            if n in wanted:
                ranges[n] = max(ranges.get(n, 0.0), float(result.abs().max()))
            return result

    wanted = {piece for pieces in joins for piece in pieces}
    if not wanted:
        return 1.0
    look = Look(graph)
    with torch.no_grad():
        for batch in batches:
            look.run(*batch)
    ratios = [
        max(ranges[piece] for piece in pieces)
        / max(min(ranges[piece] for piece in pieces), 1e-9)
        for pieces in joins
    ]
    return max(ratios)


def _joined(graph: GraphModule) -> list[list[Node]]:
    """The pieces of every concatenation that makes an output, also behind reshapes."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    made = output.args[0] if isinstance(output.args[0], tuple | list) else [output.args[0]]
    found = []
    for result in made:
        node = result
        while isinstance(node, Node) and node.target in _SHAPES:
            node = node.args[0]
        if (
            isinstance(node, Node)
            and node.target is A.cat.default
            and isinstance(node.args[0], tuple | list)
        ):
            found.append([piece for piece in node.args[0] if isinstance(piece, Node)])
    return found


def _outputs(
    simulated: Simulator,
    batches: Sequence[tuple[torch.Tensor, ...]],
    on: Sequence[torch.nn.Module],
) -> list[torch.Tensor]:
    """The float outputs of all batches with only these switches on."""
    simulated.all(False)
    for switch in on:
        switch.on = True  # type: ignore[assignment]
    found: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            result = simulated.graph(*batch)
            found.append(
                [
                    value
                    for value in (result if isinstance(result, tuple | list) else [result])
                    if value.is_floating_point()
                ]
            )
    simulated.all(True)
    return [torch.cat(values) for values in zip(*found, strict=True)]
