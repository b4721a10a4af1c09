"""What changes weights before they are quantized: the float network stays what it was, and
the quantized one comes closer to it.
"""

import torch

from edgekit.quantization.calibration import Calibration, Constants
from edgekit.quantization.graph import simulate
from edgekit.quantization.settings import Settings
from edgekit.quantization.simulator import build_simulator
from edgekit.quantization.tuning.adapt import adapt
from edgekit.quantization.tuning.sensitivity import sqnr
from edgekit.scheme import Tuning
from edgekit.signature import Signature
from tests.quantization.networks import (
    IMAGE,
    VECTOR,
    Rows,
    correlated,
    dense,
    normed,
    outlier,
    rows,
)


def adapted(
    network: torch.nn.Module, data: Rows, signature: Signature, tuning: Tuning
) -> tuple[Calibration, Constants]:
    return adapt(
        network, data, signature, Settings(observer=tuning.observer), tuning
    )


def output_sqnr(
    network: torch.nn.Module,
    signature: Signature,
    calibrated: tuple[Calibration, Constants],
    test: torch.Tensor,
) -> float:
    """The SQNR of the quantized network on other data, in dB."""
    calibration, constants = calibrated
    with torch.no_grad():
        return sqnr(
            [network(test)],
            [
                simulate(
                    network,
                    signature,
                    calibration,
                    fold=True,
                    constants=constants,
                )(test)
            ],
        )


def float_difference(
    network: torch.nn.Module,
    signature: Signature,
    constants: Constants,
    test: torch.Tensor,
) -> float:
    with torch.no_grad():
        expected = network(test)
        return float(
            (
                simulate(
                    network,
                    signature,
                    Calibration(),
                    fold=True,
                    constants=constants,
                )(test)
                - expected
            )
            .abs()
            .max()
            / expected.abs().max()
        )


def test_equalization_changes_nothing_in_float_and_saves_an_outlier() -> None:
    """Ranges of neighbouring layers agree afterwards: 20 dB less noise, and the float
    network computes the same.
    """
    network, test = outlier(), next(rows(1, 8, 8, seed=50)())[0]
    plain = adapted(network, rows(1, 8, 8), IMAGE, Tuning())
    equal = adapted(network, rows(1, 8, 8), IMAGE, Tuning(equalize=True))
    assert float_difference(network, IMAGE, equal[1], test) < 1e-5
    assert (
        output_sqnr(network, IMAGE, equal, test)
        > output_sqnr(network, IMAGE, plain, test) + 20
    )
    assert any(change.startswith("equalize") for change in equal[0].changes)


def test_smoothing_moves_outliers_into_the_weights() -> None:
    """A normalization with outliers in two channels: 6 dB less noise, and the float network
    computes the same.
    """
    network, test = normed(), next(rows(32, seed=50)())[0]
    plain, smooth = (
        adapted(network, rows(32), VECTOR, tuning)
        for tuning in (Tuning(), Tuning(smooth=0.5))
    )
    assert float_difference(network, VECTOR, smooth[1], test) < 1e-5
    assert (
        output_sqnr(network, VECTOR, smooth, test)
        > output_sqnr(network, VECTOR, plain, test) + 6
    )


def test_learned_rounding_is_closer_than_the_nearest_step() -> None:
    """On correlated data weights that are rounded up or down together are closer than each
    for itself; none moves by more than a step.
    """
    network, data, test = (
        dense(),
        correlated(batches=4),
        next(correlated(seed=50)())[0],
    )
    calibration, constants = adapted(
        network, data, VECTOR, Tuning(rounding="learned")
    )
    nearest = {}
    for operator in build_simulator(network, VECTOR, calibration).operators:
        scale = operator.weight.scale[:, None]
        weight = network.get_submodule(operator.module).weight.detach()
        nearest[operator.weight_name] = operator.weight.quantize(weight)
        learned = constants[operator.weight_name]
        assert ((learned - weight).abs() <= 1.001 * scale).all()
        assert torch.allclose(
            learned / scale, (learned / scale).round(), atol=1e-3
        )
    errors = [
        float_difference(network, VECTOR, changed, test)
        for changed in (nearest, constants)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_bias_correction_takes_the_mean_error_out() -> None:
    """With coarse weights the mean of each output channel is nearer to float's."""
    network, data = outlier(), rows(1, 8, 8)
    test = torch.cat([row[0] for row in data()])
    errors = []
    for tuning in (Tuning(), Tuning(correct_bias=True)):
        calibration, constants = adapted(network, data, IMAGE, tuning)
        with torch.no_grad():
            expected = network(test)
            simulated = simulate(
                network, IMAGE, calibration, fold=True, constants=constants
            )(test)
        errors.append(float((simulated - expected).mean(0).abs().mean()))
    assert errors[1] < 0.85 * errors[0]


def test_the_same_data_give_the_same_numbers() -> None:
    """All changes together, twice: every scale and every weight is equal to the bit."""
    tuning = Tuning(equalize=True, rounding="learned", correct_bias=True)
    (first, ours), (second, theirs) = (
        adapted(outlier(), rows(1, 8, 8), IMAGE, tuning) for _ in range(2)
    )
    assert first == second
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
