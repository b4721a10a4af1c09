"""The quantized graph of one network: calibrated once, then rebuilt from plain numbers for
every backend.

    calibration = calibrate(network, batches, signature, Settings())          # needs data
    graph = simulate(network, signature, calibration, fold=True)              # needs none

``simulate`` gives the PT2E graph with quantize/dequantize ops
(``torch.ops.quantized_decomposed``). Inputs are positional in the signature's order, the
batch dim is free; one output is a tensor, several are a tuple. ``fold=True`` stores int8
weights (ONNX), ``fold=False`` keeps float weights and quantizes them in the graph (TFLite);
both compute the same numbers.
"""

import math
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch

from edgekit.errors import StepError
from edgekit.quantization.calibration import Calibration, Constants, LeftFloat, Observed
from edgekit.quantization.capture import module_of, quiet
from edgekit.quantization.data import checked
from edgekit.quantization.prepared import groups, prepare, rewritten
from edgekit.quantization.pt2e import ObserverBase, convert_pt2e
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature

_PLAIN = Settings()


def calibrate(
    network: torch.nn.Module,
    inputs: Iterable[tuple[torch.Tensor, ...]],
    signature: Signature,
    settings: Settings = _PLAIN,
    constants: Constants | None = None,
) -> Calibration:
    """Find the ranges of all tensors from ``inputs``: batches, each a tuple in the
    signature's order, read once and not kept.

    ``constants`` stand in place of the network's own (see ``rewritten``). Raises StepError
    where nothing can be quantized, there are no data, or a tensor is not finite. The
    network is unchanged.
    """
    prepared, quantizer = prepare(rewritten(network, signature, constants), settings)
    with quiet(), torch.no_grad():
        for batch in checked(inputs, signature):
            prepared(*batch)
        tensors = {key: _observed(prepared, nodes) for key, nodes in groups(prepared)}
        outputs = tuple(_output_scales(prepared))
    left = tuple(
        LeftFloat(op=op, module=module, reason=reason)
        for op, module, reason in quantizer.left_float
    )
    return Calibration(
        settings=settings,
        tensors=tensors,
        quantized_ops=quantizer.quantized,
        left_float=left,
        output_scales=outputs,
    )


def simulate(
    network: torch.nn.Module,
    signature: Signature,
    calibration: Calibration,
    *,
    fold: bool,
    constants: Constants | None = None,
) -> torch.nn.Module:
    """Rebuild the quantized graph from a calibration, without data.

    The network is unchanged.

    A calibration without tensors gives the float graph with its changed constants.
    Raises StepError where the graph's tensors and the stored ones do not match one to one.
    """
    graph = rewritten(network, signature, constants)
    converted: torch.nn.Module = graph
    if calibration.tensors:
        prepared = stored(graph, calibration)
        with quiet(), torch.no_grad():
            converted = convert_pt2e(prepared, fold_quantize=fold)
    for module in converted.modules():
        module.training = False
    # torchao makes train() and eval() raise; exporters call eval(), which changes nothing
    # here.
    converted.train = converted.eval = types.MethodType(_stay, converted)  # type: ignore[method-assign]
    return converted


def stored(graph: torch.fx.GraphModule, calibration: Calibration) -> torch.fx.GraphModule:
    """The graph prepared, with what was stored in place of every observer (see ``Stored``)."""
    prepared, _ = prepare(graph, calibration.settings)
    rows = dict(groups(prepared))
    found = {key: tuple(str(node.args[0]) for node in nodes) for key, nodes in rows.items()}
    known = {key: tensor.nodes for key, tensor in calibration.tensors.items()}
    if found != known:
        odd = sorted(
            key for key in found.keys() | known.keys() if found.get(key) != known.get(key)
        )
        raise StepError(
            f"The network does not match its calibration: {len(odd)} of {len(found)} tensors differ, the first is {odd[0]}.",
            fix="quantize again: the network's code, its pruning or torch has changed since",
        )
    for key, nodes in rows.items():
        fixed = Stored(
            prepared.get_submodule(str(nodes[0].target)), calibration.tensors[key], key
        )
        for node in nodes:
            setattr(prepared, str(node.target), fixed)
            _check_channels(fixed, node)
    return prepared


class Stored(ObserverBase):  # type: ignore[misc]
    """Stands for an observer and answers with what was stored."""

    def __init__(self, like: torch.nn.Module, stored: Observed, key: str) -> None:
        super().__init__(dtype=getattr(torch, stored.dtype))
        self.qscheme = like.qscheme
        self.ch_axis = stored.axis if stored.axis is not None else -1
        self.quant_min, self.quant_max = stored.quant_min, stored.quant_max
        self.key = key
        self._scale = torch.tensor(stored.scale, dtype=torch.float32)
        self._zero_point = torch.tensor(stored.zero_point, dtype=torch.int64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._scale, self._zero_point


def _stay(module: torch.nn.Module, mode: bool = False) -> torch.nn.Module:
    return module


def _observed(prepared: torch.fx.GraphModule, nodes: list[torch.fx.Node]) -> Observed:
    observer: Any = prepared.get_submodule(str(nodes[0].target))
    first = nodes[0].args[0]
    assert isinstance(first, torch.fx.Node)
    scale, zero_point = observer.calculate_qparams()
    scales = tuple(float(value) for value in scale.flatten())
    where = _module(first)
    if not all(math.isfinite(value) and value > 0 for value in scales):
        told = f"Calibration met infinite or undefined numbers at {where or 'the network'} (tensor {first})."
        raise StepError(
            told, fix="mask with a finite number, or leave this network in float"
        )
    axis = (
        getattr(observer, "ch_axis", -1)
        if len(scales) > 1 or "per_channel" in str(observer.qscheme)
        else None
    )
    dtype: Literal["int8", "int16"] = "int16" if observer.quant_max > 127 else "int8"
    return Observed(
        nodes=tuple(str(node.args[0]) for node in nodes),
        module=where,
        dtype=dtype,
        quant_min=observer.quant_min,
        quant_max=observer.quant_max,
        scale=scales,
        zero_point=tuple(int(value) for value in zero_point.flatten()),
        axis=axis,
    )


def _output_scales(prepared: torch.fx.GraphModule) -> Iterator[float | None]:
    """The scale that each output leaves with; None for an output that nothing observes."""
    output = next(node for node in prepared.graph.nodes if node.op == "output")
    for node in (
        torch.fx.node.map_arg(output.args[0], lambda inner: inner)
        if isinstance(output.args[0], tuple | list)
        else (output.args[0],)
    ):
        observer = (
            prepared.get_submodule(str(node.target))
            if isinstance(node, torch.fx.Node) and node.op == "call_module"
            else None
        )
        yield (
            float(observer.calculate_qparams()[0].max())
            if isinstance(observer, ObserverBase)
            else None
        )


def _module(node: torch.fx.Node) -> str:
    """The module that makes a tensor; for a weight, the module that reads it."""
    while node.op in ("get_attr", "call_module") and node.users:
        node = next(iter(node.users))
    return module_of(node)


def _check_channels(fixed: Stored, node: torch.fx.Node) -> None:
    first = node.args[0]
    assert isinstance(first, torch.fx.Node)
    if fixed.ch_axis < 0:
        return
    channels, scales = (
        first.meta["val"].shape[fixed.ch_axis],
        len(fixed.calculate_qparams()[0]),
    )
    if channels != scales:
        raise StepError(
            f"The network does not match its calibration: {fixed.key} has {channels} channels, {scales} scales are stored.",
            fix="quantize again",
        )
