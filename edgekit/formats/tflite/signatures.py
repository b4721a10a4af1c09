"""Signatures of a TFLite file: one network in several batch sizes, its weights stored once."""

import pathlib
from typing import Any

import numpy
from ai_edge_litert.interpreter import Interpreter

from edgekit.arrays import Array
from edgekit.errors import StepError
from edgekit.formats.tflite.conversion import DEFAULT_SIGNATURE
from edgekit.formats.tflite.interpreter import natural_key

#: The largest difference between two signatures. Integer outputs: quantization steps. Float
#: outputs: a fraction of their range, since kernels for other shapes add in another order,
#: and larger for dynamic quantization, whose scales depend on the samples of the batch.
_MAX_STEPS = 1
_MAX_FLOAT = 1e-4
_MAX_DYNAMIC = 0.1


def signature_name(batch: int) -> str:
    """The name of the signature for a batch size."""
    return DEFAULT_SIGNATURE if batch == 1 else f"batch_{batch}"


def check(path: pathlib.Path, where: str, dynamic: bool = False) -> None:
    """Compare all signatures of a file on random samples.

    Raises StepError unless every further signature produces what the first one produces
    sample by sample. ``dynamic``: the file computes scales of activations at run time, so
    the other samples of a batch may matter.
    """
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    names = list(interpreter.get_signature_list())
    if len(names) < 2:
        return
    if DEFAULT_SIGNATURE not in names:
        raise StepError(
            f"{where}: expected a signature {DEFAULT_SIGNATURE}, got {', '.join(names)}.",
            fix="report it with the network",
        )
    tolerance = _MAX_DYNAMIC if dynamic else _MAX_FLOAT
    reference = interpreter.get_signature_runner(DEFAULT_SIGNATURE)
    for name in names:
        if name != DEFAULT_SIGNATURE:
            runner = interpreter.get_signature_runner(name)
            _compare(reference, runner, f"{where}, {name}", tolerance)


def _compare(reference: Any, runner: Any, where: str, tolerance: float) -> None:
    random = numpy.random.default_rng(0)
    details = runner.get_input_details()
    feeds = {
        name: _random_input(detail, random) for name, detail in details.items()
    }
    batched = runner(**feeds)
    singles = []
    for index in range(len(next(iter(feeds.values())))):
        sample = {
            name: array[index : index + 1] for name, array in feeds.items()
        }
        singles.append(reference(**sample))
    for name in sorted(batched, key=natural_key):
        expected = numpy.concatenate([outputs[name] for outputs in singles])
        _compare_output(
            batched[name], expected, f"{where}: the output {name}", tolerance
        )


def _compare_output(
    value: Array, expected: Array, where: str, tolerance: float
) -> None:
    if value.shape != expected.shape:
        raise StepError(
            f"{where} has the shape {list(value.shape)}, expected {list(expected.shape)}.",
            fix="export the file with batches: [1]",
        )
    difference = numpy.abs(value.astype("float64") - expected).max()
    limit: float = _MAX_STEPS
    if not numpy.issubdtype(expected.dtype, numpy.integer):
        limit = tolerance * max(float(numpy.ptp(expected)), 1e-6)
    if not difference <= limit:  # also for NaN
        raise StepError(
            f"{where} differs by {difference:.3g} from that for single samples (allowed: "
            f"{limit:.3g}).",
            fix="export the file with batches: [1], and report the network",
        )


def _random_input(
    detail: dict[str, Any], random: numpy.random.Generator
) -> Array:
    """A normal distribution; every integer of a quantized input; 0 and 1 for indices."""
    dtype = numpy.dtype(detail["dtype"])
    shape = tuple(int(dim) for dim in detail["shape"])
    if numpy.issubdtype(dtype, numpy.floating):
        return random.normal(size=shape).astype(dtype)
    if detail["quantization"][0] and dtype.itemsize == 1:
        bounds = numpy.iinfo(dtype)
        return random.integers(
            bounds.min, bounds.max, shape, endpoint=True
        ).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)
