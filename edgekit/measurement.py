"""A number with its unit, its interval, its origin and its verdict.

``QUANTITIES`` describes every quantity that edgekit measures or predicts. A new one is one row
of that table; units, headings, gates and the layout of reports follow from it.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import pydantic

from edgekit.device_worker.rules import judge_interval
from edgekit.errors import unknown
from edgekit.value import Value

Verdict = Literal["pass", "fail", "inconclusive", "unmeasured"]
#: How a value is written: a score in the metric's own unit, a share in percent, a ratio, a
#: time in milliseconds, bytes, a count, a count of multiply-accumulates, or a plain number.
Kind = Literal[
    "score", "share", "ratio", "time", "bytes", "count", "macs", "number"
]


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        heading: in tables and reports.
        unit: of its values.
        kind: how its values are written.
        lower_is_better: a gate is an upper limit; otherwise a lower one.
        predicted: a compiler, published rules or a table report it; no device executes.
        device_only: only the device itself can give it.
        of_the_file: the same wherever the file is executed.
    """

    heading: str
    unit: str
    kind: Kind
    lower_is_better: bool = False
    predicted: bool = False
    device_only: bool = False
    of_the_file: bool = False


QUANTITIES: Mapping[str, Quantity] = {
    "accuracy": Quantity("Accuracy", "score", "score"),
    "accuracy_drop": Quantity(
        "Accuracy lost", "score", "score", lower_is_better=True
    ),
    "agreement": Quantity("Agreement", "share", "share"),
    "parity": Quantity("Parity", "steps", "number", lower_is_better=True),
    "latency_ms": Quantity(
        "Latency", "ms", "time", lower_is_better=True, device_only=True
    ),
    "speedup": Quantity("Speedup", "x", "ratio", device_only=True),
    "size_bytes": Quantity(
        "Size", "bytes", "bytes", lower_is_better=True, of_the_file=True
    ),
    "size_ratio": Quantity("Size ratio", "x", "ratio", of_the_file=True),
    "peak_memory_bytes": Quantity(
        "Peak memory", "bytes", "bytes", lower_is_better=True
    ),
    "int8_mac_share": Quantity("int8 share", "share", "share"),
    "float_ops": Quantity("Float ops", "count", "count", lower_is_better=True),
    "transposes": Quantity(
        "Transposes", "count", "count", lower_is_better=True
    ),
    "qdq_pairs": Quantity("Q/DQ pairs", "count", "count", lower_is_better=True),
    "casts": Quantity("Casts", "count", "count", lower_is_better=True),
    "tpu_mapped_share": Quantity(
        "On the TPU", "share", "share", predicted=True
    ),
    "npu_time_ms": Quantity(
        "NPU time (estimate)",
        "ms",
        "time",
        lower_is_better=True,
        predicted=True,
    ),
    "latency_estimate_ms": Quantity(
        "Latency, estimated", "ms", "time", lower_is_better=True
    ),
    "sram_bytes": Quantity(
        "SRAM", "bytes", "bytes", lower_is_better=True, predicted=True
    ),
    "flash_bytes": Quantity(
        "Flash, DRAM", "bytes", "bytes", lower_is_better=True, predicted=True
    ),
    "cpu_ops": Quantity(
        "Ops on the CPU", "count", "count", lower_is_better=True, predicted=True
    ),
    "parameters": Quantity(
        "Parameters", "count", "count", lower_is_better=True
    ),
    "macs": Quantity("MACs", "count", "macs", lower_is_better=True),
    "loss": Quantity("Loss", "score", "number", lower_is_better=True),
    "bit_equal": Quantity("Bit-equal", "share", "share"),
    "tpu_weight_bytes": Quantity(
        "Weights for the TPU",
        "bytes",
        "bytes",
        lower_is_better=True,
        predicted=True,
    ),
}


def _known_quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise ValueError(unknown("measurement", name, QUANTITIES))
    return name


#: The name of a row of ``QUANTITIES``.
MeasurementName = Annotated[str, pydantic.AfterValidator(_known_quantity)]


class Measurement(Value):
    """One measured number.

    ``low`` and ``high`` are the 95 % interval. ``value`` is None if it could not be taken.
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


def unmeasured(
    name: MeasurementName, unit: str, where: str, why: str
) -> Measurement:
    """A measurement that could not be taken, with the reason."""
    return Measurement(
        name=name,
        value=None,
        unit=unit,
        where=where,
        how=why,
        verdict="unmeasured",
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several: fail, then unmeasured, then inconclusive, then pass.

    No verdict at all is ``unmeasured``.
    """
    present = set(verdicts)
    order: tuple[Verdict, ...] = ("fail", "unmeasured", "inconclusive", "pass")
    return next(
        (verdict for verdict in order if verdict in present), "unmeasured"
    )


def judge(measured: Measurement, limit: float) -> Verdict:
    """Compare a measurement with its gate; its quantity defines whether that is an upper limit."""
    if QUANTITIES[measured.name].lower_is_better:
        return judge_at_most(measured, limit)
    return judge_at_least(measured, limit)


def judge_at_most(measured: Measurement, limit: float) -> Verdict:
    """``pass`` if the entire interval is at or below ``limit``, ``fail`` if all is above."""
    return _judge(measured, limit, at_most=True)


def judge_at_least(measured: Measurement, limit: float) -> Verdict:
    """``pass`` if the entire interval is at or above ``limit``, ``fail`` if all is below."""
    return _judge(measured, limit, at_most=False)


def _judge(measured: Measurement, limit: float, *, at_most: bool) -> Verdict:
    if measured.value is None:
        return "unmeasured"
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    return judge_interval(low, high, limit, at_most=at_most)
