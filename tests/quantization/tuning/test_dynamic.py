"""The arithmetic of tune_tflite: what a layer's output loses by int8, and how that is
lessened.
"""

import numpy
import pytest

from edgekit.quantization.tuning import dynamic as dynamic_tuning

RANDOM = numpy.random.default_rng(0)
#: Correlated inputs, as every real layer has them.
ROWS = (
    RANDOM.standard_normal((2000, 96)) @ RANDOM.standard_normal((96, 96)) / 10
).astype("float32")
WEIGHT = (RANDOM.standard_normal((40, 96)) / 10).astype("float32")


def test_rows_keep_zero_and_half_a_step() -> None:
    """Zero stays zero, and no number moves by more than half a step of its row (one step at
    the ends, where the zero point is rounded).
    """
    rows = ROWS.copy()
    rows[:, 7] = 0
    result = dynamic_tuning.quantize_rows(rows)
    step = (numpy.maximum(rows.max(1), 0) - numpy.minimum(rows.min(1), 0)) / 255
    assert (result[:, 7] == 0).all()
    assert (numpy.abs(result - rows).max(1) <= 1.01 * step).all()


def test_learned_rounding_keeps_the_grid_and_lessens_the_error() -> None:
    """Every weight is an integer step of the plain grid, and the outputs' squared error is
    less than 0.7 of rounding to nearest.
    """
    learned = dynamic_tuning.round_weight(WEIGHT, ROWS.T @ ROWS)
    steps = learned / dynamic_tuning.weight_scales(WEIGHT)
    assert numpy.allclose(steps, numpy.round(steps), atol=1e-3)
    assert numpy.allclose(
        dynamic_tuning.quantize_weight(learned), learned, atol=1e-7
    )
    before, after = (
        numpy.square(ROWS @ (weight - WEIGHT).T).mean()
        for weight in (dynamic_tuning.quantize_weight(WEIGHT), learned)
    )
    assert after < 0.7 * before


def test_smoothing_is_taken_where_it_helps_only() -> None:
    """Outlier channels are smoothed with a smaller error; even channels are left alone."""
    outliers = ROWS.copy()
    outliers[:, [3, 50]] *= 40
    alpha, factor = dynamic_tuning.find_smoothing(outliers, [WEIGHT])
    assert alpha is not None and factor is not None
    assert factor[3] < factor[4]
    assert dynamic_tuning.output_error(
        outliers, [WEIGHT], factor
    ) < 0.5 * dynamic_tuning.output_error(outliers, [WEIGHT], None)
    even = RANDOM.standard_normal((500, 96)).astype("float32")
    assert dynamic_tuning.find_smoothing(even, [WEIGHT]) == (None, None)


def test_bias_correction_takes_the_mean_error_away() -> None:
    """What is left of the error after it has mean zero for every output, and is not larger."""
    rows = ROWS + 1
    new = dynamic_tuning.quantize_weight(WEIGHT)
    added = dynamic_tuning.bias_correction(rows, WEIGHT, None, new)
    assert numpy.allclose(
        (dynamic_tuning.quantize_rows(rows) @ new.T + added).mean(0),
        (rows @ WEIGHT.T).mean(0),
        atol=1e-5,
    )
    assert dynamic_tuning.remaining_error(
        rows, WEIGHT, None, new, added
    ) <= dynamic_tuning.remaining_error(rows, WEIGHT, None, new, None)


@pytest.mark.parametrize(
    "rows",
    [numpy.zeros((5, 96), "float32"), numpy.ones((5, 96), "float32") * 3],
)
def test_data_without_variety_do_no_harm(rows: numpy.ndarray) -> None:
    """Inputs that are all zero or all alike give finite weights near the given ones."""
    result = dynamic_tuning.round_weight(WEIGHT, rows.T @ rows)
    assert numpy.isfinite(result).all()
    assert numpy.abs(result - WEIGHT).max() < 0.05
    assert numpy.isfinite(
        dynamic_tuning.smoothing_factors(rows, [WEIGHT], 0.5)
    ).all()
