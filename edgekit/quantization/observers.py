"""Observers: how the range of a tensor is found during calibration.

Every observer uses constant memory, whatever the number of samples.
"""

from collections.abc import Callable
from typing import Any

import torch

from edgekit.quantization.pt2e import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)
from edgekit.scheme import Observer

#: The smallest scale: a tensor that is always zero must not divide by zero (the kernels of
#: TFLite and XNNPACK require a bound of about this size).
EPSILON = 2.0**-16
#: The share of the values that "percentile" ignores at each end.
_TAIL = 0.5e-4
#: The weight of each new batch in a moving average.
_AVERAGING = 0.1


class PercentileObserver(HistogramObserver):  # type: ignore[misc]
    """The range of the middle 99.99 % of all values, from a running histogram of 2,048 bins."""

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The lowest and highest value of the range; called by torchao."""
        share = torch.cumsum(self.histogram.double(), 0)
        share = share / share[-1]
        width = (self.max_val - self.min_val) / self.bins
        first = int((share <= _TAIL).sum())
        last = int((share < 1 - _TAIL).sum())
        low = self.min_val + width * first
        high = self.min_val + width * min(last + 1, self.bins)
        return low, high


_CONSTRUCTORS: dict[Observer, Callable[..., Any]] = {
    "histogram": HistogramObserver.with_args(eps=EPSILON),
    "min-max": MinMaxObserver.with_args(eps=EPSILON),
    "percentile": PercentileObserver.with_args(eps=EPSILON),
    "moving-average": MovingAverageMinMaxObserver.with_args(
        eps=EPSILON, averaging_constant=_AVERAGING
    ),
}


def activation_observer(observer: Observer) -> Callable[..., Any]:
    """The constructor of the observer for an activation."""
    return _CONSTRUCTORS[observer]


def constant_observer() -> Callable[..., Any]:
    """The constructor of the observer for a constant operand: its minimum and maximum."""
    return _CONSTRUCTORS["min-max"]


def weight_observer(per_channel: bool) -> Callable[..., Any]:
    """The constructor of the observer for a weight, per-channel or per-tensor."""
    observer = PerChannelMinMaxObserver if per_channel else MinMaxObserver
    constructor: Callable[..., Any] = observer.with_args(eps=EPSILON)
    return constructor
