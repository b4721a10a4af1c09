"""Weights of a linear layer fit for dynamic int8: outliers smoothed away, weights rounded
for the layer's output, bias corrected.

Pure functions of plain arrays. ``rows`` are inputs of the layer, one row each (n, inputs);
a weight is (outputs, inputs). The arithmetic that they prepare for: weights with one
symmetric scale an output, inputs with one scale and zero point a row.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import numpy.typing

Array = numpy.typing.NDArray[Any]

#: SmoothQuant's alphas that are tried. None leaves the inputs as they are.
ALPHAS: tuple[float | None, ...] = (None, 0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
#: A smoothing must take away this share of the squared error at least: it costs a
#: multiplication for every input.
WORTH = 0.1
_MOST = 127
_TINY = 1e-12
#: Added to the diagonal of the inputs' moments, as a share of its mean (Frantar et al.
#: 2023, section 3).
_DAMPING = 0.01
_BLOCK = 128


def quantized_rows(rows: Array) -> Array:
    """The rows as int8 kernels see them: 256 steps between the least and the largest number
    of each row, zero among them.
    """
    low, high = (
        numpy.minimum(rows.min(-1, keepdims=True), 0),
        numpy.maximum(rows.max(-1, keepdims=True), 0),
    )
    scale = numpy.maximum((high - low) / 255, _TINY)
    zero = numpy.clip(numpy.round(-128 - low / scale), -128, 127)
    return numpy.asarray(
        (numpy.clip(numpy.round(rows / scale) + zero, -128, 127) - zero) * scale
    )


def weight_scales(weight: Array) -> Array:
    """One scale an output, (outputs, 1)."""
    return numpy.asarray(
        numpy.maximum(numpy.abs(weight).max(1, keepdims=True), _TINY) / _MOST
    )


def quantized_weight(weight: Array) -> Array:
    """Every weight at the nearest step of its output's scale."""
    scale = weight_scales(weight)
    return numpy.asarray(numpy.round(weight / scale) * scale)


def factors(rows: Array, weights: Sequence[Array], alpha: float) -> Array:
    """What each input is multiplied with, and its column of the weights divided by:
    max|w|^(1-alpha) / max|x|^alpha (Xiao et al. 2023, eq. 4).
    """
    inputs = numpy.maximum(numpy.abs(rows).max(0), 1e-5)
    columns = numpy.maximum(
        numpy.max([numpy.abs(weight).max(0) for weight in weights], axis=0), 1e-5
    )
    found = columns ** (1 - alpha) / inputs**alpha
    return numpy.asarray(found / numpy.exp(numpy.log(found).mean()), dtype="float32")


def output_error(rows: Array, weights: Sequence[Array], factor: Array | None) -> float:
    """The mean squared error of the outputs, all layers that read these rows together,
    weights at the nearest step.
    """
    scaled = quantized_rows(rows if factor is None else rows * factor)
    total = 0.0
    for weight in weights:
        column = weight if factor is None else weight / factor
        total += float(
            numpy.square(scaled @ quantized_weight(column).T - rows @ weight.T).mean()
        )
    return total


def smoothing(rows: Array, weights: Sequence[Array]) -> tuple[float | None, Array | None]:
    """The best of ``ALPHAS`` for layers that read the same rows, and its factors; (None,
    None) where smoothing gains too little.
    """
    tried = {
        alpha: None if alpha is None else factors(rows, weights, alpha) for alpha in ALPHAS
    }
    errors = {alpha: output_error(rows, weights, factor) for alpha, factor in tried.items()}
    best = min(errors, key=lambda alpha: errors[alpha])
    if errors[best] > (1 - WORTH) * errors[None]:
        return None, None
    return best, tried[best]


def rounded(weight: Array, moments: Array) -> Array:
    """The weight on its int8 grid, each rounding error made good by the columns that come
    later (Frantar et al. 2023, GPTQ).

    ``moments`` is the sum of x x^T over the inputs. The largest weight of an output keeps
    its step, so the grid is found again from the result's own largest weight.
    """
    scale = weight_scales(weight)[:, 0]
    largest = numpy.abs(weight).argmax(1)
    work, result = weight.astype("float64"), numpy.empty_like(weight, dtype="float64")
    inverse = _factor(moments)
    size = weight.shape[1]
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        errors = numpy.zeros((len(weight), last - first))
        for column in range(first, last):
            steps = numpy.clip(numpy.round(work[:, column] / scale), -_MOST, _MOST)
            steps = numpy.where(
                largest == column, _MOST * numpy.sign(weight[:, column]), steps
            )
            result[:, column] = steps * scale
            error = (work[:, column] - result[:, column]) / inverse[column, column]
            work[:, column:last] -= numpy.outer(error, inverse[column, column:last])
            errors[:, column - first] = error
        work[:, last:] -= errors @ inverse[first:last, last:]
    return result.astype("float32")


def _factor(moments: Array) -> Array:
    """The upper Cholesky factor of the moments' inverse."""
    damped = moments.astype("float64")
    mean = float(numpy.diag(damped).mean())
    damped[numpy.diag_indices_from(damped)] += _DAMPING * max(mean, _TINY)
    return numpy.asarray(numpy.linalg.cholesky(numpy.linalg.inv(damped)).T)


def bias_correction(rows: Array, weight: Array, factor: Array | None, new: Array) -> Array:
    """What to add to the bias: the mean over the rows of what each output lacks.

    ``new`` is the weight on its grid, for scaled rows.
    """
    scaled = quantized_rows(rows if factor is None else rows * factor)
    return numpy.asarray((rows @ weight.T - scaled @ new.T).mean(0), dtype="float32")


def remaining(
    rows: Array, weight: Array, factor: Array | None, new: Array, added: Array | None
) -> float:
    """The mean squared error of the outputs with the weight on its grid and the bias
    corrected.
    """
    scaled = quantized_rows(rows if factor is None else rows * factor)
    error = scaled @ new.T - rows @ weight.T
    return float(numpy.square(error if added is None else error + added).mean())
