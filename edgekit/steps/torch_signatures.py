"""Finding the named inputs and outputs of a model by running it on a few samples.

A bare array is named ``input`` and is given to the first parameter of ``forward``; a dict's
arrays are given to the parameters of the same names. A later part gets what it can by name;
its other parameters are linked, in order, to the outputs of the part before it.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

import numpy
import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.signature import BATCH, DType, Signature, TensorSpec
from edgekit.steps.torch_chain import OUTPUT, name_outputs
from edgekit.task import INPUT, Split

if TYPE_CHECKING:
    from edgekit.arrays import Array

Feeds = Mapping[str, Tensor]
#: The batch sizes of the two trial runs: the axis that differs between them is the batch.
SMALL = 2
LARGE = 3
#: Outputs for the same samples in both runs may differ by this share of the largest value
#: (float rounding).
TOLERANCE = 1e-2
DTYPES: tuple[str, ...] = get_args(DType)
_BY_NAME = "name the arrays of the task after the parameters of forward"


def find_signatures(
    networks: Mapping[str, nn.Module], split: Split
) -> dict[str, Signature]:
    """The signature of every part, by name.

    Runs the parts once on 2 and once on 3 samples, in eval mode. Raises ModelError if
    inputs are missing or unused, a part cannot be run, or an output has no free batch axis,
    another shape or other values in the second run.
    """
    feeds = {count: _samples(split, count) for count in (SMALL, LARGE)}
    specs = {
        name: _input_spec(name, array) for name, array in split.inputs.items()
    }
    previous: tuple[str, ...] = ()
    used: set[str] = set()
    signatures = {}
    last = list(networks)[-1]
    for name, network in networks.items():
        where = "The network" if len(networks) == 1 else f"The part {name}"
        available = tuple(feeds[SMALL])
        inputs = _bind(network, tuple(split.inputs), available, previous, where)
        used.update(inputs)
        stem = OUTPUT if name == last else name
        outputs = {
            count: _run(network.eval(), tensors, inputs, stem, where)
            for count, tensors in feeds.items()
        }
        previous = tuple(outputs[SMALL])
        _check_new_names(previous, specs, where)
        specs |= {
            output: _output_spec(output, outputs, where) for output in previous
        }
        signatures[name] = Signature(
            inputs=tuple(specs[key] for key in inputs),
            outputs=tuple(specs[key] for key in previous),
        )
        for count, tensors in outputs.items():
            feeds[count] |= tensors
    unused = [name for name in split.inputs if name not in used]
    if unused:
        raise ModelError(
            f"The network has no input named {', '.join(unused)}.",
            fix=f"{_BY_NAME}, or leave these out",
        )
    return signatures


def _check_new_names(
    outputs: tuple[str, ...], specs: Mapping[str, TensorSpec], where: str
) -> None:
    duplicates = [name for name in outputs if name in specs]
    if duplicates:
        raise ModelError(
            f"{where} returns {', '.join(duplicates)}, "
            "but an input or an earlier output has that name.",
            fix="give the part or its output another name",
        )


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A parameter of ``forward``."""

    name: str
    required: bool
    positional: bool


