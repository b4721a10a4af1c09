"""Preparing the weights of a linear layer for dynamic int8.

Outliers are smoothed, weights are rounded for the layer's output, the bias is corrected.

Pure functions of arrays. ``rows`` are inputs of the layer, (n, inputs) float32; a weight is
(outputs, inputs) float32. They prepare for kernels with symmetric per-output weight scales,
and a per-row scale and zero point of the inputs.
"""

from collections.abc import Sequence

import numpy

from edgekit.arrays import Array

#: The values of SmoothQuant's alpha that are tried. None leaves the inputs unchanged.
ALPHAS: tuple[float | None, ...] = (None, 0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
#: A smoothing must reduce the squared error by this share at least: it costs a
#: multiplication for every input.
WORTH = 0.1
_INT8_MAX = 127
_TINY = 1e-12
#: The smallest range that smoothing divides by.
_SMALLEST_RANGE = 1e-5
#: Added to the diagonal of the inputs' moments, as a share of its mean (Frantar et al.
#: 2023, section 3).
_DAMPING = 0.01
#: The number of columns after which GPTQ updates the remaining ones.
_BLOCK = 128


def quantize_rows(rows: Array) -> Array:
    """The rows after dynamic int8 quantization, dequantized again.

    Each row has 256 steps between its lowest and highest value; zero is one of them.
    """
    low = numpy.minimum(rows.min(-1, keepdims=True), 0)
    high = numpy.maximum(rows.max(-1, keepdims=True), 0)
    scale = numpy.maximum((high - low) / 255, _TINY)
    zero_point = numpy.clip(numpy.round(-128 - low / scale), -128, 127)
    stored = numpy.clip(numpy.round(rows / scale) + zero_point, -128, 127)
    return numpy.asarray((stored - zero_point) * scale)


def weight_scales(weight: Array) -> Array:
    """Per-output weight scales, (outputs, 1)."""
    largest = numpy.abs(weight).max(1, keepdims=True)
    return numpy.asarray(numpy.maximum(largest, _TINY) / _INT8_MAX)


def quantize_weight(weight: Array) -> Array:
    """The weight rounded to nearest, dequantized again."""
    scale = weight_scales(weight)
    return numpy.asarray(numpy.round(weight / scale) * scale)


def smoothing_factors(
    rows: Array, weights: Sequence[Array], alpha: float
) -> Array:
    """SmoothQuant's factors, (inputs,): max|w|^(1-alpha) / max|x|^alpha.

    Each input is multiplied by its factor, and its column of the weights divided by it (Xiao
    et al. 2023, eq. 4). The geometric mean of the factors is 1.
    """
    inputs = numpy.maximum(numpy.abs(rows).max(0), _SMALLEST_RANGE)
    largest = numpy.max(
        [numpy.abs(weight).max(0) for weight in weights], axis=0
    )
    columns = numpy.maximum(largest, _SMALLEST_RANGE)
    factors = columns ** (1 - alpha) / inputs**alpha
    geometric_mean = numpy.exp(numpy.log(factors).mean())
    return numpy.asarray(factors / geometric_mean, dtype="float32")


def output_error(
    rows: Array, weights: Sequence[Array], factor: Array | None
) -> float:
    """The mean squared error of the outputs with weights rounded to nearest.

    It is the sum over all layers that read these rows.
    """
    scaled = quantize_rows(rows if factor is None else rows * factor)
    total = 0.0
    for weight in weights:
        scaled_weight = weight if factor is None else weight / factor
        error = scaled @ quantize_weight(scaled_weight).T - rows @ weight.T
        total += float(numpy.square(error).mean())
    return total


def find_smoothing(
    rows: Array, weights: Sequence[Array]
) -> tuple[float | None, Array | None]:
    """The best of ``ALPHAS`` for layers that read the same rows, and its factors.

    Returns (None, None) if smoothing gains too little.
    """
    factors = {
        alpha: None
        if alpha is None
        else smoothing_factors(rows, weights, alpha)
        for alpha in ALPHAS
    }
    errors = {
        alpha: output_error(rows, weights, factor)
        for alpha, factor in factors.items()
    }
    best = min(errors, key=lambda alpha: errors[alpha])
    if errors[best] > (1 - WORTH) * errors[None]:
        return None, None
    return best, factors[best]


def round_weight(weight: Array, moments: Array) -> Array:
    """The weight rounded to its int8 grid by GPTQ (Frantar et al. 2023), (outputs, inputs).

    Each rounding error is compensated by the columns after it. ``moments`` is the sum of
    x x^T over the inputs, (inputs, inputs). The largest weight of an output keeps its step,
    so that the scale can be computed again from the result's own largest weight.
    """
    scale = weight_scales(weight)[:, 0]
    largest = numpy.abs(weight).argmax(1)
    remaining = weight.astype("float64")
    result = numpy.empty_like(weight, dtype="float64")
    inverse = _inverse_factor(moments)
    size = weight.shape[1]
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        errors = numpy.zeros((len(weight), last - first))
        for column in range(first, last):
            steps = numpy.round(remaining[:, column] / scale)
            steps = numpy.clip(steps, -_INT8_MAX, _INT8_MAX)
            full_steps = _INT8_MAX * numpy.sign(weight[:, column])
            steps = numpy.where(largest == column, full_steps, steps)
            result[:, column] = steps * scale
            error = remaining[:, column] - result[:, column]
            error = error / inverse[column, column]
            remaining[:, column:last] -= numpy.outer(
                error, inverse[column, column:last]
            )
            errors[:, column - first] = error
        remaining[:, last:] -= errors @ inverse[first:last, last:]
    return result.astype("float32")


def _inverse_factor(moments: Array) -> Array:
    """The upper Cholesky factor of the inverse of the moments."""
    damped = moments.astype("float64")
    mean = float(numpy.diag(damped).mean())
    damped[numpy.diag_indices_from(damped)] += _DAMPING * max(mean, _TINY)
    return numpy.asarray(numpy.linalg.cholesky(numpy.linalg.inv(damped)).T)


def bias_correction(
    rows: Array, weight: Array, factor: Array | None, new: Array
) -> Array:
    """What to add to the bias, (outputs,): the mean error of each output over the rows.

    ``new`` is the weight on its grid, for rows that are scaled by ``factor``.
    """
    scaled = quantize_rows(rows if factor is None else rows * factor)
    return numpy.asarray(
        (rows @ weight.T - scaled @ new.T).mean(0), dtype="float32"
    )


def remaining_error(
    rows: Array,
    weight: Array,
    factor: Array | None,
    new: Array,
    added: Array | None,
) -> float:
    """The mean squared error of the outputs with the weight ``new``.

    ``added`` is what was added to the bias, or None.
    """
    scaled = quantize_rows(rows if factor is None else rows * factor)
    error = scaled @ new.T - rows @ weight.T
    if added is not None:
        error = error + added
    return float(numpy.square(error).mean())
