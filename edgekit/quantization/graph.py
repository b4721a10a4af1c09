"""The quantized graph of one network: calibrated once, rebuilt for every backend.

    calibration = calibrate(network, batches, signature, Settings())  # needs data
    graph = simulate(network, signature, calibration, fold=True)      # needs no data

``simulate`` returns the PT2E graph with quantize and dequantize operators
(``torch.ops.quantized_decomposed``). Inputs are positional in the signature's order and the
batch dim is free; one output is a tensor, several are a tuple. ``fold=True`` stores int8
weights (ONNX), ``fold=False`` keeps float weights and quantizes them in the graph (TFLite).
Both compute the same values.
"""

import math
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import StepError
from edgekit.quantization.calibration import (
    Calibration,
    Constants,
    FloatOperator,
    TensorQuantization,
)
from edgekit.quantization.capture import module_of, quiet
from edgekit.quantization.data import check_batches
from edgekit.quantization.prepared import (
    build_float_graph,
    observer_groups,
    prepare,
)
from edgekit.quantization.pt2e import ObserverBase, convert_pt2e
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature

_DEFAULT = Settings()
_MISMATCH = "The network does not match its calibration"
_INT8_MAX = 127


def calibrate(
    network: torch.nn.Module,
    inputs: Iterable[tuple[torch.Tensor, ...]],
    signature: Signature,
    settings: Settings = _DEFAULT,
    constants: Constants | None = None,
) -> Calibration:
    """Find the range of every quantized tensor.

    ``inputs`` are batches, each a tuple in the signature's order; they are read once and
    not kept. ``constants`` replace the network's own (see ``build_float_graph``). The
    network is unchanged. Raises StepError if nothing can be quantized, there are no data,
    or a tensor is not finite.
    """
    graph = build_float_graph(network, signature, constants)
    prepared, quantizer = prepare(graph, settings)
    with quiet(), torch.no_grad():
        for batch in check_batches(inputs, signature):
            prepared(*batch)
        tensors = {
            key: _read_observer(prepared, nodes)
            for key, nodes in observer_groups(prepared)
        }
        output_scales = tuple(_output_scales(prepared))
    left_float = tuple(
        FloatOperator(op=op, module=module, reason=reason)
        for op, module, reason in quantizer.left_float
    )
    return Calibration(
        settings=settings,
        tensors=tensors,
        quantized_ops=quantizer.quantized,
        left_float=left_float,
        output_scales=output_scales,
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

    The network is unchanged. A calibration without tensors returns the float graph with its
    changed constants. Raises StepError if the graph's tensors and the calibrated ones do
    not match one to one.
    """
    graph = build_float_graph(network, signature, constants)
    converted: torch.nn.Module = graph
    if calibration.tensors:
        prepared = restore_observers(graph, calibration)
        with quiet(), torch.no_grad():
            converted = convert_pt2e(prepared, fold_quantize=fold)
    for module in converted.modules():
        module.training = False
    # torchao makes train() and eval() raise; exporters call eval(), which changes nothing
    # here.
    keep_mode = types.MethodType(_keep_mode, converted)
    converted.train = converted.eval = keep_mode  # type: ignore[method-assign]
    return converted


def restore_observers(
    graph: GraphModule, calibration: Calibration
) -> GraphModule:
    """Prepare a float graph with a ``FixedObserver`` in place of every observer.

    Raises StepError if the graph's tensors and the calibrated ones do not match one to one.
    """
    prepared, _ = prepare(graph, calibration.settings)
    groups = dict(observer_groups(prepared))
    _check_tensors(groups, calibration)
    for key, nodes in groups.items():
        observer = prepared.get_submodule(str(nodes[0].target))
        fixed = FixedObserver(observer, calibration.tensors[key], key)
        for node in nodes:
            setattr(prepared, str(node.target), fixed)
            _check_channels(fixed, node)
    return prepared


class FixedObserver(ObserverBase):  # type: ignore[misc]
    """Takes the place of an observer and returns the stored scale and zero point."""

    def __init__(
        self, like: torch.nn.Module, stored: TensorQuantization, key: str
    ) -> None:
        super().__init__(dtype=getattr(torch, stored.dtype))
        self.qscheme = like.qscheme
        self.ch_axis = stored.axis if stored.axis is not None else -1
        self.quant_min = stored.quant_min
        self.quant_max = stored.quant_max
        self.key = key
        self._scale = torch.tensor(stored.scale, dtype=torch.float32)
        self._zero_point = torch.tensor(stored.zero_point, dtype=torch.int64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._scale, self._zero_point


def _keep_mode(module: torch.nn.Module, mode: bool = False) -> torch.nn.Module:
    return module


def _read_observer(
    prepared: GraphModule, nodes: list[Node]
) -> TensorQuantization:
    observer: Any = prepared.get_submodule(str(nodes[0].target))
    first = nodes[0].args[0]
    assert isinstance(first, Node)
    scale, zero_point = observer.calculate_qparams()
    scales = tuple(float(value) for value in scale.flatten())
    module = _module(first)
    if not all(math.isfinite(value) and value > 0 for value in scales):
        place = module or "the network's top level"
        raise StepError(
            f"Calibration found infinite or undefined values at {place} (tensor {first}).",
            fix="mask with a finite value, or leave this network in float",
        )
    axis = None
    if len(scales) > 1 or "per_channel" in str(observer.qscheme):
        axis = getattr(observer, "ch_axis", -1)
    dtype: Literal["int8", "int16"] = "int8"
    if observer.quant_max > _INT8_MAX:
        dtype = "int16"
    return TensorQuantization(
        nodes=tuple(str(node.args[0]) for node in nodes),
        module=module,
        dtype=dtype,
        quant_min=observer.quant_min,
        quant_max=observer.quant_max,
        scale=scales,
        zero_point=tuple(int(value) for value in zero_point.flatten()),
        axis=axis,
    )


def _output_scales(prepared: GraphModule) -> Iterator[float | None]:
    """The scale of each output of the network; None for an output without an observer."""
    output = next(node for node in prepared.graph.nodes if node.op == "output")
    results = output.args[0]
    if not isinstance(results, tuple | list):
        results = (results,)
    for node in results:
        observer = None
        if isinstance(node, Node) and node.op == "call_module":
            observer = prepared.get_submodule(str(node.target))
        if isinstance(observer, ObserverBase):
            yield float(observer.calculate_qparams()[0].max())
        else:
            yield None


def _module(node: Node) -> str:
    """The module that computes a tensor; for a weight, the module that reads it."""
    while node.op in ("get_attr", "call_module") and node.users:
        node = next(iter(node.users))
    return module_of(node)


def _check_tensors(
    groups: dict[str, list[Node]], calibration: Calibration
) -> None:
    present = {
        key: tuple(str(node.args[0]) for node in nodes)
        for key, nodes in groups.items()
    }
    calibrated = {
        key: tensor.nodes for key, tensor in calibration.tensors.items()
    }
    if present == calibrated:
        return
    keys = sorted(present.keys() | calibrated.keys())
    different = [key for key in keys if present.get(key) != calibrated.get(key)]
    raise StepError(
        f"{_MISMATCH}: {len(different)} of {len(present)} tensors differ, "
        f"the first is {different[0]}.",
        fix="quantize again: the network's code, its pruning or torch has changed since",
    )


def _check_channels(fixed: FixedObserver, node: Node) -> None:
    first = node.args[0]
    assert isinstance(first, Node)
    if fixed.ch_axis < 0:
        return
    channels = first.meta["val"].shape[fixed.ch_axis]
    scales = len(fixed.calculate_qparams()[0])
    if channels != scales:
        raise StepError(
            f"{_MISMATCH}: {fixed.key} has {channels} channels, {scales} scales are stored.",
            fix="quantize again",
        )
