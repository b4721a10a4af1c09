"""neural-compressor's static int8: its tuning loop ends with a trial that holds the
criterion, and the weights are folded.
"""

import pytest
import torch
from torch import nn

from edgekit.errors import StepError
from edgekit.signature import Signature, TensorSpec

pytest.importorskip(
    "neural_compressor",
    reason="neural-compressor is not installed: pip install 'edgekit[intel]'",
)

from edgekit.formats.neural_compressor import static

SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", dtype="float32", dims=("batch", 8)),),
    outputs=(TensorSpec(name="output", dtype="float32", dims=("batch", 4)),),
)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def rows(outlier: float) -> list[tuple[torch.Tensor, ...]]:
    """Normal data; one number of the first batch is ``outlier``."""
    batches = [torch.randn(64, 8) for _ in range(4)]
    batches[0][0, 0] = outlier
    return [(batch,) for batch in batches]


def closeness(network: nn.Module) -> static.Score:
    """Minus the largest difference to the float network: a metric below 0."""
    data = torch.randn(200, 8)
    outputs = network(data).detach()
    return lambda model: -float((model(data) - outputs).abs().max())


@pytest.mark.slow
def test_the_first_trial_that_loses_little_is_taken() -> None:
    """Without outliers the plain trial holds, and it is the only one that is run."""
    torch.manual_seed(0)
    plain = network()
    tuned = static.quantize(
        plain, SIGNATURE, rows(0.0), closeness(plain), drop=0.2
    )
    assert tuned.chosen == static.TRIALS[0]
    assert tuned.float_score == pytest.approx(0, abs=1e-5)
    assert len(tuned.scores) == 1
    assert tuned.scores[0] >= -0.2


@pytest.mark.slow
def test_tuning_goes_on_until_the_metric_holds() -> None:
    """An outlier spoils the range that min-max finds; the loop goes on to the trial that
    keeps it out, in the metric's own unit.
    """
    torch.manual_seed(0)
    plain = network()
    tuned = static.quantize(
        plain, SIGNATURE, rows(50.0), closeness(plain), drop=0.1
    )
    assert tuned.chosen == static.TRIALS[1]
    assert tuned.scores[0] < -0.1 <= tuned.scores[1]
    assert len(tuned.scores) == 2


@pytest.mark.slow
def test_where_no_trial_holds_the_best_is_taken() -> None:
    """A criterion that cannot be held ends with the trial of the highest score, after all
    were run.
    """
    torch.manual_seed(0)
    plain = network()
    tuned = static.quantize(
        plain, SIGNATURE, rows(300.0), closeness(plain), drop=1e-6
    )
    assert len(tuned.scores) == len(static.TRIALS)
    assert tuned.chosen == static.TRIALS[tuned.scores.index(max(tuned.scores))]


def test_without_a_score_the_weights_are_still_folded() -> None:
    """The graph holds its weights in int8, and computes nearly what the float network does."""
    torch.manual_seed(0)
    plain = network()
    tuned = static.quantize(plain, SIGNATURE, rows(0.0), None, drop=0.01)
    assert (tuned.float_score, tuned.scores) == (None, ())
    assert (
        sum(
            tensor.dtype == torch.int8
            for tensor in tuned.graph.state_dict().values()
        )
        == 2
    )
    data = torch.randn(50, 8)
    with torch.no_grad():
        assert float((tuned.graph(data) - plain(data)).abs().max()) < 0.2


def test_a_network_with_nothing_to_quantize_is_refused() -> None:
    """A network without a convolution or a linear layer is refused."""
    signature = SIGNATURE.model_copy(
        update={
            "outputs": (
                TensorSpec(name="output", dtype="float32", dims=("batch", 8)),
            )
        }
    )
    with pytest.raises(StepError, match="nothing to quantize"):
        static.quantize(nn.Tanh(), signature, rows(0.0), None, drop=0.01)
