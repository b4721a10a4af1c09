"""The quantized graph of one network: calibrated once, then rebuilt from plain numbers for every backend.

    calibration = calibrate(network, batches, signature, Settings())          # needs data
    graph = simulate(network, signature, calibration, fold=True)              # needs none

``simulate`` gives the PT2E graph with quantize/dequantize ops (``torch.ops.quantized_decomposed``). Inputs are
positional in the signature's order, the batch dim is free; one output is a tensor, several are a tuple.
``fold=True`` stores int8 weights (ONNX), ``fold=False`` keeps float weights and quantizes them in the graph (TFLite);
both compute the same numbers.
"""

import json
import math
import pathlib
import types
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from edgekit.errors import StepError
from edgekit.quantization.capture import capture, module_of, quiet
from edgekit.quantization.pt2e import ObserverBase, convert_pt2e, prepare_pt2e
from edgekit.quantization.quantizer import Int8Quantizer
from edgekit.quantization.rewrite import rewrite
from edgekit.quantization.settings import Settings
from edgekit.signature import Signature
from edgekit.value import Value, parse

_PLAIN = Settings()


class Observed(Value):
    """The quantization of one tensor, or of several that share it: real = scale * (stored - zero_point)."""

    #: The graph's tensors, in the order in which they are computed; the first gives the key in ``Calibration``.
    nodes: tuple[str, ...]
    #: The PyTorch module that makes the first of them; the empty string is the network itself.
    module: str
    dtype: Literal["int8", "int16"] = "int8"
    quant_min: int
    quant_max: int
    #: One number, or one for each channel of ``axis``.
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


class LeftFloat(Value):
    """An operator that computes in float, and why."""

    op: str
    module: str
    reason: str


class Calibration(Value):
    """Everything that calibration found, as plain data: stored as ``<part>.quantization.json``."""

    settings: Settings = Settings()
    tensors: dict[str, Observed]
    #: How many operators compute in int8, and which do not.
    quantized_ops: int
    left_float: tuple[LeftFloat, ...] = ()
    #: The scale of each output of the network, in order; None where an output is float.
    output_scales: tuple[float | None, ...] = ()


def calibrate(
    network: torch.nn.Module,
    inputs: Sequence[tuple[torch.Tensor, ...]],
    signature: Signature,
    settings: Settings = _PLAIN,
) -> Calibration:
    """Find the ranges of all tensors from ``inputs``: batches, each a tuple in the signature's order.

    Raises StepError where nothing can be quantized, there are no data, or a tensor is not finite. The network is unchanged.
    """
    if not inputs:
        raise StepError("There are no calibration data.", fix="give the task calibration or training data")
    prepared, quantizer = _prepare(network, signature, settings)
    with quiet(), torch.no_grad():
        for batch in inputs:
            prepared(*batch)
        tensors = {key: _observed(prepared, nodes) for key, nodes in _groups(prepared)}
        outputs = tuple(_output_scales(prepared))
    left = tuple(LeftFloat(op=op, module=module, reason=reason) for op, module, reason in quantizer.left_float)
    return Calibration(settings=settings, tensors=tensors, quantized_ops=quantizer.quantized, left_float=left, output_scales=outputs)


def simulate(network: torch.nn.Module, signature: Signature, calibration: Calibration, *, fold: bool) -> torch.nn.Module:
    """Rebuild the quantized graph from a calibration, without data. The network is unchanged.

    Raises StepError where the graph's tensors and the stored ones do not match one to one.
    """
    prepared, _ = _prepare(network, signature, calibration.settings)
    groups = dict(_groups(prepared))
    found = {key: tuple(str(node.args[0]) for node in nodes) for key, nodes in groups.items()}
    stored = {key: tensor.nodes for key, tensor in calibration.tensors.items()}
    if found != stored:
        odd = sorted(key for key in found.keys() | stored.keys() if found.get(key) != stored.get(key))
        raise StepError(
            f"The network does not match its calibration: {len(odd)} of {len(found)} tensors differ, the first is {odd[0]}.",
            fix="quantize again: the network's code, its pruning or torch has changed since",
        )
    for key, nodes in groups.items():
        fixed = _Stored(prepared.get_submodule(str(nodes[0].target)), calibration.tensors[key], key)
        for node in nodes:
            setattr(prepared, str(node.target), fixed)
    with quiet(), torch.no_grad():
        for node in _weights(prepared):
            _check_channels(prepared, node)
        converted: torch.nn.Module = convert_pt2e(prepared, fold_quantize=fold)
    for module in converted.modules():
        module.training = False
    # torchao makes train() and eval() raise; exporters call eval(), which changes nothing here.
    converted.train = converted.eval = types.MethodType(_stay, converted)  # type: ignore[method-assign]
    return converted


