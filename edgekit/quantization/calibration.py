"""What calibration finds, as plain data: ranges as JSON, changed weights as safetensors.

No pickle, no code.
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import pydantic
import safetensors.torch
import torch
from safetensors import SafetensorError

from edgekit.errors import StepError
from edgekit.quantization.settings import Settings
from edgekit.value import Value, parse

#: Tensors of the rewritten graph (weights, biases) by the name of the attribute that holds
#: them.
Constants = Mapping[str, torch.Tensor]
#: Gives the calibration batches from the first one on, each time it is called; a batch is a
#: tuple in the signature's order.
Rows = Callable[[], Iterator[tuple[torch.Tensor, ...]]]


class Observed(Value):
    """The quantization of one tensor, or of several that share it: real = scale * (stored -
    zero_point).
    """

    #: The graph's tensors, in the order in which they are computed; the first gives the key
    #: in ``Calibration``.
    nodes: tuple[str, ...]
    #: The PyTorch module that makes the first of them; the empty string is the network
    #: itself.
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
    """Everything that calibration found: stored as ``<part>.quantization.json``."""

    settings: Settings = Settings()
    tensors: dict[str, Observed] = pydantic.Field(default_factory=dict)
    #: How many operators compute in int8, and which do not.
    quantized_ops: int = 0
    left_float: tuple[LeftFloat, ...] = ()
    #: The scale of each output of the network, in order; None where an output is float.
    output_scales: tuple[float | None, ...] = ()
    #: How weights were changed before they were quantized, in words; the changed ones lie
    #: beside this file.
    changes: tuple[str, ...] = ()


def write(
    calibration: Calibration, constants: Constants, path: pathlib.Path
) -> list[pathlib.Path]:
    """Write a calibration to ``path`` and changed constants, where there are any, beside
    it; the files that were written.
    """
    path.write_text(calibration.model_dump_json(), encoding="utf-8")
    if not constants:
        return [path]
    beside = constants_path(path)
    safetensors.torch.save_file(
        {name: value.detach().clone().contiguous() for name, value in constants.items()},
        beside,
    )
    return [path, beside]


def read(path: pathlib.Path) -> Calibration:
    """Read a stored calibration, or raise StepError with what is wrong in it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(
            f"{path} is not a calibration: {error}.", fix="quantize again"
        ) from error
    return parse(Calibration, data, str(path), StepError)


def read_constants(path: pathlib.Path) -> Constants:
    """The changed constants that lie beside the calibration at ``path``; empty where
    nothing was changed.
    """
    beside = constants_path(path)
    if not beside.exists():
        return {}
    try:
        found: Constants = safetensors.torch.load_file(beside)
    except (OSError, SafetensorError) as error:
        raise StepError(
            f"{beside} cannot be read: {error}.", fix="quantize again"
        ) from error
    return found


def constants_path(path: pathlib.Path) -> pathlib.Path:
    """Where the changed constants of the calibration at ``path`` lie."""
    return path.with_suffix(".safetensors")
