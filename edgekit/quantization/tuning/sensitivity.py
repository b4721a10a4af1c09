"""Measuring quantization noise, layer by layer and in total, simulated in PyTorch.

Also measures which tunings would reduce it.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch.fx import GraphModule, Node

from edgekit.diagnosis import Diagnosis, LayerNoise, Trial
from edgekit.errors import StepError
from edgekit.quantization.calibration import BatchSource, Calibration, Constants
from edgekit.quantization.prepared import build_float_graph
from edgekit.quantization.simulator import (
    FakeQuantizer,
    Simulator,
    build_simulator,
)
from edgekit.quantization.tuning.adapt import adapt
from edgekit.scheme import Tuning
from edgekit.signature import Signature

A = torch.ops.aten
#: The SQNR that is reported if there is no noise at all.
QUIET_DB = 120.0
#: The number of batches on which noise is measured, and on which a trial is calibrated.
MEASURED_BATCHES = 1
CALIBRATED_BATCHES = 4
_RESHAPES = {
    A.view.default,
    A.reshape.default,
    A.permute.default,
    A.transpose.int,
    A.flatten.using_ints,
    A.unsqueeze.default,
    A.squeeze.dim,
}
_Batches = Sequence[tuple[torch.Tensor, ...]]


def diagnose(
    network: torch.nn.Module,
    signature: Signature,
    batches: BatchSource,
    adapted: tuple[Calibration, Constants],
    trials: Sequence[Tuning] = (),
) -> Diagnosis:
    """Measure the noise of a calibrated network and of the tunings in ``trials``.

    ``adapted`` is the result of ``adapt``. Noise is measured on the first calibration
    batch. A trial that does not apply to the network is left out.
    """
    calibration, constants = adapted
    measured = list(itertools.islice(batches(), MEASURED_BATCHES))
    simulator = build_simulator(network, signature, calibration, constants)
    noise = _NoiseMeter(simulator, measured)
    quantizers = list(simulator.quantizers.values())
    weight_ids = {id(operator.weight) for operator in simulator.operators}
    weights = [item for item in quantizers if id(item) in weight_ids]
    activations = [item for item in quantizers if id(item) not in weight_ids]
    return Diagnosis(
        sqnr_db=noise.measure(quantizers),
        weights_db=noise.measure(weights),
        activations_db=noise.measure(activations),
        layers=_rank_layers(simulator, noise),
        mixed_output=mixed_output(
            build_float_graph(network, signature, constants), measured
        ),
        trials=_run_trials(network, signature, batches, calibration, trials),
    )


class _NoiseMeter:
    """Measures the SQNR of a simulated network against its own float outputs, in dB."""

    def __init__(self, simulator: Simulator, batches: _Batches) -> None:
        self._simulator = simulator
        self._batches = batches
        self._reference = _run(simulator, batches, on=())

    def measure(self, on: Sequence[FakeQuantizer]) -> float:
        """The SQNR with only the quantizers ``on`` switched on."""
        return sqnr(self._reference, _run(self._simulator, self._batches, on))


def _rank_layers(
    simulator: Simulator, noise: _NoiseMeter
) -> tuple[LayerNoise, ...]:
    """The noise of each module alone, the noisiest first."""
    macs: dict[str, int] = {}
    for operator in simulator.operators:
        macs[operator.module] = macs.get(operator.module, 0) + operator.macs
    layers = [
        LayerNoise(
            module=module,
            sqnr_db=noise.measure(quantizers),
            macs=macs.get(module, 0),
        )
        for module, quantizers in simulator.quantizers_by_module().items()
    ]
    return tuple(
        sorted(layers, key=lambda layer: (layer.sqnr_db, layer.module))
    )


def _run_trials(
    network: torch.nn.Module,
    signature: Signature,
    batches: BatchSource,
    calibration: Calibration,
    tunings: Sequence[Tuning],
) -> tuple[Trial, ...]:
    """Calibrate the network with each tuning and measure its noise.

    The reference is the network's own outputs, which changed constants would not compute.
    """
    if not tunings:
        return ()
    measured = list(itertools.islice(batches(), MEASURED_BATCHES))
    reference = _run(
        build_simulator(network, signature, calibration), measured, on=()
    )
    trials = []

    def first_batches() -> Iterator[tuple[torch.Tensor, ...]]:
        return itertools.islice(batches(), CALIBRATED_BATCHES)

    for tuning in tunings:
        settings = calibration.settings.model_copy(
            update={
                "observer": tuning.observer,
                "keep": tuning.keep,
                "split_outputs": tuning.split_outputs,
            }
        )
        try:
            adapted = adapt(network, first_batches, signature, settings, tuning)
        except StepError:
            continue  # the tuning does not apply to this network
        simulator = build_simulator(network, signature, *adapted)
        outputs = _run(simulator, measured, list(simulator.quantizers.values()))
        trials.append(Trial(tuning=tuning, sqnr_db=sqnr(reference, outputs)))
    return tuple(trials)


def sqnr(
    reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> float:
    """The lowest signal-to-quantization-noise ratio of several outputs, in dB.

    10 log10(E[y^2] / E[(y - y_q)^2]), at most QUIET_DB.
    """
    levels = [QUIET_DB]
    for signal, output in zip(reference, outputs, strict=True):
        power = float(signal.double().square().mean())
        noise = float((signal.double() - output.double()).square().mean())
        if noise > 0:
            levels.append(10 * math.log10(max(power, 1e-30) / noise))
    return min(levels)


def mixed_output(graph: GraphModule, batches: _Batches) -> float:
    """The largest ratio between the ranges of tensors that are concatenated to an output.

    1 if no output of the network is a concatenation.
    """
    concatenations = list(_concatenated_outputs(graph))
    ranges = _RangeInterpreter(graph, concatenations)
    if not concatenations:
        return 1.0
    with torch.no_grad():
        for batch in batches:
            ranges.run(*batch)
    return max(ranges.ratio(pieces) for pieces in concatenations)


class _RangeInterpreter(torch.fx.Interpreter):
    """Runs a graph and records the largest absolute value of some nodes."""

    def __init__(
        self, graph: GraphModule, concatenations: Sequence[list[Node]]
    ) -> None:
        super().__init__(graph)
        self._nodes = set(itertools.chain.from_iterable(concatenations))
        self._ranges: dict[Node, float] = {}

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        if n in self._nodes:
            largest = float(result.abs().max())
            self._ranges[n] = max(self._ranges.get(n, 0.0), largest)
        return result

    def ratio(self, pieces: Sequence[Node]) -> float:
        """The largest range of some nodes, divided by the smallest."""
        ranges = [self._ranges[piece] for piece in pieces]
        return max(ranges) / max(min(ranges), 1e-9)


def _concatenated_outputs(graph: GraphModule) -> list[list[Node]]:
    """The inputs of each concatenation that computes an output, also through reshapes."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    results = output.args[0]
    if not isinstance(results, tuple | list):
        results = [results]
    concatenations = []
    for result in results:
        node = result
        while isinstance(node, Node) and node.target in _RESHAPES:
            node = node.args[0]
        if not isinstance(node, Node) or node.target is not A.cat.default:
            continue
        if isinstance(node.args[0], tuple | list):
            pieces = [
                piece for piece in node.args[0] if isinstance(piece, Node)
            ]
            concatenations.append(pieces)
    return concatenations


def _run(
    simulator: Simulator, batches: _Batches, on: Sequence[FakeQuantizer]
) -> list[torch.Tensor]:
    """The float outputs of all batches, with only the quantizers ``on`` switched on."""
    simulator.set_all(False)
    for quantizer in on:
        quantizer.on = True
    by_batch: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            result = simulator.graph(*batch)
            outputs = result if isinstance(result, tuple | list) else [result]
            by_batch.append(
                [value for value in outputs if value.is_floating_point()]
            )
    simulator.set_all(True)
    return [torch.cat(values) for values in zip(*by_batch, strict=True)]
