"""Samples of an untrusted bundle: all errors are reported, before memory is allocated."""

import io
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from edgekit.device_worker import bundled

FACTS: dict[str, Any] = {
    "samples": 4,
    "steps": {"output": 0.5},
    "parity_steps": 2.0,
    "gates": {"accuracy_drop": 0.02},
    "metric": "top1",
}
ARRAYS = {
    "input:x": numpy.zeros((4, 2), "float32"),
    "expected:output": numpy.zeros((4, 3), "float32"),
    "reference:output": numpy.zeros((4, 3), "float32"),
    "labels": numpy.zeros(4, "int64"),
}


def written(folder: pathlib.Path, arrays: dict[str, Any]) -> str:
    numpy.savez(folder / "samples.npz", **arrays)
    return str(folder / "samples.npz")


def test_what_edgekit_writes_is_read(tmp_path: pathlib.Path) -> None:
    """The same arrays come back, by kind too."""
    samples = bundled.load_samples(written(tmp_path, ARRAYS), FACTS)
    assert set(samples) == set(ARRAYS) and set(
        bundled.select(samples, "expected")
    ) == {"output"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("expected:output"), "no expected outputs"),
        (lambda arrays: arrays.pop("input:x"), "contains no inputs"),
        (
            lambda arrays: arrays.pop("reference:output"),
            "the float file's outputs have the shapes {}",
        ),
        (
            lambda arrays: arrays.update(
                {"reference:output": numpy.zeros((4, 5))}
            ),
            "the float file's outputs have",
        ),
        (
            lambda arrays: arrays.update(labels=numpy.zeros(3)),
            "labels has shape [3], expected 4 samples",
        ),
        (
            lambda arrays: arrays.update({"input:x": numpy.float32(3)}),
            "input:x has shape []",
        ),
        (
            lambda arrays: arrays.update(
                {"expected:output": numpy.array(["a"] * 4)}
            ),
            "which is not numeric",
        ),
        (
            lambda arrays: arrays.update(more=numpy.zeros(4)),
            "unknown array 'more'",
        ),
    ],
)
def test_invalid_arrays_are_reported(
    change: Callable[[dict[str, Any]], Any],
    message: str,
    tmp_path: pathlib.Path,
) -> None:
    """Missing, misshapen, of another kind or of another name."""
    arrays: dict[str, Any] = dict(ARRAYS)
    change(arrays)
    with pytest.raises(ValueError) as error:
        bundled.load_samples(written(tmp_path, arrays), FACTS)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"steps": {}},
            "step of the output 'output' must be above 0, got None",
        ),
        ({"steps": {"output": 0.0}}, "must be above 0"),
        ({"steps": {"output": -1}}, "must be above 0"),
        ({"steps": {"output": float("nan")}}, "must be above 0"),
        ({"parity_steps": -1.0}, "must not be negative"),
        ({"parity_steps": True}, "must be a number"),
        (
            {"gates": {"speedup": float("inf")}},
            "speedup must be a number, got inf",
        ),
        ({"samples": 0}, "expected 0 samples"),
    ],
)
def test_invalid_facts_are_reported(
    facts: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    """A step of 0 would make every difference infinite, one below 0 every difference a
    pass.
    """
    with pytest.raises(ValueError) as error:
        bundled.load_samples(written(tmp_path, ARRAYS), {**FACTS, **facts})
    assert message in str(error.value)


def huge() -> bytes:
    """An archive of some hundred bytes whose only array claims 40 TB."""
    header, archive = io.BytesIO(), io.BytesIO()
    numpy.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    )
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("input:x.npy", header.getvalue() + bytes(100))
    return archive.getvalue()


def plain() -> bytes:
    """One array that is no archive."""
    array = io.BytesIO()
    numpy.save(array, numpy.zeros(4))
    return array.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "File is not a zip file"),
        (b"PK\x03\x04junk" * 9, "File is not a zip file"),
        (plain(), "not a zip"),
        (huge(), "40000000000000 bytes"),
    ],
)
def test_an_invalid_or_too_large_archive_is_reported_before_it_is_read(
    content: bytes, message: str, tmp_path: pathlib.Path
) -> None:
    """Nothing, noise, a bare array, and one that would need more memory than there is."""
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(ValueError) as error:
        bundled.load_samples(str(tmp_path / "samples.npz"), FACTS)
    assert message in str(error.value)
