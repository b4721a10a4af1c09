"""A number with its unit, its interval, where it was taken and how; and what follows from
it.
"""

from collections.abc import Iterable
from typing import Any, Literal

import pydantic

from edgekit.value import Value

Verdict = Literal["pass", "fail", "inconclusive", "unmeasured"]
MeasurementName = Literal[
    "accuracy",
    "accuracy_drop",
    "agreement",
    "parity",
    "latency_ms",
    "speedup",
    "size_bytes",
    "size_ratio",
    "peak_memory_bytes",
    "int8_mac_share",
    "float_ops",
    "transposes",
    "qdq_pairs",
    "casts",
    "tpu_mapped_share",
    "npu_time_ms",
    "latency_estimate_ms",
    "sram_bytes",
    "flash_bytes",
    "cpu_ops",
    "parameters",
    "macs",
    "loss",
    "bit_equal",
    "tpu_weight_bytes",
]


class Measurement(Value):
    """One measured number.

    ``low`` and ``high`` are the 95 % interval; ``value`` is None where it could not be
    taken.
    """

    name: MeasurementName
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str
    n: int | None = None
    where: str
    how: str
    verdict: Verdict | None = None
    detail: dict[str, Any] = pydantic.Field(default_factory=dict)


def unmeasured(name: MeasurementName, unit: str, where: str, why: str) -> Measurement:
    """The measurement that could not be taken, and why."""
    return Measurement(
        name=name, value=None, unit=unit, where=where, how=why, verdict="unmeasured"
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several: a fail beats all, then unmeasured, then inconclusive;
    nothing at all is unmeasured.
    """
    found = list(verdicts)
    order: tuple[Verdict, ...] = ("fail", "unmeasured", "inconclusive", "pass")
    return next((verdict for verdict in order if verdict in found), "unmeasured")


def judge_at_most(measured: Measurement, limit: float) -> Verdict:
    """pass where the whole interval lies at or below ``limit``, fail where all of it lies
    above, else inconclusive.
    """
    if measured.value is None:
        return "unmeasured"
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    return "pass" if high <= limit else "fail" if low > limit else "inconclusive"


def judge_at_least(measured: Measurement, limit: float) -> Verdict:
    """pass where the whole interval lies at or above ``limit``, fail where all of it lies
    below, else inconclusive.
    """
    if measured.value is None:
        return "unmeasured"
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    return "pass" if low >= limit else "fail" if high < limit else "inconclusive"
