"""How often a candidate is right, what it loses against its reference on the same samples,
and how often both agree.
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
    import numpy.typing

    Array = numpy.typing.NDArray[Any]

Metric = str | Callable[..., Any]
#: What the interval of each measurement is, told in ``how``.
WILSON, STUDENT = "Wilson score interval", "Student's interval"
AGRESTI_MIN, BOOTSTRAP = "paired, Agresti-Min interval", "paired, bootstrap interval"


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What a runner gave for the samples of a split, and each sample's score."""

    outputs: Mapping[str, "Array"]
    scores: "Array"
    where: str

    def take(self, count: int) -> "Answers":
        """The first ``count`` samples."""
        return Answers(
            {name: array[:count] for name, array in self.outputs.items()},
            self.scores[:count],
            self.where,
        )


def answer(runner: Runner, split: Split, metric: Metric) -> Answers:
    """Run a split once and score it.

    Raises TaskError where the split has no labels or the metric does not fit.
    """
    if split.labels is None:
        raise TaskError(
            "Samples without labels cannot be scored.", fix="take the test split"
        )
    return scored(outputs_of(runner, split), split, metric, runner.where)


def outputs_of(runner: Runner, split: Split) -> Mapping[str, "Array"]:
    """Run a split once, or raise RunnerError where the outputs are not one row a sample."""
    outputs, n = runner.infer(split.inputs), len(split)
    wrong = {
        name: list(array.shape)
        for name, array in outputs.items()
        if array.shape[:1] != (n,)
    }
    if wrong or not outputs:
        said = f"{runner.where}: the outputs are not one row for each of {n} samples: {wrong or 'none'}."
        raise RunnerError(said, fix="export the model with the sample axis first")
    return outputs


def scored(
    outputs: Mapping[str, "Array"], split: Split, metric: Metric, where: str
) -> Answers:
    """Outputs for the samples of a split with their scores.

    Raises TaskError where the metric does not fit.
    """
    assert split.labels is not None
    return Answers(outputs, scores(outputs, split.labels, metric), where)


def check(candidate: Runner, reference: Runner, task: Task) -> list[Measurement]:
    """accuracy, accuracy_drop and agreement of the candidate on the task's test data."""
    split = task.need("test", "accuracy")
    return measure(
        answer(candidate, split, task.metric),
        answer(reference, split, task.metric),
        task.metric,
    )


def measure(candidate: Answers, reference: Answers, metric: Metric) -> list[Measurement]:
    """accuracy, accuracy_drop and agreement from answers to the same samples in the same
    order.

    ``agreement`` is left out where the output is no class score (see ``predictions``).
    """
    if len(candidate.scores) != len(reference.scores):
        raise RunnerError(
            f"{len(candidate.scores)} answers cannot be paired with {len(reference.scores)}.",
            fix="run both on the same samples",
        )
    found = [accuracy(candidate, metric), accuracy_drop(candidate, reference, metric)]
    agreed = agreement(candidate, reference, metric)
    return found if agreed is None else [*found, agreed]


def accuracy(answers: Answers, metric: Metric) -> Measurement:
    """The mean score with its 95 % interval."""
    values, unit = answers.scores, metric_name(metric)
    interval, how = _mean(values)
    return _measurement(
        "accuracy",
        float(values.mean()),
        interval,
        (unit, answers, f"mean {unit} of {len(values)} test samples; {how}"),
    )


def accuracy_drop(candidate: Answers, reference: Answers, metric: Metric) -> Measurement:
    """What the candidate loses: mean score of the reference minus the candidate's, on the
    same samples, with its interval.
    """
    theirs, ours, unit = reference.scores, candidate.scores, metric_name(metric)
    interval: Interval | None
    if _is_binary(theirs) and _is_binary(ours):
        interval, how = paired_share_difference(theirs, ours), AGRESTI_MIN
    else:
        interval, how = paired_mean_difference(theirs, ours), BOOTSTRAP
    drop = float(theirs.mean() - ours.mean())
    said = f"against {reference.where}, {len(ours)} test samples; {how}"
    detail = {
        "reference": float(theirs.mean()),
        "worse": int((ours < theirs).sum()),
        "better": int((ours > theirs).sum()),
    }
    return _measurement("accuracy_drop", drop, interval, (unit, candidate, said), detail)


def agreement(candidate: Answers, reference: Answers, metric: Metric) -> Measurement | None:
    """The share of samples with the same prediction, whatever the label; None where there
    are no predictions to compare.

    A sample with several predictions (pixels, labels) counts with the share that is the
    same.
    """
    ours, theirs = predictions(candidate, metric), predictions(reference, metric)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    # A prediction of -1 stands for NaN, which agrees with nothing.
    same = ((ours == theirs) & (ours >= 0)).reshape(len(ours), -1).mean(axis=1)
    interval, how = _mean(same)
    said = f"same prediction as {reference.where}, {len(same)} test samples; {how}"
    return _measurement(
        "agreement",
        float(same.mean()),
        interval,
        ("share", candidate, said),
        {"different": int((same < 1).sum())},
    )


def predictions(answers: Answers, metric: Metric) -> "Array | None":
    """What the answers predict, as integers: the class (axis 1) for top1 and top5, the sign
    for binary_accuracy.

    -1 where an output is NaN. None for any other metric: real outputs have no prediction
    that could be the same.
    """
    if metric not in ("top1", "top5", "binary_accuracy"):
        return None
    output = single(answers.outputs)
    if metric == "binary_accuracy":
        return numpy.where(numpy.isnan(output), -1, (output > 0).astype("int64"))
    return numpy.where(numpy.isnan(output).any(axis=1), -1, output.argmax(axis=1))


def _is_binary(values: "Array") -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _mean(values: "Array") -> tuple[Interval | None, str]:
    """The interval of a mean, and its name."""
    if _is_binary(values):
        return share_interval(int(values.sum()), len(values)), WILSON
    return mean_interval(values), STUDENT


def _measurement(
    name: MeasurementName,
    value: float,
    interval: Interval | None,
    said: tuple[str, Answers, str],
    detail: Mapping[str, Any] | None = None,
) -> Measurement:
    """The measurement, or an unmeasured one where there is no interval: without one no gate
    can be judged.
    """
    unit, answers, how = said
    n, where = len(answers.scores), answers.where
    if interval is None:
        return unmeasured(name, unit, where, "one sample with a real score has no interval")
    return Measurement(
        name=name,
        value=value,
        low=interval[0],
        high=interval[1],
        unit=unit,
        n=n,
        where=where,
        how=how,
        detail=dict(detail or {}),
    )
