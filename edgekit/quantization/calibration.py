"""Calibration results as plain data: ranges as JSON, changed weights as safetensors.

Neither file contains pickles or code.
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

#: Tensors of the rewritten graph (weights, biases) by the name of the graph attribute.
Constants = Mapping[str, torch.Tensor]
#: Returns an iterator over all calibration batches each time it is called. A batch is a
#: tuple of tensors in the signature's order.
BatchSource = Callable[[], Iterator[tuple[torch.Tensor, ...]]]


class TensorQuantization(Value):
    """The quantization of one tensor, or of several tensors that share it.

    real = scale * (stored - zero_point)
    """

    #: The graph's tensors in execution order; the first one is the key in ``Calibration``.
    nodes: tuple[str, ...]
    #: Path of the PyTorch module that computes the first tensor; the empty string is the
    #: network itself.
    module: str
    dtype: Literal["int8", "int16"] = "int8"
    quant_min: int
    quant_max: int
    #: One value per tensor, or one per channel of ``axis``.
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


class FloatOperator(Value):
    """An operator that stays in float, and the reason."""

    op: str
    module: str
    reason: str


class Calibration(Value):
    """The result of calibrating one network, stored as ``<part>.quantization.json``."""

    settings: Settings = Settings()
    tensors: dict[str, TensorQuantization] = pydantic.Field(
        default_factory=dict
    )
    #: The number of operators that compute in int8.
    quantized_ops: int = 0
    left_float: tuple[FloatOperator, ...] = ()
    #: The scale of each output of the network, in order; None for a float output.
    output_scales: tuple[float | None, ...] = ()
    #: How weights were changed before they were quantized, one text per change. The changed
    #: weights are in the file ``constants_path``.
    changes: tuple[str, ...] = ()


def write(
    calibration: Calibration, constants: Constants, path: pathlib.Path
) -> list[pathlib.Path]:
    """Write a calibration to ``path``, and changed constants, if any, next to it.

    Returns the paths of the files that were written.
    """
    path.write_text(calibration.model_dump_json(), encoding="utf-8")
    if not constants:
        return [path]
    tensors = {
        name: value.detach().clone().contiguous()
        for name, value in constants.items()
    }
    safetensors.torch.save_file(tensors, constants_path(path))
    return [path, constants_path(path)]


def read(path: pathlib.Path) -> Calibration:
    """Read a stored calibration.

    Raises StepError with every mistake in the file if it is not a valid calibration.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(
            f"{path} is not a calibration: {error}.", fix="quantize again"
        ) from error
    return parse(Calibration, data, str(path), StepError)


def read_constants(path: pathlib.Path) -> Constants:
    """Read the changed constants that belong to the calibration at ``path``.

    Returns an empty mapping if no constants were changed.
    """
    constants_file = constants_path(path)
    if not constants_file.exists():
        return {}
    try:
        constants: Constants = safetensors.torch.load_file(constants_file)
    except (OSError, SafetensorError) as error:
        raise StepError(
            f"{constants_file} cannot be read: {error}.", fix="quantize again"
        ) from error
    return constants


def constants_path(path: pathlib.Path) -> pathlib.Path:
    """The path of the changed constants for the calibration at ``path``."""
    return path.with_suffix(".safetensors")
