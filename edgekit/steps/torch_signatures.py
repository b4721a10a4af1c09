"""Finding the named inputs and outputs of a model by running it on a few samples of the
task.

A bare array is called ``input`` and is given to the first parameter of ``forward``; a
dict's arrays go to the parameters of the same names. A later part takes what it can by
name; what is left is linked, in order, to the outputs of the part before it.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import get_args

import numpy
import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.signature import BATCH, DType, Signature, TensorSpec
from edgekit.steps.torch_chain import OUTPUT, named_outputs
from edgekit.task import INPUT, Split

Feeds = Mapping[str, Tensor]
#: The batch sizes of the two trial runs: what differs between them is the batch axis.
SMALL, LARGE = 2, 3
#: Answers to the same samples in the two runs may differ by this share of the largest
#: answer (float rounding).
TOLERANCE = 1e-2
DTYPES: tuple[str, ...] = get_args(DType)


def find(networks: Mapping[str, nn.Module], split: Split) -> dict[str, Signature]:
    """The signature of every part, or a ModelError that says what the network or the data
    lack.

    Runs the parts once on 2 and once on 3 samples, in eval mode.
    """
    small, large = _samples(split, SMALL), _samples(split, LARGE)
    specs = {name: _input_spec(name, array) for name, array in split.inputs.items()}
    before: tuple[str, ...] = ()
    used: set[str] = set()
    signatures = {}
    last = list(networks)[-1]
    for name, network in networks.items():
        where = "The network" if len(networks) == 1 else f"The part {name}"
        inputs = _bind(network, tuple(split.inputs), tuple(small), before, where)
        used.update(inputs)
        stem = OUTPUT if name == last else name
        outputs = {
            key: _run(network.eval(), [feeds[key] for key in inputs], inputs, stem, where)
            for key, feeds in ((SMALL, small), (LARGE, large))
        }
        taken = [key for key in outputs[SMALL] if key in specs]
        if taken:
            why = f"{where} gives {', '.join(taken)}, but an input or an earlier output has that name."
            raise ModelError(why, fix="give the part or its output another name")
        specs |= {key: _output_spec(key, outputs, where) for key in outputs[SMALL]}
        signatures[name] = Signature(
            inputs=tuple(specs[key] for key in inputs),
            outputs=tuple(specs[key] for key in outputs[SMALL]),
        )
        small, large = {**small, **outputs[SMALL]}, {**large, **outputs[LARGE]}
        before = tuple(outputs[SMALL])
    unused = [name for name in split.inputs if name not in used]
    if unused:
        fix = "name the arrays of the task after the parameters of forward, or leave these out"
        raise ModelError(f"The network takes no input called {', '.join(unused)}.", fix=fix)
    return signatures


@dataclasses.dataclass(frozen=True)
class _Parameter:
    name: str
    required: bool
    positional: bool


def _parameters(network: nn.Module) -> tuple[list[_Parameter], bool]:
    """The parameters of ``forward``, and whether it takes any number of tensors
    (``*args``).
    """
    found, many = [], False
    for parameter in inspect.signature(network.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            many = True
        elif parameter.kind is not parameter.VAR_KEYWORD:
            found.append(
                _Parameter(
                    parameter.name,
                    parameter.default is parameter.empty,
                    parameter.kind is not parameter.KEYWORD_ONLY,
                )
            )
    return found, many


def _bind(
    network: nn.Module,
    data: tuple[str, ...],
    known: tuple[str, ...],
    before: tuple[str, ...],
    where: str,
) -> tuple[str, ...]:
    """The names of the tensors for one part, in the order of its ``forward``."""
    parameters, many = _parameters(network)
    if many and not parameters:
        return before or data
    # nn.Sequential and nn.Linear call their parameter "input": in a later part that is not
    # the task's bare array.
    wanted = sum(parameter.required for parameter in parameters)
    skip = {INPUT} if before and wanted <= len(before) else set()
    bound = {
        parameter.name: parameter.name
        for parameter in parameters
        if parameter.name in known and parameter.name not in skip
    }
    free = [name for name in (before or data) if name not in bound.values()]
    open_ = [
        parameter
        for parameter in parameters
        if parameter.name not in bound and parameter.required
    ]
    if not bound and not open_:
        open_ = parameters[:1]
    if before or len(data) == 1:
        for parameter, name in zip(open_, free, strict=False):
            bound[parameter.name] = name
    missing = [parameter.name for parameter in open_ if parameter.name not in bound]
    if missing:
        have = f"the data have {', '.join(data)}" + (
            f", the part before gives {', '.join(before)}" if before else ""
        )
        raise ModelError(
            f"{where} needs {', '.join(missing)}; {have}.",
            fix="name the arrays of the task after the parameters of forward",
        )
    _refuse_gaps(parameters, bound, where)
    return tuple(
        bound[parameter.name] for parameter in parameters if parameter.name in bound
    )


def _refuse_gaps(
    parameters: list[_Parameter], bound: Mapping[str, str], where: str
) -> None:
    """Raise ModelError where an input could not be given by position: every runtime takes
    inputs in order.
    """
    taken = [parameter.name in bound for parameter in parameters]
    gaps = [
        parameter.name
        for index, parameter in enumerate(parameters)
        if not taken[index] and any(taken[index:])
    ]
    words = [
        parameter.name
        for parameter in parameters
        if parameter.name in bound and not parameter.positional
    ]
    if gaps or words:
        why = (
            f"{', '.join(gaps)} would be left out before it"
            if gaps
            else f"{', '.join(words)} is keyword-only"
        )
        fix = "give these arrays too, or wrap the network in a module whose forward takes exactly the task's inputs"
        raise ModelError(
            f"{where} cannot be called with its inputs by position: {why}.", fix=fix
        )


def _samples(split: Split, count: int) -> dict[str, Tensor]:
    rows = numpy.arange(count) % len(split)
    for name, array in split.inputs.items():
        _dtype(array.dtype.name, f"The input {name}")
    return {name: torch.from_numpy(array[rows]) for name, array in split.inputs.items()}


def _run(
    network: nn.Module, args: list[Tensor], names: tuple[str, ...], stem: str, where: str
) -> dict[str, Tensor]:
    try:
        with torch.no_grad():
            return named_outputs(network(*args), stem, where)
    except ModelError:
        raise
    except (
        Exception
    ) as problem:  # the boundary to the user's network: it may raise anything
        given = ", ".join(
            f"{name} {str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}"
            for name, arg in zip(names, args, strict=True)
        )
        raise ModelError(
            f"{where} refuses the data ({given}): {type(problem).__name__}: {problem}",
            fix=_way_out(network, args),
        ) from problem


def _way_out(network: nn.Module, args: list[Tensor]) -> str:
    """What most often helps where a network refuses its data."""
    if len(args[0]) == LARGE:
        return "the batch size must be free: do not write it into view or reshape"
    own = {
        parameter.dtype
        for parameter in network.parameters()
        if parameter.is_floating_point()
    } - {torch.float32}
    if own:
        return "let the network compute in float32: network.float()"
    if any(arg.dtype != torch.float32 for arg in args):
        return "give the task's data as float32 where the network computes with them; only indexes are whole numbers"
    return "the network must take the task's data as they are"


def _input_spec(name: str, array: "numpy.typing.NDArray[numpy.generic]") -> TensorSpec:
    """The spec of a task's input; random samples are drawn from the range of the data."""
    low, high = float(array.min()), float(array.max())
    whole = not numpy.issubdtype(array.dtype, numpy.floating)
    dims = (BATCH, *array.shape[1:])
    drawable = array.dtype != bool and (whole or low < high)
    return TensorSpec(
        name=name,
        dtype=_dtype(array.dtype.name, f"The input {name}"),
        dims=dims,
        low=low if drawable else None,
        high=(high + whole) if drawable else None,
    )


