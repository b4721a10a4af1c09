"""Compares a file's outputs and times on one machine with those on another, and judges them.

edgekit and ``verify.py`` in a bundle use the same rules. A row is a measurement as in
report.json: ``name``, ``value``, ``low``, ``high``, ``unit``, ``n``, ``where``, ``how``,
``verdict``, ``detail``. ``facts`` are the ``bundle`` section of a manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from .intervals import median_interval, paired_share_difference
from .rules import judge_interval

if TYPE_CHECKING:
    from .tensors import Array

    Arrays = Mapping[str, Array]
    Facts = Mapping[str, Any]
    Row = dict[str, Any]

#: If a model has several outputs, a named metric reads the one with one of these names.
SCORED = ("output", "logits")


def measurement(
    name: str,
    value: float | None,
    unit: str,
    where: str,
    how: str,
    **details: Any,
) -> Row:
    """One row; ``details`` replace the defaults of the other fields."""
    return {
        "name": name,
        "value": value,
        "low": None,
        "high": None,
        "unit": unit,
        "n": None,
        "where": where,
        "how": how,
        "verdict": None,
        "detail": {},
        **details,
    }


def compare_outputs(
    outputs: Arrays,
    expected: Arrays,
    reference: Arrays,
    facts: Facts,
    where: str,
) -> list[Row]:
    """``parity`` and ``bit_equal``: the distance from the outputs of the same file where it
    was built.

    Passes if the largest difference is at most ``facts["parity_steps"]`` quantization steps
    of the output (``facts["steps"]``), or at most the quantization error of this network
    (the largest distance of ``expected`` from the float ``reference``): the kernels of
    another processor round differently, and a deep network turns one such difference into
    many steps. Outputs with another shape, or not finite, fail.
    """
    n = len(next(iter(expected.values())))
    fault = find_fault(outputs, expected)
    if fault is not None:
        failed = {"n": n, "verdict": "fail", "detail": {"fault": fault}}
        return [
            measurement("parity", None, "output steps", where, fault, **failed)
        ]
    steps = facts["steps"]
    value = _largest_in_steps(outputs, expected, steps)
    quantization_error = _largest_in_steps(reference, expected, steps)
    limit = float(facts["parity_steps"])
    how = (
        "largest difference from the outputs of the same file on"
        f" {facts['where']}, {n} samples"
    )
    if limit < value <= quantization_error:
        how += (
            f"; more than {limit:g} steps, but at most the quantization error of this"
            f" network ({quantization_error:.3g} steps)"
        )
    parity = measurement(
        "parity",
        value,
        "output steps",
        where,
        how,
        n=n,
        verdict="pass" if value <= max(limit, quantization_error) else "fail",
        detail={
            "tolerance": limit,
            "quantization_error": quantization_error,
            "step": dict(steps),
        },
    )
    return [parity, _count_equal(outputs, expected, n, where)]


def _count_equal(outputs: Arrays, expected: Arrays, n: int, where: str) -> Row:
    equal = 0
    total = 0
    for name, array in expected.items():
        equal += int((outputs[name] == array).sum())
        total += array.size
    how = f"{equal} of {total} output values are bit-identical"
    return measurement("bit_equal", equal / total, "share", where, how, n=n)


def compare_accuracy(
    outputs: Arrays,
    reference: Arrays,
    labels: Array | None,
    facts: Facts,
    where: str,
) -> list[Row]:
    """``accuracy`` and ``accuracy_drop`` against the float outputs on the same samples.

    Empty if the metric is not in ``SCORES``, or the labels are not classes of the output.
    """
    metric = str(facts["metric"])
    score = SCORES.get(metric)
    output = _find_scored_output(reference)
    if score is None or labels is None or output is None:
        return []
    scored = outputs[output]
    if scored.shape != reference[output].shape or not _are_classes(
        labels, scored
    ):
        return []
    scores = score(scored, labels)
    float_scores = score(reference[output], labels)
    low, high = paired_share_difference(float_scores, scores)
    limit = facts["gates"].get("accuracy_drop")
    n = len(labels)
    accuracy = measurement(
        "accuracy",
        float(scores.mean()),
        metric,
        where,
        f"mean {metric} of {n} samples of the bundle",
        n=n,
    )
    drop = measurement(
        "accuracy_drop",
        float(float_scores.mean() - scores.mean()),
        metric,
        where,
        f"compared with the float file's outputs on the same {n} samples; paired,"
        " Agresti-Min interval",
        n=n,
        low=low,
        high=high,
        verdict=None if limit is None else judge_interval(low, high, limit),
    )
    return [accuracy, drop]


def _find_scored_output(reference: Arrays) -> str | None:
    for name in SCORED:
        if name in reference:
            return name
    return next(iter(reference)) if len(reference) == 1 else None


def can_time(facts: Facts, on_device: bool) -> bool:
    """Whether times of a file are meaningful: not if a processor replaces the device that
    the file is for.
    """
    return on_device or not facts["stands_in"]


def summarize_times(
    times: Sequence[float],
    reference: Sequence[float] | None,
    facts: Facts,
    where: str,
) -> list[Row]:
    """``latency_ms`` and, if the float file was timed interleaved with it, ``speedup``.

    ``times`` and ``reference`` are nanoseconds per inference, one number per round.
    """
    ours = numpy.asarray(times, dtype="float64")
    rounds = len(ours)
    rows = [
        _median(
            "latency_ms",
            ours / 1e6,
            "ms",
            where,
            f"median of {rounds} rounds, batch 1",
        )
    ]
    if reference is None:
        return rows
    ratios = numpy.asarray(reference, dtype="float64") / ours
    speedup = _median(
        "speedup",
        ratios,
        "x",
        where,
        "the float file's time divided by this file's in the same round,"
        f" median of {rounds} rounds",
    )
    limit = facts["gates"].get("speedup")
    if limit is not None and speedup["low"] is not None:
        speedup["verdict"] = judge_interval(
            speedup["low"], speedup["high"], limit, at_most=False
        )
    return [*rows, speedup]


def combine_verdicts(rows: Sequence[Row]) -> str:
    """One verdict for all rows: one fail fails all; nothing passes unless the outputs were
    compared.

    If the file computes the same here as where it was built, within the tolerated steps, its
    accuracy from there applies here: an accuracy that the few samples of a bundle leave
    inconclusive counts only if the outputs are further apart.
    """
    judged = {row["name"]: row for row in rows if row["verdict"] is not None}
    if any(row["verdict"] == "fail" for row in judged.values()):
        return "fail"
    parity = judged.get("parity")
    if parity is None or parity["verdict"] != "pass" or parity["value"] is None:
        return "unmeasured"
    must_show_accuracy = parity["value"] > parity["detail"].get(
        "tolerance", 0.0
    )
    required = ["speedup"]
    if must_show_accuracy:
        required.append("accuracy_drop")
    for name in required:
        if name in judged and judged[name]["verdict"] == "inconclusive":
            return "inconclusive"
    return "pass"


def _are_classes(labels: Array, outputs: Array) -> bool:
    """Whether every label is the index of a class: outputs (n, classes), labels (n,).

    Not those of an image's positions: their shares of correct ones are no 0/1 scores, which
    the interval requires.
    """
    if outputs.ndim != 2 or labels.dtype.kind not in "iu":
        return False
    if labels.shape != outputs.shape[:1]:
        return False
    return bool(((labels >= 0) & (labels < outputs.shape[1])).all())


def find_fault(outputs: Arrays, expected: Arrays) -> str | None:
    """Return why the outputs cannot be compared, or None."""
    for name, array in expected.items():
        if name not in outputs:
            return f"output {name!r} is missing"
        ours = outputs[name]
        if ours.shape != array.shape:
            return f"{name} has shape {list(ours.shape)}, expected {list(array.shape)}"
        # An infinity that is expected, such as that of a mask, is valid.
        if not (numpy.isfinite(ours) | (ours == array)).all():
            return f"{name} is not finite"
    return None


def _largest_in_steps(
    outputs: Arrays, expected: Arrays, steps: Mapping[str, float]
) -> float:
    """The largest difference over all expected outputs, in their quantization steps."""
    return max(
        largest_difference(outputs[name], array) / steps[name]
        for name, array in expected.items()
    )


def largest_difference(first: Array, second: Array) -> float:
    """Return the largest absolute difference; equal infinities (of a mask) do not differ."""
    differs = first != second
    if not differs.any():
        return 0.0
    difference = first[differs].astype("float64") - second[differs].astype(
        "float64"
    )
    return float(numpy.abs(difference).max())


def _median(name: str, values: Array, unit: str, where: str, how: str) -> Row:
    row = measurement(
        name, float(numpy.median(values)), unit, where, how, n=len(values)
    )
    interval = median_interval(values)
    if interval is not None:
        row["low"], row["high"] = interval
    return row


def score_top_k(outputs: Array, labels: Array, k: int) -> Array:
    """Return for each sample whether its label is among the ``k`` largest outputs: 0 or 1, as
    float64.

    Outputs (n, classes), labels (n,). With more axes, such as (n, classes, height, width) and
    (n, height, width), the share of correct positions. Of equal outputs the one with the
    smaller index ranks first; a position with NaN is not correct.
    """
    classes = outputs.shape[1]
    label_index = numpy.expand_dims(labels, 1)
    label_output = numpy.take_along_axis(outputs, label_index, axis=1)
    index = numpy.arange(classes).reshape(1, classes, *[1] * (outputs.ndim - 2))
    tied_before = (outputs == label_output) & (index < label_index)
    rank = ((outputs > label_output) | tied_before).sum(axis=1)
    correct = (rank < k) & ~numpy.isnan(outputs).any(axis=1)
    shares: Array = (
        correct.reshape(len(correct), -1).astype("float64").mean(axis=1)
    )
    return shares


def score_top1(outputs: Array, labels: Array) -> Array:
    """``score_top_k`` with k = 1."""
    return score_top_k(outputs, labels, 1)


def score_top5(outputs: Array, labels: Array) -> Array:
    """``score_top_k`` with k = 5."""
    return score_top_k(outputs, labels, 5)


#: The metrics with a 0/1 score per sample: outputs (n, classes) and labels (n,) to scores
#: (n,).
SCORES: Mapping[str, Callable[[Array, Array], Array]] = {
    "top1": score_top1,
    "top5": score_top5,
}
