"""Whether a file computes on one machine what it computed on another, and what that is
worth: the same rules everywhere.

A row is a measurement as in report.json: ``name``, ``value``, ``low``, ``high``, ``unit``,
``n``, ``where``, ``how``, ``verdict``, ``detail``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from .intervals import median_interval, paired_share_difference

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Arrays = Mapping[str, Array]
    Row = dict[str, Any]

#: Where a model has several outputs, a named metric reads the one with one of these names.
SCORED = ("output", "logits")


def row(
    name: str, value: float | None, unit: str, where: str, how: str, **more: Any
) -> Row:
    """One measurement."""
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
        **more,
    }


def parity(
    ours: Arrays, expected: Arrays, reference: Arrays, facts: Mapping[str, Any], where: str
) -> list[Row]:
    """``parity`` and ``bit_equal``: how far the outputs are from those that the same file
    gave where it was made.

    Pass where the largest difference is at most ``facts["parity_steps"]`` steps of the
    output (``facts["steps"]``), or is smaller than what quantization itself moved there
    (the largest distance of ``expected`` from the float ``reference``): kernels of another
    processor round otherwise, and a deep network turns one flipped rounding into many
    steps. A file that gives another shape, or numbers that are not finite, fails.
    """
    n, steps = len(next(iter(expected.values()))), facts["steps"]
    fault = next(
        (said for name in expected for said in [_fault(name, ours, expected)] if said), None
    )
    if fault is not None:
        return [
            row(
                "parity",
                None,
                "output steps",
                where,
                fault,
                n=n,
                verdict="fail",
                detail={"fault": fault},
            )
        ]
    value = max(_largest(ours[name], expected[name]) / steps[name] for name in expected)
    own = max(_largest(expected[name], reference[name]) / steps[name] for name in expected)
    limit = float(facts["parity_steps"])
    how = f"largest difference from the outputs of the same file on {facts['where']}, {n} samples"
    if limit < value <= own:
        how += f"; more than {limit:g} steps, but less than quantization itself moves this network ({own:.3g})"
    equal = sum(int((ours[name] == expected[name]).sum()) for name in expected)
    total = sum(expected[name].size for name in expected)
    detail = {"tolerance": limit, "own_error": own, "step": dict(steps)}
    return [
        row(
            "parity",
            value,
            "output steps",
            where,
            how,
            n=n,
            verdict="pass" if value <= max(limit, own) else "fail",
            detail=detail,
        ),
        row(
            "bit_equal",
            equal / total,
            "share",
            where,
            f"{equal} of {total} output numbers are the same to the last bit",
            n=n,
        ),
    ]


def accuracy(
    ours: Arrays,
    reference: Arrays,
    labels: Array | None,
    facts: Mapping[str, Any],
    where: str,
) -> list[Row]:
    """``accuracy`` and ``accuracy_drop`` against the float outputs on the same samples;
    nothing where the metric is not one of ``SCORES``.
    """
    score = SCORES.get(str(facts["metric"]))
    output = next(
        (
            name
            for name in (*SCORED, *reference)
            if name in reference and (name in SCORED or len(reference) == 1)
        ),
        None,
    )
    if (
        score is None
        or labels is None
        or output is None
        or ours[output].shape != reference[output].shape
    ):
        return []
    if not _are_classes(labels, ours[output]):
        return []
    mine, theirs = score(ours[output], labels), score(reference[output], labels)
    low, high = paired_share_difference(theirs, mine)
    limit, unit, n = facts["gates"].get("accuracy_drop"), str(facts["metric"]), len(labels)
    verdict = (
        None
        if limit is None
        else "pass"
        if high <= limit
        else "fail"
        if low > limit
        else "inconclusive"
    )
    how = f"against the float file's outputs on the same {n} samples; paired, Agresti-Min interval"
    return [
        row(
            "accuracy",
            float(mine.mean()),
            unit,
            where,
            f"mean {unit} of {n} samples of the bundle",
            n=n,
        ),
        row(
            "accuracy_drop",
            float(theirs.mean() - mine.mean()),
            unit,
            where,
            how,
            n=n,
            low=low,
            high=high,
            verdict=verdict,
        ),
    ]


def may_time(facts: Mapping[str, Any], on_device: bool) -> bool:
    """Whether times of a file say anything: not where a processor stands in for the device
    that the file is for.
    """
    return on_device or not facts["stands_in"]


def times(
    ours: Sequence[float],
    reference: Sequence[float] | None,
    facts: Mapping[str, Any],
    where: str,
) -> list[Row]:
    """``latency_ms`` and, where the float file was timed in turns with it, ``speedup``;
    from nanoseconds, a number a round.
    """
    how = f"median of {len(ours)} rounds, batch 1"
    found = [
        _median("latency_ms", numpy.asarray(ours, dtype="float64") / 1e6, "ms", where, how)
    ]
    if reference is not None:
        ratio = numpy.asarray(reference, dtype="float64") / numpy.asarray(
            ours, dtype="float64"
        )
        speed = _median(
            "speedup",
            ratio,
            "x",
            where,
            f"the float file's time by this file's in the same round, {len(ours)} rounds",
        )
        limit = facts["gates"].get("speedup")
        if limit is not None and speed["low"] is not None:
            speed["verdict"] = (
                "pass"
                if speed["low"] >= limit
                else "fail"
                if speed["high"] < limit
                else "inconclusive"
            )
        found.append(speed)
    return found


def verdict(rows: Sequence[Row]) -> str:
    """One verdict: a fail beats all; nothing passes where no output was compared.

    Where the file computes here what it computed there, within its steps, its accuracy
    there holds here: an accuracy that the few samples of a bundle leave inconclusive counts
    only where the outputs are further apart.
    """
    found = {row["name"]: row for row in rows if row["verdict"] is not None}
    parity, drop, speed = (
        found.get(name) for name in ("parity", "accuracy_drop", "speedup")
    )
    if any(row["verdict"] == "fail" for row in found.values()):
        return "fail"
    if parity is None or parity["verdict"] != "pass" or parity["value"] is None:
        return "unmeasured"
    apart = parity["value"] > parity["detail"].get("tolerance", 0.0)
    unsure = (apart and drop is not None and drop["verdict"] == "inconclusive") or (
        speed is not None and speed["verdict"] == "inconclusive"
    )
    return "inconclusive" if unsure else "pass"


def _are_classes(labels: Array, outputs: Array) -> bool:
    """Whether every label is the number of a class of its output."""
    shaped = (
        outputs.ndim > 1
        and labels.shape == outputs.shape[:1] + outputs.shape[2:]
        and labels.dtype.kind in "iu"
    )
    return shaped and bool(((labels >= 0) & (labels < outputs.shape[1])).all())


def _fault(name: str, ours: Arrays, expected: Arrays) -> str | None:
    if name not in ours:
        return f"there is no output {name!r}"
    if ours[name].shape != expected[name].shape:
        return (
            f"{name} has shape {list(ours[name].shape)}, not {list(expected[name].shape)}"
        )
    if not (numpy.isfinite(ours[name]) | (ours[name] == expected[name])).all():
        return f"{name} is not finite"
    return None


def _largest(ours: Array, theirs: Array) -> float:
    """The largest difference; equal infinities (of a mask) differ by nothing."""
    differing = ours != theirs
    if not differing.any():
        return 0.0
    return float(
        numpy.abs(
            ours[differing].astype("float64") - theirs[differing].astype("float64")
        ).max()
    )


def _median(name: str, values: Array, unit: str, where: str, how: str) -> Row:
    interval = median_interval(values)
    low, high = (None, None) if interval is None else interval
    return row(
        name,
        float(numpy.median(values)),
        unit,
        where,
        how,
        n=len(values),
        low=low,
        high=high,
    )


def _top(count: int) -> Callable[[Array, Array], Array]:
    def score(outputs: Array, labels: Array) -> Array:
        own = numpy.take_along_axis(outputs, numpy.expand_dims(labels, 1), axis=1)
        index = numpy.arange(outputs.shape[1]).reshape(1, -1)
        before = ((outputs > own) | ((outputs == own) & (index < labels[:, None]))).sum(
            axis=1
        )
        found: Array = (before < count) & ~numpy.isnan(outputs).any(axis=1)
        return found.astype("float64")

    return score


#: The metrics that give right or wrong for a sample: outputs (n, classes) and labels (n,)
#: to scores (n,).
SCORES: Mapping[str, Callable[[Array, Array], Array]] = {"top1": _top(1), "top5": _top(5)}
