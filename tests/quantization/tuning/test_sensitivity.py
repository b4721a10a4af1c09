"""The diagnosis: which layers are noisy, whether an output mixes ranges, and what would
help.
"""

import torch
from torch import nn

from edgekit.quantization.prepared import build_float_graph
from edgekit.quantization.settings import Settings
from edgekit.quantization.tuning.adapt import adapt
from edgekit.quantization.tuning.sensitivity import (
    QUIET_DB,
    diagnose,
    mixed_output,
    sqnr,
)
from edgekit.scheme import Tuning
from tests.quantization.networks import IMAGE, VECTOR, outlier, rows


def test_the_layer_with_the_outlier_is_the_noisiest_and_equalization_helps_most() -> (
    None
):
    """What reads the channel that dwarfs the others makes the noise; the trials say what
    would take it away.
    """
    adapted = adapt(outlier(), rows(1, 8, 8), IMAGE, Settings(), Tuning())
    diagnosis = diagnose(
        outlier(),
        IMAGE,
        rows(1, 8, 8),
        adapted,
        [Tuning(equalize=True), Tuning(smooth=0.5), Tuning(observer="min-max")],
    )
    assert diagnosis.layers[0].module == "depthwise"
    assert {layer.module for layer in diagnosis.layers} == {
        "first",
        "depthwise",
        "point",
        "head",
    }
    assert diagnosis.activations_db < diagnosis.weights_db
    assert (
        diagnosis.sqnr_db
        <= min(diagnosis.activations_db, diagnosis.weights_db) + 0.5
    )
    best = max(diagnosis.trials, key=lambda trial: trial.sqnr_db)
    assert best.tuning == Tuning(equalize=True)
    assert best.sqnr_db > diagnosis.sqnr_db + 20
    assert not any(
        trial.tuning.smooth for trial in diagnosis.trials
    )  # there is no normalization to smooth
    assert (
        "activations cause most of the noise, the noisiest layer is depthwise"
        in diagnosis.describe()
    )


class Joined(nn.Module):
    """Two heads whose ranges differ, in one output."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(32, 4), nn.Linear(32, 6)
        with torch.no_grad():
            self.left.weight *= factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), self.right(x)], 1).view(-1, 10)


def test_an_output_that_joins_different_ranges_is_seen() -> None:
    """The ratio of the pieces' ranges, also through a reshape; 1 if nothing is concatenated."""
    data = list(rows(32)())
    ratio = mixed_output(build_float_graph(Joined(500).eval(), VECTOR), data)
    assert 100 < ratio < 2500
    assert mixed_output(build_float_graph(Joined(1).eval(), VECTOR), data) < 5
    assert (
        mixed_output(build_float_graph(outlier(), IMAGE), list(rows(1, 8, 8)()))
        == 1
    )


def test_the_ratio_of_signal_to_noise() -> None:
    """A noise of a tenth of the signal is 20 dB; none at all is the ceiling; the noisiest of
    several outputs counts.
    """
    signal = torch.ones(100)
    assert abs(sqnr([signal], [signal * 1.1]) - 20) < 1e-3
    assert sqnr([signal], [signal]) == QUIET_DB
    assert abs(sqnr([signal, signal], [signal, signal * 2])) < 1e-9