def _parameters(network: nn.Module) -> tuple[list[_Parameter], bool]:
    """The parameters of ``forward``, and whether it has ``*args``."""
    parameters = []
    is_variadic = False
    for parameter in inspect.signature(network.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            is_variadic = True
        elif parameter.kind is not parameter.VAR_KEYWORD:
            required = parameter.default is parameter.empty
            positional = parameter.kind is not parameter.KEYWORD_ONLY
            parameters.append(_Parameter(parameter.name, required, positional))
    return parameters, is_variadic


def _bind(
    network: nn.Module,
    data: tuple[str, ...],
    available: tuple[str, ...],
    previous: tuple[str, ...],
    where: str,
) -> tuple[str, ...]:
    """The names of the tensors for one part, in the order of its ``forward``.

    ``data`` are the task's inputs, ``previous`` the outputs of the part before, and
    ``available`` all tensors that are computed so far.
    """
    parameters, is_variadic = _parameters(network)
    if is_variadic and not parameters:
        return previous or data
    bound = _bind_by_name(parameters, available, previous)
    unbound = [
        parameter
        for parameter in parameters
        if parameter.name not in bound and parameter.required
    ]
    if not bound and not unbound:
        unbound = parameters[:1]
    candidates = previous or data
    if previous or len(data) == 1:
        taken = list(bound.values())
        free = [name for name in candidates if name not in taken]
        for parameter, name in zip(unbound, free, strict=False):
            bound[parameter.name] = name
    missing = [
        parameter.name for parameter in unbound if parameter.name not in bound
    ]
    if missing:
        outputs = (
            f", the part before returns {', '.join(previous)}"
            if previous
            else ""
        )
        raise ModelError(
            f"{where} requires {', '.join(missing)}; "
            f"the data contain {', '.join(data)}{outputs}.",
            fix=_BY_NAME,
        )
    _check_positional(parameters, bound, where)
    return tuple(
        bound[parameter.name]
        for parameter in parameters
        if parameter.name in bound
    )


def _bind_by_name(
    parameters: list[_Parameter],
    available: tuple[str, ...],
    previous: tuple[str, ...],
) -> dict[str, str]:
    # nn.Sequential and nn.Linear name their parameter "input": in a later part that is not
    # the task's bare array.
    required = sum(parameter.required for parameter in parameters)
    skip = {INPUT} if previous and required <= len(previous) else set()
    names = [parameter.name for parameter in parameters]
    return {
        name: name for name in names if name in available and name not in skip
    }


def _check_positional(
    parameters: list[_Parameter], bound: Mapping[str, str], where: str
) -> None:
    """Raise ModelError if an input cannot be passed by position.

    Every runtime passes inputs in order.
    """
    is_bound = [parameter.name in bound for parameter in parameters]
    gaps = [
        parameter.name
        for index, parameter in enumerate(parameters)
        if not is_bound[index] and any(is_bound[index:])
    ]
    keyword_only = [
        parameter.name
        for parameter in parameters
        if parameter.name in bound and not parameter.positional
    ]
    if not gaps and not keyword_only:
        return
    why = f"{', '.join(keyword_only)} is keyword-only"
    if gaps:
        why = f"{', '.join(gaps)} would be left out before it"
    raise ModelError(
        f"{where} cannot be called with its inputs by position: {why}.",
        fix="give these arrays too, or wrap the network in a module "
        "whose forward has exactly the task's inputs",
    )


def _samples(split: Split, count: int) -> dict[str, Tensor]:
    rows = numpy.arange(count) % len(split)
    for name, array in split.inputs.items():
        _dtype(array.dtype.name, f"The input {name}")
    return {
        name: torch.from_numpy(array[rows])
        for name, array in split.inputs.items()
    }


def _run(
    network: nn.Module,
    feeds: Feeds,
    inputs: tuple[str, ...],
    stem: str,
    where: str,
) -> dict[str, Tensor]:
    """Run a part on the tensors named ``inputs``; its outputs by name."""
    args = [feeds[name] for name in inputs]
    try:
        with torch.no_grad():
            return name_outputs(network(*args), stem, where)
    except ModelError:
        raise
    # the boundary to the user's network: it may raise anything
    except Exception as problem:
        described = ", ".join(
            f"{name} {str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}"
            for name, arg in zip(inputs, args, strict=True)
        )
        raise ModelError(
            f"{where} failed on the data ({described}): {type(problem).__name__}: {problem}",
            fix=_suggest_fix(network, args),
        ) from problem


def _suggest_fix(network: nn.Module, args: list[Tensor]) -> str:
    """The most likely fix for a network that fails on its data."""
    if len(args[0]) == LARGE:
        return (
            "the batch size must be free: do not write it into view or reshape"
        )
    dtypes = {
        parameter.dtype
        for parameter in network.parameters()
        if parameter.is_floating_point()
    }
    if dtypes - {torch.float32}:
        return "let the network compute in float32: network.float()"
    if any(arg.dtype != torch.float32 for arg in args):
        return (
            "give the task's data as float32 if the network computes with them; "
            "only indices are integers"
        )
    return "the network must accept the task's data unchanged"


def _input_spec(name: str, array: "Array") -> TensorSpec:
    """The spec of a task's input; random samples are drawn from the range of the data."""
    low = float(array.min())
    high = float(array.max())
    is_integer = not numpy.issubdtype(array.dtype, numpy.floating)
    has_range = array.dtype != bool and (is_integer or low < high)
    # The upper bound is exclusive.
    return TensorSpec(
        name=name,
        dtype=_dtype(array.dtype.name, f"The input {name}"),
        dims=(BATCH, *array.shape[1:]),
        low=low if has_range else None,
        high=high + is_integer if has_range else None,
    )


def _output_spec(
    name: str, outputs: Mapping[int, Mapping[str, Tensor]], where: str
) -> TensorSpec:
    small = outputs[SMALL][name]
    large = outputs[LARGE].get(name)
    large_shape = "nothing" if large is None else list(large.shape)
    shapes = (
        f"{list(small.shape)} for {SMALL} samples, {large_shape} for {LARGE}"
    )
    if large is None or not _has_sample_axis(small, large):
        raise ModelError(
            f"{where}: the output {name} does not have one row per sample ({shapes}).",
            fix="let the first axis of every output be the sample",
        )
    if small.shape[1:] != large.shape[1:]:
        raise ModelError(
            f"{where}: the shape of the output {name} depends on the data ({shapes}).",
            fix="return outputs of one shape",
        )
    dtype = _dtype(
        str(small.dtype).removeprefix("torch."), f"{where}: the output {name}"
    )
    low = high = None
    if small.is_floating_point():
        _check_values(small, large[:SMALL], name, where)
    elif dtype != "bool":
        values = torch.cat([small, large]).double()
        low = float(values.min())
        high = float(values.max()) + 1
    dims = (BATCH, *small.shape[1:])
    return TensorSpec(name=name, dtype=dtype, dims=dims, low=low, high=high)


def _has_sample_axis(small: Tensor, large: Tensor) -> bool:
    return small.ndim > 0 and (small.shape[0], large.shape[0]) == (SMALL, LARGE)


def _check_values(small: Tensor, again: Tensor, name: str, where: str) -> None:
    """Raise ModelError for NaN, and if the same samples have other outputs in another batch."""
    if not bool(torch.isfinite(small).all()):
        raise ModelError(
            f"{where}: the output {name} contains NaN or infinite values.",
            fix="check the checkpoint, and that the data are scaled as the network expects",
        )
    if not small.numel():
        return
    largest = float(small.abs().max())
    if float((small - again).abs().max()) > TOLERANCE * largest:
        raise ModelError(
            f"{where}: the output {name} of the same samples differs from call to call.",
            fix="switch dropout off outside training (functional.dropout needs "
            "training=self.training), pass random numbers as an input",
        )


def _dtype(name: str, tensor: str) -> DType:
    if name not in DTYPES:
        raise ModelError(
            f"{tensor} is of type {name}, which edge runtimes do not have.",
            fix="use float32, or an integer type",
        )
    return name  # type: ignore[return-value]