def _output_spec(
    name: str, outputs: Mapping[int, Mapping[str, Tensor]], where: str
) -> TensorSpec:
    small, large = outputs[SMALL][name], outputs[LARGE].get(name)
    shapes = f"{list(small.shape)} for {SMALL} samples, {'nothing' if large is None else list(large.shape)} for {LARGE}"
    if (
        large is None
        or small.ndim == 0
        or (small.shape[0], large.shape[0]) != (SMALL, LARGE)
    ):
        raise ModelError(
            f"{where}: the output {name} does not have one row a sample ({shapes}).",
            fix="let the first axis of every output be the sample",
        )
    if small.shape[1:] != large.shape[1:]:
        raise ModelError(
            f"{where}: the shape of the output {name} depends on the data ({shapes}).",
            fix="give outputs of one shape",
        )
    dtype = _dtype(str(small.dtype).removeprefix("torch."), f"{where}: the output {name}")
    if small.is_floating_point():
        _check_values(small, large[:SMALL], name, where)
        return TensorSpec(name=name, dtype=dtype, dims=(BATCH, *small.shape[1:]))
    values = torch.cat([small, large]).double()
    low, high = (
        (None, None) if dtype == "bool" else (float(values.min()), float(values.max()) + 1)
    )
    return TensorSpec(
        name=name, dtype=dtype, dims=(BATCH, *small.shape[1:]), low=low, high=high
    )


def _check_values(small: Tensor, again: Tensor, name: str, where: str) -> None:
    """Raise ModelError for NaN, and where the same samples get another answer in another
    batch.
    """
    if not bool(torch.isfinite(small).all()):
        fix = "check the checkpoint, and that the data are scaled as the network wants them"
        raise ModelError(
            f"{where}: the output {name} holds NaN or infinite values.", fix=fix
        )
    largest = float(small.abs().max()) if small.numel() else 0.0
    if small.numel() and float((small - again).abs().max()) > TOLERANCE * largest:
        fix = "switch dropout off outside training (functional.dropout needs training=self.training), take random numbers as an input"
        raise ModelError(
            f"{where}: the output {name} of the same samples differs from call to call.",
            fix=fix,
        )


def _dtype(name: str, tensor: str) -> DType:
    if name not in DTYPES:
        raise ModelError(
            f"{tensor} is of type {name}, which edge runtimes do not have.",
            fix="use float32, or an integer type",
        )
    return name  # type: ignore[return-value]