def read(path: pathlib.Path) -> Calibration:
    """Read a stored calibration, or raise StepError with what is wrong in it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{path} is not a calibration: {error}.", fix="quantize again") from error
    return parse(Calibration, data, str(path), StepError)


class _Stored(ObserverBase):  # type: ignore[misc]
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


def _prepare(network: torch.nn.Module, signature: Signature, settings: Settings) -> tuple[torch.fx.GraphModule, Int8Quantizer]:
    graph = capture(network, signature).module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    with quiet(), torch.no_grad():
        rewrite(graph)
        quantizer = Int8Quantizer(settings)
        prepared = prepare_pt2e(graph, quantizer)
    if not quantizer.quantized:
        raise StepError("Nothing in this network can be quantized to int8: it has no convolution, linear layer or matrix product of float tensors.",
                        fix="take the scheme 'float' or 'fp16'")  # fmt: skip
    assert isinstance(prepared, torch.fx.GraphModule)
    return prepared, quantizer


def _groups(prepared: torch.fx.GraphModule) -> Iterator[tuple[str, list[torch.fx.Node]]]:
    """The observer calls of the graph, those that share one observer together, by a name that is the same in every rebuild."""
    groups: dict[int, list[torch.fx.Node]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            module = prepared.get_submodule(str(node.target))
            if isinstance(module, ObserverBase):
                groups.setdefault(id(module), []).append(node)
    used: dict[str, int] = {}
    for nodes in groups.values():
        name = str(nodes[0].args[0])
        used[name] = used.get(name, 0) + 1
        yield (name if used[name] == 1 else f"{name}:{used[name]}"), nodes


def _observed(prepared: torch.fx.GraphModule, nodes: list[torch.fx.Node]) -> Observed:
    observer = prepared.get_submodule(str(nodes[0].target))
    first = nodes[0].args[0]
    assert isinstance(first, torch.fx.Node)
    scale, zero_point = observer.calculate_qparams()  # type: ignore[operator]
    scales = tuple(float(value) for value in scale.flatten())
    where = _module(first)
    if not all(math.isfinite(value) and value > 0 for value in scales):
        told = f"Calibration met infinite or undefined numbers at {where or 'the network'} (tensor {first})."
        raise StepError(told, fix="mask with a finite number, or leave this network in float")
    axis = getattr(observer, "ch_axis", -1) if len(scales) > 1 or "per_channel" in str(observer.qscheme) else None
    dtype: Literal["int8", "int16"] = "int16" if int(str(observer.quant_max)) > 127 else "int8"
    return Observed(
        nodes=tuple(str(node.args[0]) for node in nodes), module=where, dtype=dtype, quant_min=observer.quant_min, quant_max=observer.quant_max,
        scale=scales, zero_point=tuple(int(value) for value in zero_point.flatten()), axis=axis,
    )  # fmt: skip


def _output_scales(prepared: torch.fx.GraphModule) -> Iterator[float | None]:
    """The scale that each output leaves with; None for an output that nothing observes."""
    output = next(node for node in prepared.graph.nodes if node.op == "output")
    for node in torch.fx.node.map_arg(output.args[0], lambda inner: inner) if isinstance(output.args[0], tuple | list) else (output.args[0],):
        observer = prepared.get_submodule(str(node.target)) if isinstance(node, torch.fx.Node) and node.op == "call_module" else None
        yield float(observer.calculate_qparams()[0].max()) if isinstance(observer, ObserverBase) else None


def _module(node: torch.fx.Node) -> str:
    """The module that makes a tensor; for a weight, the module that reads it."""
    while node.op in ("get_attr", "call_module") and node.users:
        node = next(iter(node.users))
    return module_of(node)


def _weights(prepared: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    return (node for node in prepared.graph.nodes if node.op == "call_module" and isinstance(prepared.get_submodule(str(node.target)), _Stored))


def _check_channels(prepared: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    stored, first = prepared.get_submodule(str(node.target)), node.args[0]
    assert isinstance(stored, _Stored) and isinstance(first, torch.fx.Node)
    if stored.ch_axis < 0:
        return
    channels = first.meta["val"].shape[stored.ch_axis]
    scales = len(stored.calculate_qparams()[0])
    if channels != scales:
        raise StepError(f"The network does not match its calibration: {stored.key} has {channels} channels, {scales} scales are stored.", fix="quantize again")
