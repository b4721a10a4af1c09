"""Several signatures of one TFLite file: one network in several batch sizes, its weights
stored once.
"""

import pathlib
from typing import Any

import numpy
from ai_edge_litert.interpreter import Interpreter

from edgekit.errors import StepError
from edgekit.formats.tflite.conversion import DEFAULT
from edgekit.formats.tflite.file import by_number

#: The largest difference between two signatures: integers of an output, or a part of the
#: range of a float output (kernels of other shapes add in another order; scales that are
#: found while the file runs are of other samples).
_STEPS, _FLOAT, _SCALED = 1, 1e-4, 0.1


def name(batch: int) -> str:
    """What the signature for so many samples is called."""
    return DEFAULT if batch == 1 else f"batch_{batch}"


def check(path: pathlib.Path, where: str, dynamic: bool = False) -> None:
    """Raise StepError unless every further signature gives, for random samples, what the
    first gives for them one by one.

    ``dynamic``: the file finds scales of activations while it runs, so other samples of a
    batch may matter.
    """
    running = Interpreter(model_path=str(path), num_threads=1)
    names = list(running.get_signature_list())
    if len(names) < 2:
        return
    if DEFAULT not in names:
        raise StepError(
            f"{where}: the file has the signatures {', '.join(names)}, and none is {DEFAULT}.",
            fix="report it with the network",
        )
    first = running.get_signature_runner(DEFAULT)
    for other in names:
        if other != DEFAULT:
            _compare(
                first,
                running.get_signature_runner(other),
                f"{where}, {other}",
                _SCALED if dynamic else _FLOAT,
            )


def _compare(first: Any, other: Any, where: str, allowed: float) -> None:
    random = numpy.random.default_rng(0)
    feeds = {
        key: _random(detail, random) for key, detail in other.get_input_details().items()
    }
    ours = other(**feeds)
    samples = len(next(iter(feeds.values())))
    rows = [
        first(**{key: array[k : k + 1] for key, array in feeds.items()})
        for k in range(samples)
    ]
    for key in sorted(ours, key=by_number):
        expected = numpy.concatenate([row[key] for row in rows])
        if ours[key].shape != expected.shape:
            raise StepError(
                f"{where}: the output {key} is {list(ours[key].shape)}, not {list(expected.shape)}.",
                fix="make the file with batches: [1]",
            )
        difference = numpy.abs(ours[key].astype("float64") - expected).max()
        limit = (
            _STEPS
            if numpy.issubdtype(expected.dtype, numpy.integer)
            else allowed * max(float(numpy.ptp(expected)), 1e-6)
        )
        if not difference <= limit:
            raise StepError(
                f"{where}: the output {key} differs by {difference:.3g} from that for one sample (allowed: {limit:.3g}).",
                fix="make the file with batches: [1], and report the network",
            )


def _random(detail: Any, random: numpy.random.Generator) -> Any:
    """Numbers around zero; where the input is quantized, all its integers; indexes are 0
    and 1.
    """
    dtype, shape = numpy.dtype(detail["dtype"]), tuple(int(dim) for dim in detail["shape"])
    if numpy.issubdtype(dtype, numpy.floating):
        return random.normal(size=shape).astype(dtype)
    if detail["quantization"][0] and dtype.itemsize == 1:
        bounds = numpy.iinfo(dtype)
        return random.integers(bounds.min, bounds.max, shape, endpoint=True).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)
