"""Reads the samples of a bundle and validates them.

The bundle may come from anywhere, and a device has little memory: nothing in the file is
executed, and sizes are checked before memory is allocated.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy
from numpy.lib import format as npy

if TYPE_CHECKING:
    from .tensors import Array

#: The most bytes that all samples may have in memory; edgekit itself writes far fewer.
LARGEST = 1 << 30
#: The part of an array's name before the colon; ``labels`` has none.
KINDS = ("input", "expected", "reference")
#: numpy's kinds of dtypes that are numbers or booleans.
_NUMERIC_KINDS = "biuf"


def load_samples(path: str, facts: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of ``samples.npz``: ``input:name``, ``expected:name``, ``reference:name``
    and ``labels``.

    ``facts``: the ``bundle`` section of the manifest. Raises ValueError with all errors, one
    line each.
    """
    try:
        _require_small(path)
        with numpy.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"samples.npz cannot be read: {error}") from error
    errors = [
        *_check_arrays(arrays, facts["samples"]),
        *_check_facts(arrays, facts),
    ]
    if errors:
        raise ValueError("\n".join(errors))
    return arrays


def select(arrays: Mapping[str, Array], kind: str) -> dict[str, Array]:
    """The arrays with names ``kind:name``, by ``name``."""
    prefix = kind + ":"
    return {
        name[len(prefix) :]: array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _require_small(path: str) -> None:
    """Read only the headers of the arrays, and refuse objects and too many bytes."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            total += _read_size(archive, name)
    if total > LARGEST:
        raise ValueError(
            f"its arrays have {total} bytes; at most {LARGEST} are allowed"
        )


def _read_size(archive: zipfile.ZipFile, name: str) -> int:
    with archive.open(name) as member:
        version = npy.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, _, dtype = npy.read_array_header_2_0(member)
        else:
            raise ValueError(
                f"{name} has the unsupported version {version} of .npy"
            )
    if dtype.kind not in _NUMERIC_KINDS:
        raise ValueError(f"{name} has the dtype {dtype}, which is not numeric")
    return math.prod(shape) * dtype.itemsize


def _check_arrays(arrays: Mapping[str, Array], count: int) -> list[str]:
    """Errors unless every array has ``count`` samples, and the float file's outputs have the
    shapes of the shipped file's.
    """
    errors = []
    for name, array in arrays.items():
        if name != "labels" and name.partition(":")[0] not in KINDS:
            errors.append(f"samples.npz: unknown array {name!r}")
        elif array.ndim == 0 or len(array) != count or count < 1:
            errors.append(
                f"samples.npz: {name} has shape {list(array.shape)}, expected"
                f" {count} samples"
            )
    expected = select(arrays, "expected")
    if not expected or not select(arrays, "input"):
        errors.append("samples.npz contains no inputs, or no expected outputs")
    shapes = _shapes(expected)
    reference_shapes = _shapes(select(arrays, "reference"))
    if reference_shapes != shapes:
        errors.append(
            f"samples.npz: the float file's outputs have the shapes {reference_shapes},"
            f" expected {shapes}"
        )
    return errors


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _check_facts(
    arrays: Mapping[str, Array], facts: Mapping[str, Any]
) -> list[str]:
    """Errors unless each output has a quantization step and every limit is a number."""
    errors = []
    for name in select(arrays, "expected"):
        step = facts["steps"].get(name)
        if not _is_number(step) or step <= 0:
            errors.append(
                f"manifest.json: the quantization step of the output {name!r} must be"
                f" above 0, got {step!r}"
            )
    limits = {"parity_steps": facts["parity_steps"], **facts["gates"]}
    for name, value in limits.items():
        if not _is_number(value):
            errors.append(
                f"manifest.json: {name} must be a number, got {value!r}"
            )
    parity_steps = facts["parity_steps"]
    if _is_number(parity_steps) and parity_steps < 0:
        errors.append(
            f"manifest.json: parity_steps must not be negative, got {parity_steps}"
        )
    return errors


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
