"""How often a candidate is correct, what it loses compared with its reference on the same
samples, and how often both predict the same.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from edgekit.checks.metrics import metric_name, scores, single
from edgekit.checks.statistics import (
    Interval,
    mean_interval,
    paired_mean_difference,
    paired_share_difference,
    share_interval,
)
from edgekit.contracts import Runner
from edgekit.errors import RunnerError, TaskError
from edgekit.measurement import Measurement, MeasurementName, unmeasured
from edgekit.task import Split, Task

if TYPE_CHECKING:
    from edgekit.arrays import Array

Metric = str | Callable[..., Any]
#: The kind of each interval, for ``how``.
WILSON = "Wilson score interval"
STUDENT = "Student's interval"
AGRESTI_MIN = "paired, Agresti-Min interval"
BOOTSTRAP = "paired, bootstrap interval"


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredOutputs:
    """The outputs of a runner for the samples of a split, and each sample's score."""

    outputs: Mapping[str, "Array"]
    #: float64 [samples]
    scores: "Array"
    where: str

    def take(self, count: int) -> "ScoredOutputs":
        """Return the first ``count`` samples."""
        first = {name: array[:count] for name, array in self.outputs.items()}
        return ScoredOutputs(first, self.scores[:count], self.where)


def score_runner(runner: Runner, split: Split, metric: Metric) -> ScoredOutputs:
    """Run a split once and score it.

    Raises TaskError if the split has no labels or the metric does not fit, RunnerError as
    ``run_split`` does.
    """
    if split.labels is None:
        raise TaskError(
            "Samples without labels cannot be scored.", fix="use the test split"
        )
    return score_outputs(run_split(runner, split), split, metric, runner.where)


def run_split(runner: Runner, split: Split) -> Mapping[str, "Array"]:
    """Run a split once; raise RunnerError unless every output has one row per sample."""
    outputs = runner.infer(split.inputs)
    n = len(split)
    wrong = {
        name: list(array.shape)
        for name, array in outputs.items()
        if array.shape[:1] != (n,)
    }
    if wrong or not outputs:
        raise RunnerError(
            f"{runner.where}: expected outputs with one row for each of {n} samples, got"
            f" {wrong or 'none'}.",
            fix="export the model with the sample axis first",
        )
    return outputs


def score_outputs(
    outputs: Mapping[str, "Array"], split: Split, metric: Metric, where: str
) -> ScoredOutputs:
    """Score the outputs for the samples of a split that has labels.

    Raises TaskError if the metric does not fit.
    """
    assert split.labels is not None
    return ScoredOutputs(outputs, scores(outputs, split.labels, metric), where)


def check(
    candidate: Runner, reference: Runner, task: Task
) -> list[Measurement]:
    """Measure accuracy, accuracy_drop and agreement of the candidate on the test data."""
    split = task.need("test", "accuracy")
    return measure(
        score_runner(candidate, split, task.metric),
        score_runner(reference, split, task.metric),
        task.metric,
    )


def measure(
    candidate: ScoredOutputs, reference: ScoredOutputs, metric: Metric
) -> list[Measurement]:
    """Measure accuracy, accuracy_drop and agreement from the same samples in the same order.

    ``agreement`` is left out if the output has no predictions (see ``predictions``). Raises
    RunnerError if the numbers of samples differ.
    """
    if len(candidate.scores) != len(reference.scores):
        raise RunnerError(
            f"Cannot pair {len(candidate.scores)} samples with {len(reference.scores)}.",
            fix="run both on the same samples",
        )
    measurements = [
        accuracy(candidate, metric),
        accuracy_drop(candidate, reference, metric),
    ]
    same = agreement(candidate, reference, metric)
    return measurements if same is None else [*measurements, same]


def accuracy(scored: ScoredOutputs, metric: Metric) -> Measurement:
    """Return the mean score with its 95 % interval."""
    name = metric_name(metric)
    interval, kind = _mean_interval(scored.scores)
    return _measurement(
        "accuracy",
        (float(scored.scores.mean()), interval),
        scored,
        unit=name,
        how=f"mean {name} of {len(scored.scores)} test samples; {kind}",
    )


def accuracy_drop(
    candidate: ScoredOutputs, reference: ScoredOutputs, metric: Metric
) -> Measurement:
    """Return the mean score of the reference minus that of the candidate on the same samples,
    with its 95 % interval.
    """
    theirs = reference.scores
    ours = candidate.scores
    interval: Interval | None
    if _is_binary(theirs) and _is_binary(ours):
        interval = paired_share_difference(theirs, ours)
        kind = AGRESTI_MIN
    else:
        interval = paired_mean_difference(theirs, ours)
        kind = BOOTSTRAP
    detail = {
        "reference": float(theirs.mean()),
        "worse": int((ours < theirs).sum()),
        "better": int((ours > theirs).sum()),
    }
    return _measurement(
        "accuracy_drop",
        (float(theirs.mean() - ours.mean()), interval),
        candidate,
        unit=metric_name(metric),
        how=f"compared with {reference.where}, {len(ours)} test samples; {kind}",
        detail=detail,
    )


def agreement(
    candidate: ScoredOutputs, reference: ScoredOutputs, metric: Metric
) -> Measurement | None:
    """Return the share of samples with the same prediction, whatever the label; None if there
    are no predictions to compare.

    A sample with several predictions (pixels, labels) counts with the share that is the same.
    """
    ours = predictions(candidate, metric)
    theirs = predictions(reference, metric)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    # A prediction of -1 stands for NaN, which agrees with nothing.
    equal = (ours == theirs) & (ours >= 0)
    shares = equal.reshape(len(ours), -1).mean(axis=1)
    interval, kind = _mean_interval(shares)
    return _measurement(
        "agreement",
        (float(shares.mean()), interval),
        candidate,
        unit="share",
        how=f"same prediction as {reference.where}, {len(shares)} test samples; {kind}",
        detail={"different": int((shares < 1).sum())},
    )


def predictions(scored: ScoredOutputs, metric: Metric) -> "Array | None":
    """Return the predictions as integers: the class (axis 1) for top1 and top5, the sign for
    binary_accuracy.

    -1 if an output is NaN. None for any other metric: real outputs have no prediction that
    could be the same.
    """
    if metric not in ("top1", "top5", "binary_accuracy"):
        return None
    output = single(scored.outputs)
    if metric == "binary_accuracy":
        return numpy.where(
            numpy.isnan(output), -1, (output > 0).astype("int64")
        )
    return numpy.where(
        numpy.isnan(output).any(axis=1), -1, output.argmax(axis=1)
    )


def _is_binary(values: "Array") -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _mean_interval(values: "Array") -> tuple[Interval | None, str]:
    """The interval of a mean, and its kind."""
    if _is_binary(values):
        return share_interval(int(values.sum()), len(values)), WILSON
    return mean_interval(values), STUDENT


def _measurement(
    name: MeasurementName,
    estimate: tuple[float, Interval | None],
    scored: ScoredOutputs,
    *,
    unit: str,
    how: str,
    detail: Mapping[str, Any] | None = None,
) -> Measurement:
    """The measurement, or an unmeasured one if there is no interval: without one no gate can be
    judged.
    """
    value, interval = estimate
    if interval is None:
        reason = "one sample with a real score has no interval"
        return unmeasured(name, unit, scored.where, reason)
    return Measurement(
        name=name,
        value=value,
        low=interval[0],
        high=interval[1],
        unit=unit,
        n=len(scored.scores),
        where=scored.where,
        how=how,
        detail=dict(detail or {}),
    )
