"""The samples of a bundle, read with care: its folder may come from anywhere, and a device
has little memory.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy
from numpy.lib import format as npy

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

#: The most bytes that all samples may have in memory; edgekit itself writes far fewer.
LARGEST = 1 << 30
#: What stands before the colon of a name; ``labels`` has none.
KINDS = ("input", "expected", "reference")
_NUMBERS = "biuf"


def samples(path: str, facts: Mapping[str, Any]) -> dict[str, Array]:
    """``input:name``, ``expected:name``, ``reference:name`` and ``labels``.

    Nothing is ever executed.

    Raises ValueError with everything that is wrong, one line each, before memory is taken
    for arrays that are too large.
    """
    try:
        _require_small(path)
        with numpy.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as problem:
        raise ValueError(f"samples.npz cannot be read: {problem}") from problem
    wrong = [*_wrong_arrays(arrays, facts), *_wrong_facts(arrays, facts)]
    if wrong:
        raise ValueError("\n".join(wrong))
    return arrays


def group(arrays: Mapping[str, Array], kind: str) -> dict[str, Array]:
    """The arrays called ``kind:name``, by name."""
    return {
        name.partition(":")[2]: array
        for name, array in arrays.items()
        if name.startswith(kind + ":")
    }


def _require_small(path: str) -> None:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = npy.read_magic(member)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"{name} has the format {version}")
                read = (
                    npy.read_array_header_1_0
                    if version == (1, 0)
                    else npy.read_array_header_2_0
                )
                shape, _, dtype = read(member)
            if dtype.kind not in _NUMBERS:
                raise ValueError(f"{name} holds {dtype}, which are no numbers")
            total += math.prod(shape) * dtype.itemsize
    if total > LARGEST:
        raise ValueError(f"its arrays have {total} bytes, and at most {LARGEST} are read")


def _wrong_arrays(arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> list[str]:
    """Every array has a row a sample; the float file gives what the shipped one gives, in
    the same shapes.
    """
    count, wrong = facts["samples"], []
    for name, array in arrays.items():
        if name != "labels" and name.partition(":")[0] not in KINDS:
            wrong.append(f"samples.npz: {name!r} is no array of a bundle")
        elif array.ndim == 0 or len(array) != count or count < 1:
            wrong.append(
                f"samples.npz: {name} has the shape {list(array.shape)} where there are {count} samples"
            )
    expected, reference = group(arrays, "expected"), group(arrays, "reference")
    if not expected or not group(arrays, "input"):
        wrong.append("samples.npz holds no inputs, or no expected outputs")
    shapes = [
        {name: array.shape for name, array in some.items()}
        for some in (expected, reference)
    ]
    if shapes[0] != shapes[1]:
        wrong.append(
            f"samples.npz: the float file's outputs are {shapes[1]}, not {shapes[0]}"
        )
    return wrong


def _wrong_facts(arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> list[str]:
    """Each output has a step, and what numbers are held against is a number."""
    wrong = []
    for name in group(arrays, "expected"):
        step = facts["steps"].get(name)
        if not _number(step) or step <= 0:
            wrong.append(
                f"manifest.json: the step of the output {name!r} is {step!r}, and must be above 0"
            )
    limits = {"parity_steps": facts["parity_steps"], **facts["gates"]}
    wrong += [
        f"manifest.json: {name} is {value!r}, and must be a number"
        for name, value in limits.items()
        if not _number(value)
    ]
    if _number(facts["parity_steps"]) and facts["parity_steps"] < 0:
        wrong.append(
            f"manifest.json: parity_steps is {facts['parity_steps']}, and must not be below 0"
        )
    return wrong


def _number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
