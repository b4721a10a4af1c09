"""How ranges are found.

Every observer needs the same memory after a thousand samples as after one.
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

#: The smallest scale: a tensor that is always zero must not divide by zero (TFLite's and
#: XNNPACK's kernels ask for about as much).
EPSILON = 2.0**-16
#: The share of the numbers that percentile leaves out at each end.
_TAIL = 0.5e-4
#: How much of each new batch goes into a moving average.
_NEW = 0.1


class PercentileObserver(HistogramObserver):  # type: ignore[misc]
    """The range of the middle 99.99 % of all numbers, read from a running histogram of
    2,048 bins.
    """

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by torchao for the lowest and highest number of the range."""
        share = torch.cumsum(self.histogram.double(), 0)
        share = share / share[-1]
        width = (self.max_val - self.min_val) / self.bins
        first, last = int((share <= _TAIL).sum()), int((share < 1 - _TAIL).sum())
        return self.min_val + width * first, self.min_val + width * min(last + 1, self.bins)


_MAKERS: dict[Observer, Callable[..., Any]] = {
    "histogram": HistogramObserver.with_args(eps=EPSILON),
    "min-max": MinMaxObserver.with_args(eps=EPSILON),
    "percentile": PercentileObserver.with_args(eps=EPSILON),
    "moving-average": MovingAverageMinMaxObserver.with_args(
        eps=EPSILON, averaging_constant=_NEW
    ),
}


def activation_observer(observer: Observer) -> Callable[..., Any]:
    """What makes the observer of an activation."""
    return _MAKERS[observer]


def constant_observer() -> Callable[..., Any]:
    """What makes the observer of a constant operand: its own lowest and highest number."""
    return _MAKERS["min-max"]


def weight_observer(per_channel: bool) -> Callable[..., Any]:
    """What makes the observer of a weight."""
    made: Callable[..., Any] = (
        PerChannelMinMaxObserver if per_channel else MinMaxObserver
    ).with_args(eps=EPSILON)
    return made
